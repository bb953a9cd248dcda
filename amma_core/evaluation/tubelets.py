"""From tubelets to scored boxes per frame, as frame-mAP wants them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from amma_core.boxes import iou, starts_of_runs
from amma_core.evaluation.groups import expand, followers
from amma_core.linker import TubeLinker
from amma_core.types import Tubelets


def frame_detections(steps: Iterable[Tubelets], video: int = 0, nms: float = 0.6) -> NDArray[np.float64]:
    """All boxes of all frames of one video: every tubelet's, not only those that became a tube.

    A tubelet gives its box at each of its K key frames (repeated ones too) and, with the same score,
    straight lines between them. A frame lies below several tubelets; :func:`soft_nms` then lowers the
    scores of boxes that repeat a better one of their class and frame. All boxes are kept.

    Args:
        steps: the detector's answers for one video, whose first frame has the number 1.
        video: what to write in the first column.
        nms: IoU above which a box repeats another.

    Returns:
        (N, 8) rows of video, frame, label, score, x1, y1, x2, y2, sorted by frame.
    """
    rows = np.concatenate([np.zeros((0, 8)), *(_rows(step, video) for step in steps)])
    rows = rows[np.argsort(rows[:, 1], kind="stable")]
    rows[:, 3] = soft_nms(
        rows[:, 1] * (rows[:, 2].max(initial=0) + 1) + rows[:, 2], rows[:, 3], rows[:, 4:], nms
    )
    return rows


def published_detections(steps: Iterable[Tubelets], video: int = 0) -> NDArray[np.float64]:
    """What a robot is told of each frame, when it is settled: at most t - 1 frames later.

    That is less than :func:`frame_detections` knows, which has a frame's boxes of all windows that reach back
    to it, of later ones too. The linker is as its node has it by default. Arguments and result are as there.
    """
    linker = TubeLinker()
    found = [np.zeros((0, 8))]
    for frame in (frame for step in steps for frame in linker.update(step).frames):
        before = np.full((len(frame), 2), [video, frame.number], np.float64)
        found.append(np.column_stack([before, frame.labels, frame.scores, frame.boxes]))
    return np.concatenate(found)


def _rows(step: Tubelets, video: int) -> NDArray[np.float64]:
    keys = np.asarray(step.key_numbers)
    # Each segment starts at a key frame and ends before the next; the last one is the last key frame alone.
    lengths = np.maximum(np.diff(keys, append=keys[-1]), 1)
    segment, frames = expand(keys, keys + lengths)
    towards = np.minimum(segment + 1, len(keys) - 1)
    part = ((frames - keys[segment]) / lengths[segment])[:, None]
    boxes = step.boxes.astype(np.float64)
    boxes = (boxes[:, segment] + part * (boxes[:, towards] - boxes[:, segment])).reshape(-1, 4)
    rows = np.full((len(boxes), 8), video, np.float64)
    rows[:, 1] = np.tile(frames, len(step))
    rows[:, 2] = np.repeat(step.labels, len(frames))
    rows[:, 3] = np.repeat(step.scores, len(frames))
    rows[:, 4:] = boxes
    return rows


def soft_nms(groups: NDArray, scores: NDArray, boxes: NDArray, threshold: float = 0.6) -> NDArray[np.float64]:
    """The scores after one-shot soft non-maximum suppression within every group.

    The best box (of equals, the first) stays; those whose IoU with it is above the threshold get
    their score times (1 - IoU), once, and lower nobody themselves. Then the best of the others, and so on.

    Args:
        groups: (N,) boxes of the same number compete.
        scores: (N,)
        boxes: (N, 4)
    """
    lowered = np.array(scores, np.float64)
    live = np.lexsort((-lowered, groups))
    while len(live):
        leaders, live = followers(live, starts_of_runs(groups[live]))
        overlap = iou(boxes[leaders], boxes[live], inclusive=True)
        repeats = overlap > threshold
        lowered[live[repeats]] *= 1 - overlap[repeats]
        live = live[~repeats]
    return lowered
