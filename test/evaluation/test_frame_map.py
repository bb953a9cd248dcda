import numpy as np
import per_box_loop as loop
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amma_core.errors import AmmaError
from amma_core.evaluation.frame_map import confusion, frame_curves, frame_map

BOX = (0, 0, 9, 9)
FAR = (50, 50, 59, 59)


def rows(*entries):
    """(video, frame, label, score, box) each."""
    return np.array([(*head, *box) for *head, box in entries], float).reshape(-1, 8)


def truth(*entries):
    """(video, frame, label, box) each."""
    return rows(*((*head, 1, box) for *head, box in entries))


def only(detections, true, **options):
    return curves(detections, true, 1, **options)[0]


def curves(detections, true, classes, threshold=0.5, mode="untrimmed"):
    return frame_curves(detections, true, classes, [threshold], mode)[0]


def test_one_box_found():
    curve = only(rows((0, 1, 0, 0.9, BOX)), truth((0, 1, 0, BOX)))
    assert curve.ap == 100
    assert curve.errors == {"L": 0, "C": 0, "T": 0, "O": 0, "M": 0}


def test_nothing_found():
    curve = only(rows(), truth((0, 1, 0, BOX)))
    assert (curve.ap, curve.errors["M"]) == (0, 100)
    assert frame_map(rows(), truth((0, 1, 0, BOX)), 1) == 0


def test_area_is_the_trapezoid_below_the_raw_points():
    true = truth((0, 1, 0, BOX), (0, 2, 0, BOX))
    curve = only(rows((0, 1, 0, 0.9, BOX), (0, 2, 0, 0.8, FAR), (0, 2, 0, 0.7, BOX)), true)
    np.testing.assert_allclose(curve.precision, [1, 1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [0, 1 / 2, 1 / 2, 1])
    # Half the recall at precision 1, the other half at the mean of 1/2 and 2/3; the wrong box likewise.
    assert curve.ap == pytest.approx(100 * (0.5 + 0.5 * (1 / 2 + 2 / 3) / 2))
    assert curve.errors["L"] == pytest.approx(100 * 0.5 * (1 / 2 + 1 / 3) / 2)


def test_a_wrong_box_first_leaves_a_triangle():
    curve = only(rows((0, 1, 0, 0.9, FAR), (0, 1, 0, 0.8, BOX)), truth((0, 1, 0, BOX)))
    assert curve.ap == pytest.approx(100 * (0 + 1 / 2) / 2)
    assert curve.errors["L"] == pytest.approx(100 * (1 + 1 / 2) / 2)


def test_both_corners_are_inside_a_box():
    # 5 of 10 columns: IoU 0.5 exactly. With x2 - x1 as width it would be 4/9.
    half = rows((0, 1, 0, 0.9, (0, 0, 4, 9)))
    assert only(half, truth((0, 1, 0, BOX))).ap == 100
    assert only(half, truth((0, 1, 0, BOX)), threshold=0.51).ap == 0


def test_a_true_box_is_found_once():
    curve = only(rows((0, 1, 0, 0.9, BOX), (0, 1, 0, 0.8, BOX)), truth((0, 1, 0, BOX), (0, 2, 0, BOX)))
    np.testing.assert_allclose(curve.precision, [1, 1, 1 / 2])
    assert curve.ap == 50
    assert curve.errors["M"] == 50


def test_a_detection_takes_the_best_of_what_is_left():
    # Both detections overlap the left box best; the second one falls back on the right one (IoU 80/120).
    left, right = (0, 0, 9, 9), (2, 0, 11, 9)
    detections = rows((0, 1, 0, 0.9, left), (0, 1, 0, 0.8, left))
    curve = only(detections, truth((0, 1, 0, right), (0, 1, 0, left)))
    assert curve.ap == 100
    assert only(detections, truth((0, 1, 0, right), (0, 1, 0, left)), threshold=0.7).ap == 50


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        ((0, 1, 0, 0.5, FAR), "L"),  # the frame has the class, elsewhere
        ((0, 2, 0, 0.5, FAR), "C"),  # on the box of another class
        ((0, 2, 0, 0.5, BOX), "O"),  # beside the box of another class
        ((0, 3, 0, 0.5, BOX), "T"),  # an empty frame of a video that has the class
        ((1, 1, 0, 0.5, BOX), "O"),  # an empty frame of a video that lacks the class
        ((1, 2, 0, 0.5, BOX), "C"),  # another class in a video that lacks this one
        ((0, 1, 0, 0.5, (50, 50, 59, 58)), "L"),  # on another class's box, but the frame has its own, too
    ],
)
def test_kinds_of_error(detection, kind):
    true = truth((0, 1, 0, BOX), (0, 2, 1, FAR), (1, 2, 1, BOX), (0, 1, 1, FAR))
    # The error stands before the only match: its share falls from 1 to 1/2 while recall rises to 1.
    curve = curves(rows(detection, (0, 1, 0, 0.1, BOX)), true, 2)[0]
    assert curve.errors == {**dict.fromkeys("LCTOM", 0), kind: 75}
    assert curve.ap == 25


def test_equal_scores_go_by_video_then_frame_then_row():
    true = truth((0, 2, 0, BOX), (1, 1, 0, BOX))
    wrong, right = (0, 2, 0, 0.5, FAR), (0, 2, 0, 0.5, BOX)
    later_frame, later_video = (0, 3, 0, 0.5, BOX), (1, 1, 0, 0.5, FAR)
    assert only(rows(wrong, right), true).precision.tolist() == [1, 0, 0.5]
    assert only(rows(right, wrong), true).precision.tolist() == [1, 1, 0.5]
    assert only(rows(later_frame, right), true).precision.tolist() == [1, 1, 0.5]
    assert only(rows(later_video, right), true).precision.tolist() == [1, 1, 0.5]
    # The video counts before the frame.
    assert only(rows((1, 1, 0, 0.5, BOX), later_frame), true).precision.tolist() == [1, 0, 0.5]


def test_trimmed_leaves_out_frames_without_the_class_in_its_videos():
    true = truth((0, 1, 0, BOX), (0, 2, 1, BOX), (1, 1, 1, BOX))
    in_video = (0, 3, 0, 0.9, BOX), (0, 2, 0, 0.8, BOX)  # time and class errors, not counted when trimmed
    elsewhere = (1, 1, 0, 0.7, BOX)  # its video lacks the class: counted in both modes
    detections = rows(*in_video, elsewhere, (0, 1, 0, 0.6, BOX))
    assert curves(detections, true, 2)[0].precision.tolist() == [1, 0, 0, 0, 0.25]
    trimmed = curves(detections, true, 2, mode="trimmed")[0]
    assert trimmed.precision.tolist() == [1, 0, 0.5]
    assert trimmed.ap + sum(trimmed.errors.values()) == pytest.approx(100)
    with pytest.raises(AmmaError, match="mode 'cut' is unknown: choose one of untrimmed, trimmed"):
        curves(detections, true, 2, mode="cut")


def test_a_class_without_truth_is_left_out():
    detections = rows((0, 1, 0, 0.9, BOX), (0, 1, 1, 0.9, BOX))
    found = curves(detections, truth((0, 1, 0, BOX)), 3)
    assert found[0].ap == 100
    assert np.isnan([found[1].ap, found[2].ap]).all()
    assert frame_map(detections, truth((0, 1, 0, BOX)), 3) == 100
    assert np.isnan(frame_map(detections, truth(), 3))


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(AmmaError, match="labels go from 0 to 2, but there are 2 classes"):
        curves(rows((0, 1, 0, 0.9, BOX), (0, 1, 2, 0.9, BOX)), truth((0, 1, 0, BOX)), 2)


def test_confusion_counts_what_each_true_box_is_taken_for():
    true = truth((0, 1, 0, BOX), (0, 2, 0, BOX), (0, 3, 1, BOX), (0, 3, 1, FAR))
    detections = rows(
        (0, 1, 0, 0.5, BOX),
        (0, 1, 1, 0.6, BOX),  # the best-scored one on the first box
        (0, 1, 1, 0.9, FAR),
        (0, 2, 0, 0.1, FAR),  # the second box is missed
        (0, 3, 1, 0.3, BOX),
        (0, 3, 1, 0.2, FAR),
    )
    assert confusion(detections, true, 2).tolist() == [[0, 1, 1], [0, 2, 0]]
    assert confusion(rows(), true, 2).tolist() == [[0, 0, 2], [0, 0, 2]]


def test_a_second_box_on_a_found_one_can_cost():
    """Why the property below asks that a box finds something: precision falls before the next match."""
    true = truth((0, 1, 0, BOX), (0, 2, 0, BOX))
    found = (0, 1, 0, 0.9, BOX), (0, 2, 0, 0.8, BOX)
    assert frame_map(rows(*found), true, 1) == 100
    assert frame_map(rows(*found, (0, 1, 0, 1, BOX)), true, 1) == pytest.approx(
        100 * (0.5 + 0.5 * (0.5 + 2 / 3) / 2)
    )


# Few places, sizes and scores, so that ties, duplicates and borderline overlaps are common.
VIDEO, FRAME, LABEL = st.integers(0, 2), st.integers(1, 3), st.integers(0, 2)
SCORE = st.integers(0, 8).map(lambda i: i / 8)
BOXES = st.tuples(st.integers(0, 6), st.integers(0, 2), st.integers(3, 9), st.integers(3, 5)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
DETECTIONS = st.lists(st.tuples(VIDEO, FRAME, LABEL, SCORE, BOXES), max_size=30).map(
    lambda found: rows(*found)
)
TRUTH = st.lists(st.tuples(VIDEO, FRAME, LABEL, BOXES), max_size=15).map(lambda true: truth(*true))
THRESHOLD = st.sampled_from([0.2, 0.5, 0.75])
MODE = st.sampled_from(["untrimmed", "trimmed"])


@given(DETECTIONS, TRUTH, THRESHOLD, MODE)
def test_agrees_with_the_per_box_loop(detections, true, threshold, mode):
    for label, curve in enumerate(curves(detections, true, 3, threshold, mode)):
        expected = loop.frame_class(detections, true, label, threshold, mode)
        if expected is None:
            assert np.isnan(curve.ap)
            continue
        assert curve.ap == pytest.approx(expected[0], abs=1e-9)
        assert curve.errors == pytest.approx(expected[1], abs=1e-9)


@given(DETECTIONS, TRUTH, THRESHOLD, MODE)
def test_is_a_percentage_and_what_is_lost_is_explained(detections, true, threshold, mode):
    for curve in curves(detections, true, 3, threshold, mode):
        if curve.positives:
            assert -1e-9 <= curve.ap <= 100 + 1e-9
            assert all(-1e-9 <= error <= 100 + 1e-9 for error in curve.errors.values())
            assert curve.ap + sum(curve.errors.values()) == pytest.approx(100)


@given(DETECTIONS, TRUTH, st.randoms())
def test_order_of_rows_does_not_matter(detections, true, random):
    """Detections that tie in score, video and frame excepted: those are taken in the order of their rows.
    Likewise true boxes of one frame, of which the first is taken where two overlap equally."""
    _, detections = first_of_each(detections, [0, 1, 2, 3])
    _, true = first_of_each(true, [0, 1, 2])
    before = curves(detections, true, 3)
    after = curves(shuffled(detections, random), shuffled(true, random), 3)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a.precision, b.precision)
        np.testing.assert_array_equal(a.recall, b.recall)


@given(DETECTIONS, TRUTH.filter(len), st.integers(0, 14), SCORE, THRESHOLD, MODE)
def test_a_perfect_box_that_finds_something_never_costs(detections, true, index, score, threshold, mode):
    """True of any box that raises the recall: it takes one true box; whoever took that takes another, and
    so on, until somebody takes one that was free. So all others stay right or wrong as they were, and
    from the new box on precision is (right + 1) / (seen + 1) instead of right / seen."""
    box = true[index % len(true)]
    more = np.vstack([detections, [*box[:3], score, *box[4:]]])
    label = int(box[2])
    before, after = (curves(found, true, 3, threshold, mode)[label] for found in (detections, more))
    assert after.recall[-1] >= before.recall[-1]
    if after.recall[-1] > before.recall[-1]:
        assert after.ap >= before.ap - 1e-9


def first_of_each(array, columns):
    keys, index = np.unique(array[:, columns], axis=0, return_index=True)
    return keys, array[np.sort(index)]


def shuffled(array, random):
    order = list(range(len(array)))
    random.shuffle(order)
    return array[order]
