"""Action tubes as flat arrays, their overlap, and their non-maximum suppression.

As in the field's own evaluation, both corners are inside a box: it is ``x2 - x1 + 1`` wide.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amma_core.boxes import iou, starts_of_runs
from amma_core.data.dataset import Video
from amma_core.evaluation.groups import expand, followers

# Pairs of tubes are compared in portions of about this many boxes, to bound the memory.
_PORTION = 2_000_000


@dataclass(frozen=True, eq=False)
class Tubes:
    """T tubes over several videos, predicted or annotated."""

    videos: NDArray[np.int64]
    """(T,) index of the video in its split."""
    labels: NDArray[np.int64]
    """(T,) class indices."""
    scores: NDArray[np.float64]
    """(T,) 1 for annotated tubes."""
    offsets: NDArray[np.int64]
    """(T + 1,) tube i has the boxes ``offsets[i]`` to ``offsets[i + 1]``; none is empty."""
    boxes: NDArray[np.float64]
    """(n, 5) frame, x1, y1, x2, y2; the frames of a tube increase."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, tubes: Iterable[tuple[int, int, float, ArrayLike]]) -> "Tubes":
        """From (video, label, score, boxes) each; boxes (n, 5), or (n, 6) whose last column is dropped."""
        videos, labels, scores, boxes = list(zip(*tubes, strict=True)) or ((), (), (), ())
        boxes = [np.asarray(rows, np.float64)[:, :5] for rows in boxes]
        return cls(
            np.array(videos, np.int64),
            np.array(labels, np.int64),
            np.array(scores, np.float64),
            np.cumsum([0, *map(len, boxes)], dtype=np.int64),
            np.concatenate([np.zeros((0, 5)), *boxes]),
        )

    @classmethod
    def join(cls, several: Iterable["Tubes"]) -> "Tubes":
        """All tubes of several, in their order."""
        several = [cls.of([]), *several]
        lengths = np.concatenate([np.diff(tubes.offsets) for tubes in several])
        arrays = {
            name: np.concatenate([getattr(tubes, name) for tubes in several])
            for name in ("videos", "labels", "scores", "boxes")
        }
        return cls(offsets=np.append(0, np.cumsum(lengths)), **arrays)

    @property
    def first_frames(self) -> NDArray[np.float64]:
        return self.boxes[self.offsets[:-1], 0]

    @property
    def last_frames(self) -> NDArray[np.float64]:
        return self.boxes[self.offsets[1:] - 1, 0]

    def take(self, indices: NDArray[np.int64]) -> "Tubes":
        """The tubes of these indices, in their order."""
        _, rows = expand(self.offsets[indices], self.offsets[indices + 1])
        offsets = np.concatenate([[0], np.cumsum(np.diff(self.offsets)[indices])])
        return Tubes(
            self.videos[indices], self.labels[indices], self.scores[indices], offsets, self.boxes[rows]
        )

    def frames(self) -> NDArray[np.float64]:
        """All boxes as frame detections: (n, 8) rows of video, frame, label, score, x1, y1, x2, y2."""
        tube = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        return np.column_stack(
            [self.videos[tube], self.boxes[:, 0], self.labels[tube], self.scores[tube], self.boxes[:, 1:]]
        )


def annotated_tubes(videos: Iterable[Video]) -> Tubes:
    """The ground truth of a split, with a score of 1."""
    return Tubes.of(
        (index, tube.label, 1.0, tube.boxes) for index, video in enumerate(videos) for tube in video.tubes
    )


def tube_iou(a: Tubes, b: Tubes, pick_a: NDArray, pick_b: NDArray) -> NDArray[np.float64]:
    """Spatio-temporal IoU of tube ``pick_a[i]`` of ``a`` with tube ``pick_b[i]`` of ``b``.

    That is the mean IoU of the boxes over the frames that both have, times the intersection over union
    of their time spans (first to last frame, both inside). Tubes are taken to be of the same video;
    ``pick_a`` and ``pick_b`` are (P,) indices.
    """
    first_a, last_a, first_b, last_b = a.first_frames, a.last_frames, b.first_frames, b.last_frames
    start = np.maximum(first_a[pick_a], first_b[pick_b])
    shared = np.minimum(last_a[pick_a], last_b[pick_b]) - start + 1
    union = np.maximum(last_a[pick_a], last_b[pick_b]) - np.minimum(first_a[pick_a], first_b[pick_b]) + 1
    mean = np.zeros(len(pick_a))
    together = np.flatnonzero(shared > 0)
    # One number per box, by which any box of `b` is found: its tube, then its frame.
    span = max(a.boxes[:, 0].max(initial=0), b.boxes[:, 0].max(initial=0)) + 1
    keys_b = np.repeat(np.arange(len(b)), np.diff(b.offsets)) * span + b.boxes[:, 0]
    portions = np.cumsum(np.diff(a.offsets)[pick_a[together]]) // _PORTION
    for portion in np.split(together, np.flatnonzero(np.diff(portions)) + 1):
        pair, rows = expand(a.offsets[pick_a[portion]], a.offsets[pick_a[portion] + 1])
        wanted = pick_b[portion][pair] * span + a.boxes[rows, 0]
        found = np.minimum(np.searchsorted(keys_b, wanted), len(keys_b) - 1)
        both = keys_b[found] == wanted
        spatial = iou(a.boxes[rows[both], 1:], b.boxes[found[both], 1:], inclusive=True)
        count = np.bincount(pair[both], minlength=len(portion))
        total = np.bincount(pair[both], spatial, minlength=len(portion))
        mean[portion] = total / np.maximum(count, 1)
    return mean * np.maximum(shared, 0) / union


def tube_nms(tubes: Tubes, threshold: float = 0.3) -> NDArray[np.int64]:
    """Indices of the tubes that stay: per video and class, the highest score first, each removes those
    whose spatio-temporal IoU with it is above the threshold. Ties: the earlier tube first."""
    group = tubes.videos * (tubes.labels.max(initial=0) + 1) + tubes.labels
    live = np.lexsort((tubes.first_frames, -tubes.scores, group))
    kept = []
    while len(live):
        first = starts_of_runs(group[live])
        kept.append(live[first])
        leaders, live = followers(live, first)
        live = live[tube_iou(tubes, tubes, leaders, live) <= threshold]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))
