"""Video-mAP: are whole action tubes right?"""

from collections.abc import Iterable

import numpy as np

from amma_core.evaluation.curves import ERRORS, Curve, curve_of, mean_over_classes
from amma_core.evaluation.groups import expand, match
from amma_core.evaluation.tubes import Tubes, tube_iou, tube_nms


def video_map(tubes: Tubes, truth: Tubes, classes: int, threshold: float = 0.5) -> float:
    """Video-mAP in percent: the mean of :func:`video_curves` over the classes that have ground truth."""
    return mean_over_classes([curve.ap for curve in video_curves(tubes, truth, classes, [threshold])[0]])


def video_curves(
    tubes: Tubes, truth: Tubes, classes: int, thresholds: Iterable[float], nms: float = 0.3
) -> list[list[Curve]]:
    """Average precision of every class, per threshold of the spatio-temporal IoU.

    Per video and class, tubes that overlap a better one by more than ``nms`` are dropped first. The rest
    are taken by score (equal scores: by video, first frame, then position) and matched as the boxes of
    :func:`~amma_core.evaluation.frame_map.frame_curves` are. The curves' errors are not told apart: a
    tube that is wrong counts as ``O``.
    """
    tubes = tubes.take(tube_nms(tubes, nms))
    tubes = tubes.take(np.lexsort((tubes.first_frames, tubes.videos, -tubes.scores)))
    keys = truth.videos * classes + truth.labels
    by_key = np.argsort(keys, kind="stable")
    wanted = tubes.videos * classes + tubes.labels
    starts, stops = (np.searchsorted(keys[by_key], wanted, side) for side in ("left", "right"))
    one, found = expand(starts, stops)
    true = by_key[found]
    overlap = tube_iou(tubes, truth, one, true)
    chosen = np.lexsort((true, -overlap, one, wanted[one]))
    one, true, overlap = one[chosen], true[chosen], overlap[chosen]
    positives = np.bincount(truth.labels, minlength=classes)

    def at(threshold: float) -> list[Curve]:
        enough = np.flatnonzero(overlap >= threshold)
        made = enough[match(one[enough], true[enough], wanted[one[enough]])]
        outcomes = np.full(len(tubes), 1 + ERRORS.index("O"))
        outcomes[one[made]] = 0
        return [curve_of(outcomes[tubes.labels == label], int(positives[label])) for label in range(classes)]

    return [at(threshold) for threshold in thresholds]
