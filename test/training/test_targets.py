import numpy as np
import pytest

from amma_core.training.targets import draw_gaussian, gaussian_radius, join, radius_bound, window_targets


@pytest.mark.parametrize(
    ("width", "height", "bound", "radius"),
    [(4, 4, 1.0933, 1), (10, 6, 2.0605, 2), (20, 12, 4.1209, 4), (36, 36, 9.8395, 9)],
)
def test_radius_of_the_reference_boxes(width, height, bound, radius):
    assert radius_bound(width, height) == pytest.approx(bound, abs=5e-5)
    assert gaussian_radius(width, height) == radius


def test_a_tiny_box_has_radius_zero():
    assert gaussian_radius(1, 1) == 0


def test_gaussian_of_radius_one_is_one_at_the_cell_and_falls_off_with_sigma_one_half():
    heat = np.zeros((5, 5), np.float32)
    draw_gaussian(heat, np.array([2, 1]), 1)
    side, corner = np.exp(-2), np.exp(-4)  # exp(-d^2 / (2 * 0.5^2)) for d^2 = 1, 2
    expected = np.zeros((5, 5))
    expected[0:3, 1:4] = [[corner, side, corner], [side, 1, side], [corner, side, corner]]
    np.testing.assert_allclose(heat, expected, atol=1e-6)


def test_gaussian_is_cut_off_at_the_border():
    heat = np.zeros((4, 4), np.float32)
    draw_gaussian(heat, np.array([0, 3]), 1)
    assert heat[3, 0] == 1
    np.testing.assert_allclose(heat[2, :2], [np.exp(-2), np.exp(-4)], atol=1e-6)
    assert np.count_nonzero(heat) == 4


def test_the_higher_of_two_gaussians_stays():
    heat = np.zeros((5, 5), np.float32)
    draw_gaussian(heat, np.array([1, 2]), 1)
    draw_gaussian(heat, np.array([2, 2]), 1)
    np.testing.assert_allclose(heat[2], [np.exp(-2), 1, 1, np.exp(-2), 0], atol=1e-6)


def test_window_of_one_moving_action():
    # Centres (4.25, 4.75) and (6.5, 5.25): cells (4, 5) and (6, 5); numpy rounds 6.5 to even.
    boxes = np.array([[[2.25, 1.75, 6.25, 7.75], [4.5, 2.25, 8.5, 8.25]]])
    heat, window, labels, cells, movement, size = window_targets(boxes, np.array([2]), classes=3, grid=12)
    assert window.tolist() == [0]
    assert labels.tolist() == [2]
    assert cells.tolist() == [[[4, 5], [6, 5]]]
    # Both relative to the newest cell, (6, 5); the newest entry is what rounding loses.
    np.testing.assert_allclose(movement, [[[-1.75, -0.25], [0.5, 0.25]]])
    np.testing.assert_allclose(size, [[[4, 6], [4, 6]]])
    assert heat.shape == (1, 3, 12, 12)
    assert heat[0, 2, 5, 6] == 1
    assert not heat[0, :2].any()


def test_boxes_are_clipped_and_actions_with_their_newest_centre_outside_are_left_out():
    inside = [[-2, 2, 4, 6], [-2, 2, 4, 6]]  # clipped to 0..4: centre (2, 4), width 4
    outside = [[2, 2, 6, 6], [-6, 2, 2, 6]]  # centre of the newest at x = -2
    targets = window_targets(np.array([inside, outside], float), np.array([0, 1]), classes=2, grid=8)
    assert targets.cells.tolist() == [[[2, 4], [2, 4]]]
    assert targets.size.tolist() == [[[4, 4], [4, 4]]]
    assert not targets.heat[0, 1].any()


def test_a_window_without_actions_has_empty_targets():
    targets = window_targets(np.zeros((0, 5, 4)), np.zeros(0, int), classes=2, grid=4)
    assert not targets.heat.any()
    assert targets.cells.shape == (0, 5, 2)


def test_joined_targets_point_to_their_own_windows():
    box = np.array([[[1.0, 1, 3, 3]]])
    none = window_targets(np.zeros((0, 1, 4)), np.zeros(0, int), 1, 4)
    one = window_targets(box, np.array([0]), 1, 4)
    both = join([none, one, join([none, one])])
    assert both.window.tolist() == [1, 3]
    assert both.heat[both.window, 0, 2, 2].tolist() == [1, 1]
