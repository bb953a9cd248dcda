"""Frame-mAP and its error analysis: are the boxes of single frames right?"""

import numpy as np
from numpy.typing import NDArray

from amma_core.boxes import iou
from amma_core.errors import AmmaError
from amma_core.evaluation.curves import ERRORS, Curve, curve_of, mean_over_classes
from amma_core.evaluation.groups import expand, match

MODES = ("untrimmed", "trimmed")
LOCATION, CLASS, TIME, OTHER = range(1, 1 + len(ERRORS))


def frame_map(
    detections: NDArray, truth: NDArray, classes: int, threshold: float = 0.5, mode: str = "untrimmed"
) -> float:
    """Frame-mAP in percent: the mean of :func:`frame_curves` over the classes that have ground truth."""
    return mean_over_classes(
        [curve.ap for curve in frame_curves(detections, truth, classes, threshold, mode)]
    )


def frame_curves(
    detections: NDArray, truth: NDArray, classes: int, threshold: float = 0.5, mode: str = "untrimmed"
) -> list[Curve]:
    """Average precision and errors of every class.

    Detections are taken by score (equal scores: by video, frame, then row). Of the true boxes of its
    class and frame that no better detection has taken, each looks at the one that it overlaps most. If
    their IoU reaches ``threshold``, it is right and takes that box. If not, it is an error of

    - location, if its frame has a box of its class at all (so a second box on a taken one, too);
    - class, otherwise, if it overlaps a box of another class enough;
    - time, otherwise, if its frame has no box of any class, but its video has one of its class;
    - other, otherwise.

    Args:
        detections: (N, 8) rows of video, frame, label, score, x1, y1, x2, y2.
        truth: (M, 8) likewise, the score unused (:meth:`~amma_core.evaluation.tubes.Tubes.frames`).
        classes: number of classes.
        threshold: smallest IoU of a match.
        mode: ``untrimmed`` counts every detection. ``trimmed`` leaves out those on frames without
            a box of their class in videos that have that class elsewhere.
    """
    if mode not in MODES:
        raise AmmaError(f"mode {mode!r} is unknown: choose one of {', '.join(MODES)}")
    detections, truth = np.asarray(detections), np.asarray(truth, np.float64)
    truth = truth[np.lexsort((truth[:, 1], truth[:, 0]))]
    curves = []
    for label in range(classes):
        own = truth[:, 2] == label
        of_class = detections[detections[:, 2] == label].astype(np.float64)
        ranked = of_class[np.lexsort((of_class[:, 1], of_class[:, 0], -of_class[:, 3]))]
        outcomes = _outcomes(ranked, truth[own], truth[~own], threshold)
        if mode == "trimmed":
            elsewhere = np.isin(ranked[:, 0], truth[own, 0]) & ~np.isin(_keys(ranked), _keys(truth[own]))
            outcomes = outcomes[~elsewhere]
        curves.append(curve_of(outcomes, int(own.sum())))
    return curves


def _outcomes(ranked: NDArray, own: NDArray, others: NDArray, threshold: float) -> NDArray[np.int64]:
    """What each detection of one class is: 0 right, else the kind of its error."""
    outcomes = np.full(len(ranked), OTHER)
    outcomes[np.isin(ranked[:, 0], own[:, 0])] = TIME

    detection, truth = _same_frame(ranked, others)
    outcomes[detection] = OTHER
    outcomes[detection[iou(ranked[detection, 4:], others[truth, 4:], inclusive=True) >= threshold]] = CLASS

    detection, truth = _same_frame(ranked, own)
    outcomes[detection] = LOCATION
    overlap = iou(ranked[detection, 4:], own[truth, 4:], inclusive=True)
    enough = overlap >= threshold
    detection, truth = detection[enough], truth[enough]
    right, _ = match((detection, truth), _keys(own)[truth], overlap[enough])
    outcomes[right] = 0
    return outcomes


def _keys(rows: NDArray) -> NDArray[np.int64]:
    """One number per video and frame."""
    return rows[:, 0].astype(np.int64) << 32 | rows[:, 1].astype(np.int64)


def _same_frame(detections: NDArray, truth: NDArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a detection and a true box of its frame; truth is sorted by video and frame."""
    keys, true_keys = _keys(detections), _keys(truth)
    return expand(np.searchsorted(true_keys, keys, "left"), np.searchsorted(true_keys, keys, "right"))
