"""Arithmetic on arrays of boxes: overlap, suppression, interpolation.

Boxes are ``x1, y1, x2, y2`` along the last axis. Widths are ``x2 - x1``; benchmarks of action detection
count pixels, ``x2 - x1 + 1``, and ask for that with ``inclusive=True``.
"""

import numpy as np
from numpy.typing import NDArray


def area(boxes: NDArray, inclusive: bool = False) -> NDArray:
    """Areas (...) of boxes (..., 4); inside-out boxes have none."""
    sides = boxes[..., 2:] - boxes[..., :2] + int(inclusive)
    return np.maximum(sides[..., 0], 0) * np.maximum(sides[..., 1], 0)


def iou(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """Intersection over union of boxes (..., 4) with boxes (..., 4), broadcast; 0 where both are empty."""
    left_top = np.maximum(first[..., :2], second[..., :2])
    right_bottom = np.minimum(first[..., 2:], second[..., 2:])
    shared = area(np.concatenate([left_top, right_bottom], axis=-1), inclusive)
    union = area(first, inclusive) + area(second, inclusive) - shared
    return shared / np.where(union > 0, union, 1)


def iou_matrix(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """IoU (N, M) of each of N boxes (N, 4) with each of M boxes (M, 4)."""
    return iou(first[:, None], second[None], inclusive)


def mean_iou(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """IoU of tubelets (..., K, 4) with tubelets (..., K, 4), broadcast: the mean over their K boxes."""
    return iou(first, second, inclusive).mean(axis=-1)


def mean_iou_matrix(first: NDArray, second: NDArray, inclusive: bool = False) -> NDArray:
    """Mean IoU (N, M) of each of N tubelets (N, K, 4) with each of M tubelets (M, K, 4)."""
    return mean_iou(first[:, None], second[None], inclusive)


def tubelet_nms(
    boxes: NDArray, labels: NDArray, scores: NDArray, threshold: float, top: int, inclusive: bool = False
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of tubelets, in each class by itself.

    The best tubelet of a class is kept and those of its class whose mean IoU with it exceeds
    ``threshold`` go; then the best of the rest, until ``top`` are kept. All classes take each of these
    turns together. Of equal scores the earlier tubelet goes first.

    boxes: (N, K, 4); labels: (N,); scores: (N,).
    Returns the indices of the kept ones, ordered by class, then by falling score.
    """
    waiting = np.lexsort((-scores, labels))
    rounds = [waiting[:0]]
    for _ in range(top):
        if not len(waiting):
            break
        _, first, group = np.unique(labels[waiting], return_index=True, return_inverse=True)
        best = waiting[first]
        rounds.append(best)
        spared = mean_iou(boxes[waiting], boxes[best[group]], inclusive) <= threshold
        spared[first] = False
        waiting = waiting[spared]
    kept = np.concatenate(rounds)
    return kept[np.argsort(labels[kept], kind="stable")]


def merge_repeats(keys: NDArray, boxes: NDArray) -> tuple[NDArray, NDArray]:
    """One box per key frame: the mean of those that lie on the same one.

    keys: (K,) frame numbers, not falling; boxes: (..., K, 4). Returns the same with D <= K distinct keys.
    """
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
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
