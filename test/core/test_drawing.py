import numpy as np
import pytest

from amma_core.drawing import Annotator, colour

GREY = 128


def draw(size, boxes, labels=None, scores=None, tubes=None, annotator=None):
    image = np.full((size[1], size[0], 3), GREY, np.uint8)
    count = len(boxes)
    drawn = (annotator or Annotator()).draw(
        image,
        np.array(boxes, np.float32).reshape(-1, 4),
        labels or ["walk"] * count,
        np.array(scores if scores is not None else [0.5] * count, np.float32),
        tubes or list(range(1, count + 1)),
    )
    assert (image == GREY).all(), "the image given is not touched"
    return drawn


def test_nothing_to_draw_leaves_the_image_alone():
    assert (draw((320, 240), []) == GREY).all()


def test_a_box_is_drawn_where_it_is_in_its_colour():
    drawn = draw((320, 240), [[100, 80, 200, 180]], tubes=[7])
    for point in [(130, 100), (130, 200), (180, 150)]:
        assert tuple(drawn[point]) == colour(7)
    assert (drawn[100:160, 120:180] == GREY).all()


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080)])
def test_the_caption_stands_above_the_box_where_there_is_room(size):
    w, h = size
    drawn = draw(size, [[w / 4, h / 2, w / 2, h * 0.9]])
    above = drawn[: h // 2 - 3, :]
    assert (above != GREY).any()
    assert (drawn[int(h * 0.6) : int(h * 0.8), int(w * 0.3) : int(w * 0.45)] == GREY).all()
    rows = np.flatnonzero((above != GREY).any(axis=(1, 2)))
    assert 10 * h / 240 / 2 < len(rows) < h / 8, "readable, and not in the way"


def test_the_caption_moves_below_or_inside_where_there_is_none_above():
    below = draw((320, 240), [[50, 0, 150, 120]])
    assert (below[125:, :] != GREY).any()
    inside = draw((320, 240), [[50, 0, 150, 239]])
    assert (inside[5:20, 60:120] != GREY).any()


def test_captions_of_one_person_do_not_cover_each_other():
    box = [100, 120, 200, 220]
    one = draw((320, 240), [box], scores=[0.9], tubes=[1])
    two = draw((320, 240), [box, box], scores=[0.9, 0.8], tubes=[1, 2], labels=["walk", "run"])
    caption = (one[:115] != GREY).any(axis=2)
    assert np.array_equal(two[:115][caption], one[:115][caption])
    assert ((two[:115] != GREY).any(axis=2) & ~caption).any()


def test_trails_follow_a_tube_and_are_forgotten():
    annotator = Annotator(trail=30)
    for step in range(10):
        drawn = draw((320, 240), [[20 + 20 * step, 100, 60 + 20 * step, 180]], tubes=[3], annotator=annotator)
    assert np.allclose(drawn[140, 100], colour(3), atol=30)  # a thin line is blended with what is under it
    drawn = draw((320, 240), [], annotator=annotator)
    assert annotator._paths == {}
    assert (drawn == GREY).all()


@pytest.mark.parametrize("between", [[], [[150, 150, 170, 190]] * 2])
def test_no_trail_leads_across_a_gap_or_through_boxes_of_one_id(between):
    annotator = Annotator(trail=30, caption="")
    box = np.array([10, 10, 50, 50])
    for step in range(3):
        draw((320, 240), [box + 2 * step], tubes=[3], annotator=annotator)
    draw((320, 240), between, tubes=[3] * len(between), annotator=annotator)
    drawn = draw((320, 240), [box + 180], tubes=[3], annotator=annotator)
    assert np.array_equal(drawn, draw((320, 240), [box + 180], tubes=[3], annotator=Annotator(caption="")))


def test_boxes_of_one_id_in_one_frame_have_no_trail():
    annotator, boxes = Annotator(caption=""), [[10, 10, 50, 50], [200, 150, 240, 190]]
    for _ in range(2):
        drawn = draw((320, 240), boxes, tubes=[3, 3], annotator=annotator)
    assert (drawn[60:140, 60:190] == GREY).all()


def test_a_trail_of_no_length_is_not_drawn():
    annotator = Annotator(trail=0)
    for step in range(5):
        drawn = draw((320, 240), [[20 + 20 * step, 100, 60 + 20 * step, 180]], annotator=annotator)
    assert tuple(drawn[140, 60]) == (GREY, GREY, GREY)


def test_ids_that_follow_each_other_differ_in_colour():
    colours = np.array([colour(tube) for tube in range(1, 9)], float)
    distances = np.abs(colours[1:] - colours[:-1]).sum(axis=1)
    assert distances.min() > 100
