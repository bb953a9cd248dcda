"""Arithmetic on arrays of boxes: overlap, suppression, interpolation.

Boxes are ``x1, y1, x2, y2`` along the last axis. Widths are ``x2 - x1``; benchmarks of action detection
count pixels, ``x2 - x1 + 1``, and ask for that with ``inclusive=True``.
"""

import numpy as np
from numpy.typing import NDArray


def area(boxes: NDArray, inclusive: bool = False) -> NDArray:
    """Areas (...) of boxes (..., 4); inside-out boxes have none."""
    return _area(*_columns(boxes), int(inclusive))


def _columns(boxes: NDArray) -> list[NDArray]:
    return [boxes[..., i] for i in range(4)]


def _area(x1: NDArray, y1: NDArray, x2: NDArray, y2: NDArray, pixel: int) -> NDArray:
    return np.maximum(x2 - x1 + pixel, 0) * np.maximum(y2 - y1 + pixel, 0)


def iou(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """Intersection over union of boxes (..., 4) with boxes (..., 4), broadcast; 0 where both are empty."""
    x1, y1, x2, y2 = _columns(first)
    u1, v1, u2, v2 = _columns(second)
    corners = np.maximum(x1, u1), np.maximum(y1, v1), np.minimum(x2, u2), np.minimum(y2, v2)
    shared = _area(*corners, int(inclusive))
    union = area(first, inclusive) + area(second, inclusive) - shared
    return shared / np.where(union > 0, union, 1)


def iou_matrix(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """IoU (N, M) of each of N boxes (N, 4) with each of M boxes (M, 4)."""
    return iou(first[:, None], second[None], inclusive)


def mean_iou(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """IoU of tubelets (..., K, 4) with tubelets (..., K, 4), broadcast: the mean over their K boxes."""
    return iou(first, second, inclusive).mean(axis=-1)


def tubelet_nms(
    boxes: NDArray, labels: NDArray, scores: NDArray, threshold: float, top: int, inclusive: bool = False
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of tubelets, in each class by itself.

    The best tubelet of a class is kept and those of its class whose mean IoU with it exceeds
    ``threshold`` go; then the best of the rest, until ``top`` are kept. All classes take each of these
    turns together. Of equal scores the earlier tubelet goes first. Empty boxes overlap nothing, so tubelets
    of these, as an untrained network gives them, all stay.

    boxes: (N, K, 4); labels: (N,); scores: (N,).
    Returns the indices of the kept ones, ordered by class, then by falling score.
    """
    waiting = np.lexsort((-scores, labels))
    rounds = [waiting[:0]]
    for _ in range(top):
        if not len(waiting):
            break
        is_best = starts_of_runs(labels[waiting])
        best = waiting[is_best]
        rounds.append(best)
        rivals = best[np.cumsum(is_best) - 1]
        spared = mean_iou(boxes[waiting], boxes[rivals], inclusive) <= threshold
        waiting = waiting[spared & ~is_best]
    kept = np.concatenate(rounds)
    return kept[np.argsort(labels[kept], kind="stable")]


def starts_of_runs(values: NDArray) -> NDArray[np.bool_]:
    """Whether each of the values (n,) differs from the one before it; the first one does."""
    return np.concatenate([np.ones(len(values[:1]), bool), values[1:] != values[:-1]])


def merge_repeats(keys: NDArray, boxes: NDArray) -> tuple[NDArray, NDArray]:
    """One box per key frame: the mean of those that lie on the same one.

    keys: (K,) frame numbers, not falling; boxes: (..., K, 4). Returns the same with D <= K distinct keys.
    """
    starts = np.flatnonzero(starts_of_runs(keys))
    if len(starts) == len(keys):
        return keys, boxes
    counts = np.diff(starts, append=len(keys))
    merged = np.add.reduceat(boxes, starts, axis=-2) / counts[:, None]
    return keys[starts], merged.astype(boxes.dtype, copy=False)


def interpolate(keys: NDArray, boxes: NDArray, numbers: NDArray) -> NDArray:
    """Boxes on other frames, each coordinate linear in time between the key frames around them.

    keys: (K,) frame numbers, K >= 1, not falling, at any spacing (repeated ones: :func:`merge_repeats`);
    boxes: (..., K, 4); numbers: (M,) frames to fill. Returns (..., M, 4); frames outside the keys get the
    nearest key's box.
    """
    keys, boxes = merge_repeats(keys, boxes)
    if len(keys) == 1:
        return np.repeat(boxes, len(numbers), axis=-2)
    after = np.clip(np.searchsorted(keys, numbers, side="right"), 1, len(keys) - 1)
    before = after - 1
    weight = np.clip((numbers - keys[before]) / (keys[after] - keys[before]), 0, 1)[:, None]
    filled = boxes[..., before, :] * (1 - weight) + boxes[..., after, :] * weight
    return filled.astype(boxes.dtype, copy=False)


def clip(boxes: NDArray, image_size: tuple[int, int]) -> NDArray:
    """Boxes (..., 4) cut to an image of ``(width, height)``: x in 0..width-1, y in 0..height-1."""
    last = np.array(image_size) - 1
    limits = np.concatenate([last, last]).astype(boxes.dtype, copy=False)
    return np.clip(boxes, 0, limits)
