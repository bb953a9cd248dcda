import numpy as np
import pytest

from amma_core.decoding import decode

SIZE = (360, 180)  # 10 x 5 pixels per cell of a 36 x 36 grid


def maps(classes=2, clips=3, grid=36):
    """Maps without a peak; every size is 4 x 2 cells."""
    heat = np.zeros((classes, grid, grid), np.float32)
    movement = np.zeros((2 * clips, grid, grid), np.float32)
    size = np.zeros((2 * clips, grid, grid), np.float32)
    size[0::2], size[1::2] = 4, 2
    return heat, movement, size


def test_nothing_stands_out():
    labels, scores, boxes = decode(*maps(), SIZE)
    assert labels.shape == (0,)
    assert scores.shape == (0,)
    assert boxes.shape == (0, 3, 4)


def test_one_peak_by_hand():
    heat, movement, size = maps()
    heat[1, 10, 20] = 0.8  # row 10, column 20
    movement[:, 10, 20] = [-5, 1, -2.4, 0.6, 0.25, -0.5]  # oldest first, dx dy
    size[0:2, 11, 15] = [6, 4]  # where the oldest centre lands
    size[2:4, 11, 18] = [5, 3]  # 17.6, 10.6 rounds to 18, 11
    size[4:6, 10, 20] = [8, 2]  # the newest is read at the peak
    labels, scores, boxes = decode(heat, movement, size, SIZE)
    assert labels.tolist() == [1]
    assert scores.tolist() == [np.float32(0.8)]
    cells = np.array([[12, 9, 18, 13], [15.1, 9.1, 20.1, 12.1], [16.25, 8.5, 24.25, 10.5]])
    np.testing.assert_allclose(boxes[0], cells * [10, 5, 10, 5], rtol=1e-6)
    assert (labels.dtype, scores.dtype, boxes.dtype) == (np.int64, np.float32, np.float32)


def test_the_paper_leaves_the_key_where_it_is():
    heat, movement, size = maps()
    heat[0, 10, 20] = 0.8
    movement[:, 10, 20] = [1, 1, 1, 1, 3, 3]
    boxes = decode(heat, movement, size, SIZE, add_motion_of_key=False)[2]
    np.testing.assert_allclose(boxes[0] / [10, 5, 10, 5], [[19, 10, 23, 12]] * 2 + [[18, 9, 22, 11]])


def test_the_size_of_the_key_is_read_at_the_peak_however_far_it_moves():
    heat, movement, size = maps()
    heat[0, 10, 20] = 0.8
    movement[4:, 10, 20] = 3
    size[4:, 10, 20] = 10
    boxes = decode(heat, movement, size, SIZE)[2]
    np.testing.assert_allclose(boxes[0, 2] / [10, 5, 10, 5], [18, 8, 28, 18])


def test_rows_beyond_the_middle_of_the_grid():
    # Rounding index / width instead of flooring puts columns >= 18 one row down.
    heat, movement, size = maps()
    for row, column in ((0, 35), (35, 0), (17, 18), (35, 35)):
        heat[:] = 0
        heat[0, row, column] = 0.5
        box = decode(heat, movement, size, (36, 36))[2][0, -1]
        x, y = np.clip([column - 2, column + 2], 0, 35), np.clip([row - 1, row + 1], 0, 35)
        assert box.tolist() == [x[0], y[0], x[1], y[1]]


def test_a_centre_that_leaves_the_grid_reads_the_nearest_cell():
    # Clamping the linear index instead would read another row.
    heat, movement, size = maps()
    heat[0, 5, 34] = 0.5
    movement[0:2, 5, 34] = [4, 0]
    movement[2:4, 5, 34] = [0, -9]
    size[0:2, 5, 35] = [20, 8]
    size[2:4, 0, 34] = [6, 10]
    boxes = decode(heat, movement, size, (36, 36))[2]
    np.testing.assert_allclose(boxes[0, 0], [28, 1, 35, 9])
    np.testing.assert_allclose(boxes[0, 1], [31, 0, 35, 1])


def test_neighbours_are_suppressed_and_classes_are_not():
    heat, movement, size = maps()
    heat[0, 10, 10], heat[0, 11, 11], heat[0, 10, 12] = 0.9, 0.8, 0.7
    heat[0, 10, 14] = 0.5
    heat[1, 11, 11] = 0.6
    labels, scores, _ = decode(heat, movement, size, SIZE)
    assert labels.tolist() == [0, 1, 0]  # 0.7 is beside 0.8, itself no peak
    np.testing.assert_allclose(scores, [0.9, 0.6, 0.5])


def test_the_best_come_first_and_only_so_many():
    rng = np.random.default_rng(0)
    heat, movement, size = maps(classes=5)
    heat[:] = rng.random(heat.shape, dtype=np.float32)
    everything = decode(heat, movement, size, SIZE, top=10_000)
    some = decode(heat, movement, size, SIZE, top=30)
    assert len(everything[1]) > 300
    assert (np.diff(everything[1]) <= 0).all()
    for all_of, first in zip(everything, some, strict=True):
        np.testing.assert_array_equal(all_of[:30], first)


def test_equal_peaks_come_by_class_then_row_by_row():
    heat, movement, size = maps()
    for place in ((1, 3, 3), (0, 30, 4), (0, 4, 30), (0, 4, 10)):
        heat[place] = 0.5
    labels, _, boxes = decode(heat, movement, size, (36, 36), top=3)
    assert labels.tolist() == [0, 0, 0]
    assert boxes[:, -1, 0].tolist() == [8, 28, 2]


def test_many_equal_peaks_are_in_order_too():
    heat, movement, size = maps(classes=1)
    heat[0, ::2, ::2] = np.random.default_rng(0).integers(1, 4, (18, 18)) / 4
    boxes = decode(heat, movement, size, (3600, 3600), top=324)[2]
    y, x = 2 * np.indices((18, 18)).reshape(2, -1)
    order = sorted(range(324), key=lambda i: -heat[0, y[i], x[i]])
    assert boxes[:, -1, 0].tolist() == np.maximum(100 * (x[order] - 2), 0).tolist()
    assert boxes[:, -1, 1].tolist() == np.maximum(100 * (y[order] - 1), 0).tolist()


def test_a_flat_map_gives_no_more_than_top():
    heat, movement, size = maps()
    heat[:] = 0.5
    labels, _, boxes = decode(heat, movement, size, (36, 36), top=7)
    assert labels.tolist() == [0] * 7
    assert boxes[:, -1, 2].tolist() == [2, 3, 4, 5, 6, 7, 8]


def test_boxes_stay_on_the_image_and_sizes_are_not_negative():
    heat, movement, size = maps()
    heat[0, 1, 1], heat[1, 20, 20] = 0.9, 0.8
    size[:, 1, 1] = 100
    size[:, 20, 20] = -3
    boxes = decode(heat, movement, size, (640, 480))[2]
    np.testing.assert_array_equal(boxes[0], [[0, 0, 639, 479]] * 3)
    centre = [20 * 640 / 36, 20 * 480 / 36] * 2
    np.testing.assert_allclose(boxes[1], [centre] * 3, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", range(3))
def test_a_broken_peak_is_left_out_and_the_others_stay(which, value):
    whole = maps()
    heat = whole[0]
    heat[0, 10, 10], heat[1, 30, 30] = 0.9, 0.8
    expected = decode(*whole, SIZE)
    whole[which][:, 10, 10] = value
    if which == 0:
        heat[1, 10, 10] = 0
    answer = decode(*whole, SIZE)
    assert answer[0].tolist() == [1]
    for before, after in zip(expected, answer, strict=True):
        np.testing.assert_array_equal(before[1:], after)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_maps_of_nonsense_do_not_crash(value):
    heat, movement, size = (np.full_like(array, value) for array in maps())
    heat[0, 5, 5] = 0.5
    for broken in ((heat, movement, size), (heat, movement, maps()[2]), (heat, maps()[1], size)):
        boxes = decode(*broken, SIZE)[2]
        assert np.isfinite(boxes).all()


def test_the_maps_are_left_as_they_were():
    whole = maps()
    whole[0][0, 4, 4] = np.nan
    whole[0][0, 9, 9] = 0.5
    whole[1][:] = 1
    copies = [array.copy() for array in whole]
    decode(*whole, SIZE, add_motion_of_key=False)
    for array, copy in zip(whole, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("seed", range(5))
def test_equal_to_a_cell_by_cell_reading(seed):
    rng = np.random.default_rng(seed)
    classes, clips, grid, top = 3, 4, 9, 12
    heat = rng.random((classes, grid, grid)).astype(np.float32)
    movement = rng.normal(0, 3, (2 * clips, grid, grid)).astype(np.float32)
    size = rng.normal(3, 3, (2 * clips, grid, grid)).astype(np.float32)
    width, height = 97, 61

    found = []
    for label, row, column in np.ndindex(heat.shape):
        around = heat[label, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        if heat[label, row, column] == around.max():
            found.append((label, row, column))
    found = sorted(found, key=lambda place: -heat[place])[:top]
    expected = []
    for _, row, column in found:
        tubelet = []
        for k in range(clips):
            x, y = column + movement[2 * k, row, column], row + movement[2 * k + 1, row, column]
            at = [min(max(round(float(v)), 0), grid - 1) for v in (y, x)] if k < clips - 1 else [row, column]
            w, h = (max(side, 0) for side in size[2 * k : 2 * k + 2, at[0], at[1]])
            xs = [np.clip(v * width / grid, 0, width - 1) for v in (x - w / 2, x + w / 2)]
            ys = [np.clip(v * height / grid, 0, height - 1) for v in (y - h / 2, y + h / 2)]
            tubelet.append([xs[0], ys[0], xs[1], ys[1]])
        expected.append(tubelet)

    labels, scores, boxes = decode(heat, movement, size, (width, height), top=top)
    assert labels.tolist() == [place[0] for place in found]
    assert scores.tolist() == [heat[place] for place in found]
    np.testing.assert_allclose(boxes, expected, rtol=1e-4, atol=1e-4)
