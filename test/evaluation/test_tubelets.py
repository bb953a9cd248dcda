import numpy as np
import per_box_loop as loop
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma_core.evaluation.tubelets import frame_detections, soft_nms
from amma_core.types import Tubelets


def tubelets(keys, *entries):
    """(label, score, K boxes) each."""
    labels, scores, boxes = list(zip(*entries, strict=True)) or ((), (), ())
    keys = np.array(keys)
    return Tubelets(
        image_size=(320, 240),
        key_numbers=keys,
        key_stamps=keys * 10,
        frame_numbers=keys[-1:],
        frame_stamps=keys[-1:] * 10,
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
        boxes=np.array(boxes, np.float32).reshape(-1, len(keys), 4),
    )


def moved(x):
    return (x, 0, x + 9, 9)


def test_boxes_between_key_frames_lie_on_straight_lines():
    step = tubelets([2, 4, 7], (3, 0.5, [moved(0), moved(20), moved(80)]))
    found = frame_detections([step], video=6)
    assert found[:, 0].tolist() == [6] * 6
    assert found[:, 1].tolist() == [2, 3, 4, 5, 6, 7]
    assert found[:, 2].tolist() == [3] * 6
    np.testing.assert_allclose(found[:, 3], 0.5)
    np.testing.assert_allclose(found[:, 4:], [moved(x) for x in (0, 10, 20, 40, 60, 80)])


def test_repeated_key_frames_give_each_of_their_boxes():
    step = tubelets([1, 1, 1, 3], (0, 0.5, [moved(0), moved(100), moved(200), moved(220)]))
    found = frame_detections([step])
    assert found[:, 1].tolist() == [1, 1, 1, 2, 3]
    np.testing.assert_allclose(found[:, 4], [0, 100, 200, 210, 220])


def test_soft_nms_runs_per_frame_and_class_and_keeps_all_boxes():
    box = [moved(0)]
    first = tubelets([4], (0, 0.5, box), (1, 0.25, box))
    again = tubelets([4], (0, 0.75, [moved(1)]))
    later = tubelets([8], (0, 0.125, box))
    found = frame_detections([first, again, later])
    # IoU of boxes moved by one of ten: 90 / 110.
    assert sorted(found[:, 3]) == pytest.approx([0.5 * (1 - 9 / 11), 0.125, 0.25, 0.75])


def test_nothing_found():
    assert frame_detections([]).shape == (0, 8)
    assert frame_detections([tubelets([1, 5])]).shape == (0, 8)


def test_soft_nms_lowers_once_and_what_is_lowered_lowers_nobody():
    # IoU of neighbours 0.7 / 1.3, of the outer two 0.4 / 1.6: the second is lowered by the first only,
    # the third not at all.
    boxes = np.array([moved(0), moved(3), moved(6)], float)
    scores = soft_nms(np.zeros(3), np.array([0.9, 0.8, 0.7]), boxes, threshold=0.5)
    np.testing.assert_allclose(scores, [0.9, 0.8 * (1 - 7 / 13), 0.7])


def test_soft_nms_at_the_threshold_and_between_equals():
    boxes = np.array([moved(0), moved(3)], float)
    equal = np.array([0.5, 0.5])
    np.testing.assert_allclose(soft_nms(np.zeros(2), equal, boxes, 7 / 13), equal)
    np.testing.assert_allclose(soft_nms(np.zeros(2), equal, boxes, 0.5), [0.5, 0.5 * (1 - 7 / 13)])
    np.testing.assert_allclose(soft_nms(np.array([0, 1]), equal, boxes, 0.5), equal)


BOXES = st.tuples(st.integers(0, 8), st.integers(4, 9)).map(lambda b: (b[0], 0, b[0] + b[1], 9))
SCORED = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4).map(lambda i: i / 4), BOXES), max_size=25)


@given(SCORED, st.sampled_from([0.3, 0.6]))
def test_soft_nms_agrees_with_the_per_box_loop(scored, threshold):
    groups = np.array([group for group, _, _ in scored])
    scores = np.array([score for _, score, _ in scored])
    boxes = np.array([box for _, _, box in scored], float).reshape(-1, 4)
    lowered = soft_nms(groups, scores, boxes, threshold)
    for group in range(3):
        mine = np.flatnonzero(groups == group)
        expected = loop.soft_nms(boxes[mine], scores[mine], threshold)
        np.testing.assert_allclose(lowered[mine], expected)
