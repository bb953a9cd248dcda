"""Frame-mAP and its error analysis: are the boxes of single frames right?"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from amma_core.boxes import iou, starts_of_runs
from amma_core.errors import AmmaError
from amma_core.evaluation.curves import ERRORS, Curve, curve_of, mean_over_classes
from amma_core.evaluation.groups import expand, match

MODES = ("untrimmed", "trimmed")
LOCATION, CLASS, TIME, OTHER = range(1, 1 + len(ERRORS))
IGNORED = -1

# Detections are compared with the truth in portions of this size, to bound the memory.
_PORTION = 500_000


def frame_map(
    detections: NDArray, truth: NDArray, classes: int, threshold: float = 0.5, mode: str = "untrimmed"
) -> float:
    """Frame-mAP in percent: the mean of :func:`frame_curves` over the classes that have ground truth."""
    (curves,) = frame_curves(detections, truth, classes, [threshold], mode)
    return mean_over_classes([curve.ap for curve in curves])


def frame_curves(
    detections: NDArray,
    truth: NDArray,
    classes: int,
    thresholds: Sequence[float] = (0.5,),
    mode: str = "untrimmed",
) -> list[list[Curve]]:
    """Average precision and errors of every class, per threshold; arguments as for :func:`judge`."""
    order, outcomes = judge(detections, truth, classes, thresholds, mode)
    return [class_curves(detections, truth, classes, order, judged) for judged in outcomes]


def class_curves(
    detections: NDArray, truth: NDArray, classes: int, order: NDArray, outcomes: NDArray
) -> list[Curve]:
    """The curve of every class from what :func:`judge` said at one threshold."""
    of_class = np.split(order, np.searchsorted(np.asarray(detections)[order, 2], np.arange(1, classes)))
    positives = np.bincount(np.asarray(truth)[:, 2].astype(np.int64), minlength=classes).tolist()
    counted = (outcomes[rows][outcomes[rows] != IGNORED] for rows in of_class)
    return [curve_of(kinds, count) for kinds, count in zip(counted, positives, strict=True)]


def judge(
    detections: NDArray,
    truth: NDArray,
    classes: int,
    thresholds: Sequence[float] = (0.5,),
    mode: str = "untrimmed",
) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """Tell right detections from wrong ones, and why they are wrong.

    Detections are taken by score (equal scores: by video, frame, then row). Of the true boxes of its
    class and frame that no better detection has taken, each looks at the one that it overlaps most. If
    their IoU reaches the threshold, it is right and takes that box. If not, it is an error of

    - location, if its frame has a box of its class at all (so a second box on a taken one, too);
    - class, otherwise, if it overlaps a box of another class enough;
    - time, otherwise, if its frame has no box of any class, but its video has one of its class;
    - other, otherwise.

    Args:
        detections: (N, 8) rows of video, frame, label, score, x1, y1, x2, y2.
        truth: (M, 8) likewise, the score unused (:meth:`~amma_core.evaluation.tubes.Tubes.frames`).
        classes: number of classes.
        thresholds: smallest IoUs of a match.
        mode: ``untrimmed`` counts every detection. ``trimmed`` leaves out those on frames without
            a box of their class in videos that have that class elsewhere.

    Returns:
        The order (N,) of the detections, class by class and the best first; and for each threshold their
        outcomes (N,), in the order of the rows: 0 is right, else it is ``LOCATION``, ``CLASS``, ``TIME``,
        ``OTHER`` or ``IGNORED``.
    """
    if mode not in MODES:
        raise AmmaError(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
    detections, truth = np.asarray(detections), np.asarray(truth, np.float64)
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    keys, true_keys = _keys(detections), _keys(truth)
    video, label = (detections[:, column].astype(np.int64) for column in (0, 2))
    true_video, true_label = (truth[:, column].astype(np.int64) for column in (0, 2))
    for labels in (label, true_label):
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise AmmaError(
                f"labels go from {labels.min()} to {labels.max()}, but there are {classes} classes"
            )

    in_videos = np.zeros((max(video.max(initial=0), true_video.max(initial=0)) + 1, classes), bool)
    in_videos[true_video, true_label] = True
    in_video = in_videos[video, label]  # does its video have its class?
    starts, stops = np.searchsorted(true_keys, keys, "left"), np.searchsorted(true_keys, keys, "right")
    in_frame = np.zeros(len(detections), bool)  # does its frame?
    # Pairs of a detection and a true box that overlap enough for one threshold at least.
    own, foreign = [], []
    for one, true, overlap in _pairs(detections, truth, starts, stops):
        same = label[one] == true_label[true]
        in_frame[one[same]] = True
        enough = overlap >= min(thresholds)
        for pairs, kind in ((own, enough & same), (foreign, enough & ~same)):
            pairs.append((one[kind], true[kind], overlap[kind]))
    own, foreign = ([np.concatenate(part) for part in zip(*pairs, strict=True)] for pairs in (own, foreign))

    order = np.lexsort((keys, -detections[:, 3], label.astype(np.int16)))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    one, true, overlap = own
    group = true_keys[true] * classes + true_label[true]
    chosen = np.lexsort((true, -overlap, rank[one], group))
    one, true, overlap, group = one[chosen], true[chosen], overlap[chosen], group[chosen]

    def outcomes(threshold: float) -> NDArray[np.int64]:
        judged = np.where(in_video & (starts == stops), TIME, OTHER)
        judged[foreign[0][foreign[2] >= threshold]] = CLASS
        judged[in_frame] = LOCATION
        enough = np.flatnonzero(overlap >= threshold)
        judged[one[enough[match(one[enough], true[enough], group[enough])]]] = 0
        if mode == "trimmed":
            judged[in_video & ~in_frame] = IGNORED
        return judged

    return order, [outcomes(threshold) for threshold in thresholds]


def confusion(detections: NDArray, truth: NDArray, classes: int, threshold: float = 0.5) -> NDArray[np.int64]:
    """What true boxes are taken for: (classes, classes + 1) numbers of boxes, by true class and found class.

    A true box is taken for the class of the best-scored detection in its frame whose IoU with it is at
    least ``threshold``; if there is none, it counts in the last column. Arguments as for :func:`judge`.
    """
    detections, truth = np.asarray(detections), np.asarray(truth, np.float64)
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    keys, true_keys = _keys(detections), _keys(truth)
    starts, stops = np.searchsorted(true_keys, keys, "left"), np.searchsorted(true_keys, keys, "right")
    found = np.full(len(truth), classes)
    best = np.full(len(truth), -np.inf)
    for one, true, overlap in _pairs(detections, truth, starts, stops):
        one, true = one[overlap >= threshold], true[overlap >= threshold]
        ranked = np.lexsort((one, -detections[one, 3], true))
        one, true = (x[ranked][starts_of_runs(true[ranked])] for x in (one, true))
        better = detections[one, 3] > best[true]
        best[true[better]] = detections[one[better], 3]
        found[true[better]] = detections[one[better], 2]
    counts = np.zeros((classes, classes + 1), np.int64)
    np.add.at(counts, (truth[:, 2].astype(np.int64), found), 1)
    return counts


def _pairs(detections: NDArray, truth: NDArray, starts: NDArray, stops: NDArray) -> Iterator[tuple]:
    """All pairs of a detection and a true box of its frame: two indices and the IoU, in portions."""
    for portion in np.array_split(np.flatnonzero(starts < stops), len(detections) // _PORTION + 1):
        which, true = expand(starts[portion], stops[portion])
        one = portion[which]
        yield one, true, iou(detections[one, 4:].astype(np.float64), truth[true, 4:], inclusive=True)


def _keys(rows: NDArray) -> NDArray[np.int64]:
    """One number per video and frame, in their order."""
    return rows[:, 0].astype(np.int64) << 32 | rows[:, 1].astype(np.int64)
