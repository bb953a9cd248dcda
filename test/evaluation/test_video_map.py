import numpy as np
import per_box_loop as loop
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma_core.evaluation.tubes import Tubes, tube_iou, tube_nms
from amma_core.evaluation.video_map import video_curves, video_map

BOX = (0, 0, 9, 9)
HALF = (0, 0, 4, 9)  # IoU with BOX: 0.5
FAR = (50, 50, 59, 59)


def still(first, last, box=BOX):
    """The same box on the frames first to last, both included."""
    return [(frame, *box) for frame in range(first, last + 1)]


def tubes(*entries):
    """(video, label, score, boxes) each."""
    return Tubes.of(entries)


def iou(a, b):
    return tube_iou(tubes((0, 0, 1, a)), tubes((0, 0, 1, b)), np.array([0]), np.array([0])).item()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (still(1, 4), still(1, 4), 1),
        (still(1, 4), still(1, 4, HALF), 1 / 2),
        (still(1, 4), still(3, 6), 2 / 6),  # both ends of a time span count
        (still(1, 4), still(4, 4), 1 / 4),
        (still(1, 4), still(5, 8), 0),
        (still(1, 2) + still(3, 4, FAR), still(1, 4), 1 / 2),
        (still(1, 4), still(3, 6, HALF), 2 / 6 / 2),
        ([(1, *BOX), (3, *BOX)], still(1, 3), 1),  # a gap: the frames that both have, within the spans
        ([(1, *BOX), (3, *BOX)], [(2, *BOX)], 0),
    ],
)
def test_spatio_temporal_iou(a, b, expected):
    assert iou(a, b) == pytest.approx(expected)
    assert iou(b, a) == pytest.approx(expected)


def test_nms_per_video_and_class():
    found = tubes(
        (0, 0, 0.5, still(1, 4)),  # repeats the next one
        (0, 0, 0.9, still(1, 4)),
        (0, 1, 0.4, still(1, 4)),  # another class
        (1, 0, 0.3, still(1, 4)),  # another video
        (0, 0, 0.2, still(4, 10)),  # IoU 1/10 with the first
        (0, 0, 0.1, still(5, 11)),  # repeats the one above: IoU 6/8
    )
    assert tube_nms(found, 0.3).tolist() == [1, 2, 3, 4]


def test_nms_keeps_what_only_a_dropped_tube_overlaps():
    chain = tubes((0, 0, 0.9, still(1, 10)), (0, 0, 0.8, still(6, 15)), (0, 0, 0.7, still(11, 20)))
    assert tube_nms(chain, 0.3).tolist() == [0, 2]  # neighbours share 5 of 15 frames
    assert tube_nms(chain, 1 / 3).tolist() == [0, 1, 2]  # at the threshold, not above


def test_equal_tubes_the_first_stays():
    twins = tubes((0, 0, 0.5, still(2, 5)), (0, 0, 0.5, still(1, 5)), (0, 0, 0.5, still(1, 5)))
    assert tube_nms(twins, 0.3).tolist() == [1]


def test_video_map_by_hand():
    truth = tubes((0, 0, 1, still(1, 10)), (1, 0, 1, still(1, 10)))
    found = tubes(
        (0, 0, 0.9, still(1, 10)),
        (0, 0, 0.8, still(1, 10, FAR)),  # wrong
        (1, 0, 0.7, still(1, 6)),  # IoU 0.6
    )
    # Trapezoid, as in frame-mAP: half of it at 1, half at the mean of 1/2 and 2/3.
    assert video_map(found, truth, 1, 0.6) == pytest.approx(100 * (0.5 + 0.5 * (1 / 2 + 2 / 3) / 2))
    assert video_map(found, truth, 1, 0.65) == 50


def test_a_true_tube_is_found_once():
    truth = tubes((0, 0, 1, still(1, 10)))
    found = tubes((0, 0, 0.9, still(1, 5)), (0, 0, 0.8, still(6, 10)))
    (curve,) = video_curves(found, truth, 1, [0.5])[0]
    assert curve.precision.tolist() == [1, 1, 0.5]


def test_nothing_found_and_nothing_to_find():
    truth = tubes((0, 0, 1, still(1, 3)))
    assert video_map(tubes(), truth, 2) == 0
    assert video_map(truth, truth, 2) == 100
    assert np.isnan(video_map(truth, tubes(), 2))


FRAMES = st.tuples(st.integers(1, 6), st.integers(0, 5)).map(lambda span: (span[0], span[0] + span[1]))
BOXES = st.sampled_from([BOX, HALF, FAR, (2, 0, 11, 9), (0, 0, 9, 6)])
TUBE = st.tuples(FRAMES, BOXES, BOXES).map(
    lambda t: [(f, *(t[1] if f % 2 else t[2])) for f in range(t[0][0], t[0][1] + 1)]
)
TUBES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 4).map(lambda i: i / 4), TUBE), max_size=8
)


@given(TUBES, TUBES, st.sampled_from([0.2, 0.5, 0.75]))
def test_agrees_with_the_per_box_loop(found, truth, threshold):
    for label, curve in enumerate(video_curves(Tubes.of(found), Tubes.of(truth), 2, [threshold])[0]):
        expected = loop.video_class(found, truth, label, threshold)
        assert curve.ap == pytest.approx(np.nan if expected is None else expected, abs=1e-9, nan_ok=True)


@given(TUBES, TUBES, st.randoms())
def test_bounds_and_order(found, truth, random):
    found = [(video, label, i / 8, boxes) for i, (video, label, _, boxes) in enumerate(found)]  # no ties
    before = video_curves(Tubes.of(found), Tubes.of(truth), 2, [0.5])[0]
    random.shuffle(found)
    after = video_curves(Tubes.of(found), Tubes.of(truth), 2, [0.5])[0]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.precision, b.precision)
        assert not a.positives or 0 <= a.ap <= 100 + 1e-9
