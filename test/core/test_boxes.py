import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma_core import boxes as box


def floats(*rows):
    return np.array(rows, np.float32)


def test_iou_by_hand():
    square = floats([0, 0, 10, 10])
    others = floats(
        [0, 0, 10, 10], [5, 0, 15, 10], [5, 5, 15, 15], [10, 0, 20, 10], [2, 2, 4, 7], [50, 50, 60, 60]
    )
    expected = [1, 50 / 150, 25 / 175, 0, 10 / 100, 0]
    np.testing.assert_allclose(box.iou(square, others), expected, rtol=1e-6)
    np.testing.assert_allclose(box.iou_matrix(others, square), np.array(expected)[:, None], rtol=1e-6)


def test_inclusive_iou_counts_the_last_pixel():
    first, second = floats([0, 0, 9, 9]), floats([5, 0, 14, 9])
    assert box.iou(first, second, inclusive=True)[0] == pytest.approx(50 / 150)
    assert box.iou(first, second)[0] == pytest.approx(36 / 126)
    assert box.iou(floats([3, 3, 3, 3]), floats([3, 3, 3, 3]), inclusive=True)[0] == 1
    assert box.area(floats([0, 0, 9, 4]), inclusive=True)[0] == 50


def test_empty_and_inside_out_boxes_overlap_nothing():
    point, inside_out, square = floats([3, 3, 3, 3]), floats([8, 8, 2, 2]), floats([0, 0, 10, 10])
    for odd in (point, inside_out):
        assert box.area(odd)[0] == 0
        assert box.iou(odd, odd)[0] == 0
        assert box.iou(odd, square)[0] == 0
    assert box.iou_matrix(np.zeros((0, 4)), square).shape == (0, 1)


def test_iou_takes_whole_numbers():
    np.testing.assert_allclose(box.iou(np.array([0, 0, 10, 10]), np.array([5, 0, 15, 10])), 1 / 3)


def test_mean_iou_of_tubelets():
    still = floats([0, 0, 10, 10], [0, 0, 10, 10])[None]
    leaving = floats([0, 0, 10, 10], [5, 0, 15, 10])[None]
    assert box.mean_iou(still, leaving)[0] == pytest.approx((1 + 1 / 3) / 2)
    both = np.concatenate([still, leaving])
    matrix = box.mean_iou(both[:, None], both[None])
    np.testing.assert_allclose(matrix, [[1, 2 / 3], [2 / 3, 1]], rtol=1e-6)


corner = st.integers(0, 20)
sides = st.integers(1, 20)
some_box = st.tuples(corner, corner, sides, sides).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@given(some_box, some_box, st.booleans())
def test_iou_counts_cells(first, second, inclusive):
    def cells(b):
        picture = np.zeros((50, 50), bool)
        picture[b[1] : b[3] + inclusive, b[0] : b[2] + inclusive] = True
        return picture

    expected = (cells(first) & cells(second)).sum() / (cells(first) | cells(second)).sum()
    assert box.iou(np.array(first, float), np.array(second, float), inclusive) == pytest.approx(expected)


def shifted(*offsets):
    """Tubelets of two equal boxes 10 wide, moved right by the offsets."""
    return np.stack([np.tile(floats([dx, 0, dx + 10, 10]), (2, 1)) for dx in offsets])


def test_nms_keeps_the_best_of_each_class():
    # IoU of neighbours one pixel apart is 9/11, three apart 7/13, four apart 6/14.
    tubelets = shifted(0, 1, 4, 0, 1, 30)
    labels = np.array([2, 2, 2, 0, 0, 0])
    scores = floats([0.5, 0.9, 0.7, 0.8, 0.3, 0.6])[0]
    kept = box.tubelet_nms(tubelets, labels, scores, threshold=0.6, top=10)
    assert kept.tolist() == [3, 5, 1, 2]


def test_nms_is_greedy_a_suppressed_one_suppresses_nothing():
    tubelets = shifted(0, 2, 4)  # 0-2 and 2-4: IoU 8/12; 0-4: 6/14
    kept = box.tubelet_nms(tubelets, np.zeros(3, int), floats([0.9, 0.8, 0.7])[0], threshold=0.5, top=10)
    assert kept.tolist() == [0, 2]


def test_nms_keeps_what_only_reaches_the_threshold():
    tubelets = shifted(0, 5)  # IoU 1/3
    labels, scores = np.zeros(2, int), floats([0.9, 0.8])[0]
    assert len(box.tubelet_nms(tubelets, labels, scores, threshold=float(np.float32(1 / 3)), top=10)) == 2
    assert len(box.tubelet_nms(tubelets, labels, scores, threshold=0.33, top=10)) == 1


def test_nms_stops_at_top_and_takes_the_earlier_of_equals():
    tubelets = shifted(0, 20, 40, 60)
    labels, scores = np.zeros(4, int), floats([0.5, 0.5, 0.9, 0.5])[0]
    assert box.tubelet_nms(tubelets, labels, scores, threshold=0.6, top=2).tolist() == [2, 0]


def test_nms_of_empty_boxes_ends():
    tubelets = np.zeros((3, 2, 4), np.float32)
    kept = box.tubelet_nms(tubelets, np.zeros(3, int), floats([0.1, 0.2, 0.3])[0], threshold=0.6, top=10)
    assert kept.tolist() == [2, 1, 0]
    assert box.tubelet_nms(tubelets[:0], np.zeros(0, int), np.zeros(0), threshold=0.6, top=10).tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_nms_equals_one_tubelet_at_a_time(seed):
    rng = np.random.default_rng(seed)
    count, top = 60, 4
    corners = rng.integers(0, 12, (count, 3, 2))
    tubelets = np.concatenate([corners, corners + rng.integers(4, 12, (count, 3, 2))], -1).astype(float)
    labels, scores = rng.integers(0, 4, count), rng.integers(0, 20, count) / 20

    expected = []
    for label in range(4):
        kept = []
        for i in sorted(np.flatnonzero(labels == label), key=lambda i: -scores[i]):
            if len(kept) < top and all(box.iou(tubelets[i], tubelets[j]).mean() <= 0.2 for j in kept):
                kept.append(i)
        expected += kept
    assert box.tubelet_nms(tubelets, labels, scores, threshold=0.2, top=top).tolist() == expected


def test_interpolation_between_uneven_keys():
    keys = np.array([4, 8, 10])
    tubelets = np.stack(
        [floats([0, 0, 10, 10], [8, 4, 18, 14], [8, 0, 28, 10]), np.zeros((3, 4), np.float32)]
    )
    filled = box.interpolate(keys, tubelets, np.array([4, 5, 6, 8, 9, 10]))
    assert filled.shape == (2, 6, 4)
    assert filled.dtype == np.float32
    expected = [
        [0, 0, 10, 10],
        [2, 1, 12, 11],
        [4, 2, 14, 12],
        [8, 4, 18, 14],
        [8, 2, 23, 12],
        [8, 0, 28, 10],
    ]
    np.testing.assert_array_equal(filled[0], expected)
    assert not filled[1].any()


def test_interpolation_holds_the_ends():
    filled = box.interpolate(np.array([4, 8]), floats([0, 0, 4, 4], [4, 0, 8, 4]), np.array([1, 12]))
    np.testing.assert_array_equal(filled, [[0, 0, 4, 4], [4, 0, 8, 4]])


def test_repeated_keys_count_as_one_with_their_mean_box():
    keys = np.array([1, 1, 1, 5])
    tubelet = floats([0, 0, 6, 6], [3, 0, 9, 6], [6, 0, 12, 6], [11, 0, 17, 6])
    merged_keys, merged = box.merge_repeats(keys, tubelet)
    assert merged_keys.tolist() == [1, 5]
    np.testing.assert_array_equal(merged, [[3, 0, 9, 6], [11, 0, 17, 6]])
    assert merged.dtype == np.float32
    np.testing.assert_array_equal(box.interpolate(keys, tubelet, np.array([1, 2, 5]))[:, 0], [3, 5, 11])


def test_a_single_key_is_held():
    filled = box.interpolate(np.array([7, 7]), floats([0, 0, 4, 4], [2, 0, 6, 4]), np.array([6, 7]))
    np.testing.assert_array_equal(filled, [[1, 0, 5, 4]] * 2)
    assert box.interpolate(np.array([7]), np.zeros((0, 1, 4)), np.array([6, 7])).shape == (0, 2, 4)


def test_clip_keeps_boxes_on_the_image():
    clipped = box.clip(floats([-5, -1, 700, 500], [1, 2, 3, 4]), (640, 480))
    np.testing.assert_array_equal(clipped, [[0, 0, 639, 479], [1, 2, 3, 4]])
    assert clipped.dtype == np.float32
