"""What the network should answer for a window of K key frames (section 3.3)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MIN_OVERLAP = 0.7


class Targets(NamedTuple):
    """For M windows on a grid of G x G cells, with P actions between them."""

    heat: NDArray[np.float32]
    """(M, C, G, G) 1 at the newest key frame's centre cell, falling off around it."""
    window: NDArray[np.int64]
    """(P,) which window each action is in."""
    labels: NDArray[np.int64]
    """(P,) class of each action."""
    cells: NDArray[np.int64]
    """(P, K, 2) column and row of the cell that holds the centre on each key frame, oldest first."""
    movement: NDArray[np.float32]
    """(P, K, 2) centre on each key frame minus the newest centre's cell: (dx, dy) in cells."""
    size: NDArray[np.float32]
    """(P, K, 2) width and height on each key frame, in cells."""


def window_targets(boxes: NDArray, labels: NDArray, classes: int, grid: int) -> Targets:
    """Targets of one window: boxes (n, K, 4) in cells, oldest key frame first, labels (n,).

    Boxes are clipped to the grid. Actions whose centre on the newest key frame lies outside of it, or whose
    box there has no area left, are left out.
    """
    centre = (boxes[:, -1, :2] + boxes[:, -1, 2:]) / 2
    clipped = np.clip(boxes, 0, grid)
    size = clipped[..., 2:] - clipped[..., :2]
    seen = ((centre >= 0) & (centre <= grid) & (size[:, -1] > 0)).all(axis=1)
    clipped, size, labels = clipped[seen], size[seen], labels[seen]

    centres = (clipped[..., :2] + clipped[..., 2:]) / 2
    cells = np.clip(np.rint(centres), 0, grid - 1).astype(np.int64)
    heat = np.zeros((classes, grid, grid), np.float32)
    for label, cell, extent in zip(labels, cells[:, -1], size[:, -1], strict=True):
        draw_gaussian(heat[label], cell, gaussian_radius(*np.ceil(extent)))
    movement = centres - cells[:, -1:]
    window = np.zeros(len(labels), np.int64)
    real = (values.astype(np.float32) for values in (movement, size))
    return Targets(heat[None], window, labels.astype(np.int64), cells, *real)


def join(targets: list[Targets]) -> Targets:
    """The targets of several batches of windows as one."""
    offsets = np.cumsum([0, *(len(t.heat) for t in targets[:-1])])
    shifted = [t._replace(window=t.window + offset) for t, offset in zip(targets, offsets, strict=True)]
    return Targets(*(np.concatenate(parts) for parts in zip(*shifted, strict=True)))


def gaussian_radius(width: float, height: float, overlap: float = MIN_OVERLAP) -> int:
    """How many cells the centre of a box may be off, at the least, for the box to keep that IoU (CornerNet).

    Of the three cases (one corner in and one out, both in, both out) the smallest root counts, each with
    CornerNet's own formula (b + sqrt(b^2 - 4ac)) / 2, which later work kept for the sake of its results.
    """
    return max(0, int(radius_bound(width, height, overlap)))


def radius_bound(width: float, height: float, overlap: float = MIN_OVERLAP) -> float:
    total, area = width + height, width * height
    cases = (
        (1.0, total, area * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * total, (1 - overlap) * area),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * area),
    )
    return min((b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in cases)


def draw_gaussian(heat: NDArray[np.float32], cell: NDArray[np.int64], radius: int) -> None:
    """Raise a (G, G) map, in place, to a Gaussian of sigma (2 radius + 1) / 6 around a cell (column, row)."""
    column, row = cell
    sigma = (2 * radius + 1) / 6
    rows = slice(max(0, row - radius), row + radius + 1)
    columns = slice(max(0, column - radius), column + radius + 1)
    patch = heat[rows, columns]
    dy = np.arange(len(patch))[:, None] + rows.start - row
    dx = np.arange(patch.shape[1])[None] + columns.start - column
    np.maximum(patch, np.exp(-(dx**2 + dy**2) / (2 * sigma**2)), out=patch, casting="same_kind")
