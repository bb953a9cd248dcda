import numpy as np
import pytest

from amma_core.boxes import iou
from amma_core.training.augmentation import (
    FILL,
    Augmentation,
    Scene,
    View,
    blend,
    change_colours,
    draw_view,
    move_boxes,
    paste,
    show,
)


def picture(width: int = 32, height: int = 24) -> np.ndarray:
    """A smooth picture, so that resizing by any route gives nearly the same."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([4 * x, 6 * y, 2 * x + 3 * y], axis=-1).astype(np.uint8)[None]


def test_boxes_follow_a_crop():
    # 8 x 4 pixels from (2, 1) become 16 x 16 cells: 2 cells per pixel across, 4 down.
    moved = move_boxes(np.array([4.0, 2.0, 6.0, 3.0]), View(2, 1, 10, 5, False), 16)
    assert moved.tolist() == [4, 4, 8, 8]


def test_boxes_follow_a_mirrored_crop():
    moved = move_boxes(np.array([4.0, 2.0, 6.0, 3.0]), View(2, 1, 10, 5, True), 16)
    assert moved.tolist() == [8, 4, 12, 8]


def test_mirroring_takes_x_to_width_minus_x():
    moved = move_boxes(np.array([[10.0, 5.0, 110.0, 200.0]]), View(0, 0, 320, 240, True), 320)
    assert moved[0, [0, 2]].tolist() == [210, 310]


def test_pixels_and_boxes_move_together():
    image = np.zeros((1, 24, 32, 3), np.uint8)
    image[0, 8:16, 4:12] = 255  # covers x 4..12, y 8..16
    for view in (
        View(0, 0, 32, 24, False),
        View(2, 4, 26, 20, False),
        View(2, 4, 26, 20, True),
        View(-8, -6, 40, 30, True),
    ):
        seen = (
            show(image, view, 96)[0, :, :, 0].astype(float) - show(np.zeros_like(image), view, 96)[0, :, :, 0]
        )
        x1, y1, x2, y2 = move_boxes(np.array([4.0, 8.0, 12.0, 16.0]), view, 96)
        rows, columns = np.nonzero(seen > 127)
        # Edges lie where the interpolated step passes the middle: within one output pixel.
        np.testing.assert_allclose(
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [x1, y1, x2, y2], atol=1.0
        )


def test_the_whole_image_is_shown_as_the_detector_resizes_it():
    import cv2

    whole = show(picture(), View(0, 0, 32, 24, False), 16)[0]
    assert (whole == cv2.resize(picture()[0], (16, 16))).all()


def test_a_crop_is_what_resizing_the_cut_out_part_gives():
    import cv2

    crop = show(picture(), View(4, 8, 20, 16, False), 32)[0].astype(int)
    expected = cv2.resize(picture()[0, 8:16, 4:20], (32, 32)).astype(int)
    assert np.abs(crop - expected)[4:-4, 4:-4].max() <= 2  # the margin sees neighbours that a cut image lacks


def test_around_the_image_there_is_the_mean_colour():
    wide = show(picture(), View(-32, -24, 64, 48, False), 32)[0]
    assert (wide[0, 0] == FILL).all()
    assert (wide[-1, -1] == FILL).all()


def test_no_augmentation_shows_everything():
    rng = np.random.default_rng(0)
    assert draw_view(rng, Augmentation.none(), 320, 240, np.zeros((0, 2, 4))) == View(0, 0, 320, 240, False)
    frames = picture()
    assert (change_colours(rng, Augmentation.none(), frames) == frames).all()


def test_crops_keep_an_action_and_their_limits():
    settings = Augmentation(flip=0.5, expand=0.0)
    boxes = np.array([[[200.0, 100, 260, 220], [210, 100, 270, 220]]])
    rng = np.random.default_rng(1)
    views = [draw_view(rng, settings, 320, 240, boxes) for _ in range(300)]
    corners = np.array([view[:4] for view in views])
    sides = corners[:, 2:] - corners[:, :2]
    assert (corners[:, :2] >= 0).all()
    assert (corners[:, 2:] <= [320 + 1e-9, 240 + 1e-9]).all()
    assert (sides >= [0.3 * 320 - 1e-9, 0.3 * 240 - 1e-9]).all()
    assert 0.4 < np.mean([view.mirrored for view in views]) < 0.6
    centre = (boxes[..., :2] + boxes[..., 2:]).mean((0, 1)) / 2
    assert (corners[:, :2] < centre).all()
    assert (corners[:, 2:] > centre).all()
    assert len({view[:4] for view in views}) > 100


def test_expansion_puts_the_image_anywhere_on_a_canvas_up_to_twice_as_large():
    settings = Augmentation(expand=1.0, crop=0.0)
    rng = np.random.default_rng(2)
    for _ in range(50):
        view = draw_view(rng, settings, 320, 240, np.zeros((0, 1, 4)))
        assert view.x1 <= 0
        assert view.y1 <= 0
        assert view.x2 >= 320
        assert view.y2 >= 240
        ratio = (view.x2 - view.x1) / 320
        assert 1 <= ratio <= 2
        assert (view.y2 - view.y1) / 240 == pytest.approx(ratio)
    assert iou(np.array(view[:4]), np.array([0.0, 0, 320, 240])) == pytest.approx(1 / ratio**2)


def test_colours_change_in_the_same_way_on_all_frames():
    frames = np.repeat(picture(), 3, axis=0)
    changed = change_colours(np.random.default_rng(3), Augmentation(photometric=1.0), frames)
    assert (changed == changed[:1]).all()
    assert (changed != frames).any()


def test_brightness_alone_adds_the_same_everywhere():
    settings = Augmentation(photometric=1.0, contrast=0.0, saturation=0.0, hue=0.0, brightness=20.0)
    grey = np.full((1, 4, 4, 3), 100, np.uint8)
    rng = np.random.default_rng(4)
    seen = {int(change_colours(rng, settings, grey)[0, 0, 0, 0]) for _ in range(100)}
    assert min(seen) >= 80
    assert max(seen) <= 120
    assert len(seen) > 10


def test_hue_turns_red_and_keeps_grey():
    settings = Augmentation(photometric=1.0, contrast=0.0, saturation=0.0, brightness=0.0, hue=18.0)
    image = np.array([[[[0, 0, 200], [90, 90, 90]]]], np.uint8)
    rng = np.random.default_rng(5)
    changed = [change_colours(rng, settings, image)[0, 0] for _ in range(20)]
    assert all((grey == 90).all() for _, grey in changed)
    assert any((red != image[0, 0, 0]).any() for red, _ in changed)
    assert all(red[2] == 200 for red, _ in changed)  # within 18 degrees of red, red leads


def scene(value: int, box: tuple, present: bool = True) -> Scene:
    """A flat grey picture of 20 x 20 with one action, of class `value`, that stands still."""
    images = np.full((3, 20, 20, 3), value, np.uint8)
    boxes = np.tile(np.array(box, float), (1, 2, 1))
    return Scene(images, np.array([value]), boxes, np.full((1, 2), present))


def test_pasting_copies_the_actors_rectangle_and_keeps_both_actions():
    both = paste(scene(1, (0.0, 0.0, 0.4, 0.4)), scene(2, (0.5, 0.5, 1.0, 0.7)))
    # A tenth of its sides around the box: from 0.45 to the border, and from 0.48 to 0.72.
    expected = np.full((20, 20), 1)
    expected[10:14, 9:20] = 2
    np.testing.assert_array_equal(both.images[..., 0], np.tile(expected, (3, 1, 1)))
    assert both.labels.tolist() == [1, 2]
    assert both.boxes[:, 0].tolist() == [[0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 0.7]]
    assert both.present.all()


def test_an_action_that_is_pasted_over_does_not_count():
    covered = paste(scene(1, (0.5, 0.5, 0.9, 0.9)), scene(2, (0.4, 0.4, 0.9, 0.7)))
    assert covered.labels.tolist() == [2]


@pytest.mark.filterwarnings("error")
def test_pasting_over_an_empty_box():
    assert len(paste(scene(1, (0.5, 0.5, 0.5, 0.9)), scene(2, (0.4, 0.4, 0.9, 0.7))).labels) == 2


def test_nothing_is_pasted_of_a_scene_without_actions():
    onto = scene(1, (0.0, 0.0, 0.4, 0.4))
    assert paste(onto, scene(2, (0.5, 0.5, 1.0, 0.7), present=False)) is onto


def test_blending_shows_both_scenes_and_keeps_both_actions():
    both = blend(scene(100, (0.0, 0.0, 0.4, 0.4)), scene(200, (0.1, 0.1, 0.4, 0.4)), share=0.4)
    assert (both.images == 140).all()
    assert both.labels.tolist() == [100, 200]
    assert both.boxes[:, 0].tolist() == [[0.0, 0.0, 0.4, 0.4], [0.1, 0.1, 0.4, 0.4]]


def test_grey_takes_all_colour_and_leaves_light():
    settings = Augmentation(photometric=0.0, grey=1.0)
    changed = change_colours(np.random.default_rng(6), settings, picture())
    np.testing.assert_array_equal(changed, np.repeat(picture().max(axis=-1, keepdims=True), 3, axis=-1))
