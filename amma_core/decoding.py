"""From the network's three maps to tubelets (section 3.3 of the paper)."""

import numpy as np

from amma_core import boxes as box
from amma_core.types import Floats, Ints


def decode(
    heat: Floats,
    movement: Floats,
    size: Floats,
    image_size: tuple[int, int],
    top: int = 100,
    add_motion_of_key: bool = True,
) -> tuple[Ints, Floats, Floats]:
    """Read the best tubelets off the maps of one sample.

    A tubelet stands where the heat of its class is positive and nowhere higher in the 3x3 cells around. Its
    centre at clip k is that cell plus the movement read there; its width and height are read at the moved
    centre's own cell, and for the newest clip, whose centre the heat marks, at the peak itself.

    Peaks where the network answers NaN or infinity are left out.

    heat: (C, G, G) probabilities;
    movement: (2K, G, G) in cells, dx and dy per clip, oldest clip first;
    size: (2K, G, G) in cells, width and height per clip;
    image_size: width and height of the source image in pixels;
    top: the most tubelets to return;
    add_motion_of_key: whether the newest clip's movement, which holds what the centre loses by rounding to a
    cell, is added as well. The paper leaves it out.

    Returns labels (N,) int64, scores (N,) float32 and boxes (N, K, 4) float32 in pixels, by falling score;
    equal scores by class, then row by row.
    """
    rows, columns = heat.shape[1:]
    clips = len(movement) // 2
    peaks = _peaks(heat, top)
    scores = heat.reshape(-1)[peaks]
    labels, cells = np.divmod(peaks, rows * columns)
    y, x = np.divmod(cells, columns)

    shifts = movement.reshape(clips, 2, -1)[:, :, cells]  # (K, 2, N)
    sane = np.isfinite(shifts).all(axis=(0, 1))
    moved = np.where(sane, shifts, 0)
    moved[-1] = 0
    cell_x = np.clip(np.rint(x + moved[:, 0]), 0, columns - 1).astype(np.int64)  # (K, N)
    cell_y = np.clip(np.rint(y + moved[:, 1]), 0, rows - 1).astype(np.int64)
    sides = size.reshape(clips, 2, rows, columns)[np.arange(clips)[:, None], :, cell_y, cell_x]  # (K, N, 2)
    sane &= np.isfinite(sides).all(axis=(0, 2))

    if not add_motion_of_key:
        shifts[-1] = 0
    shifts, sides, x, y = shifts[..., sane], sides[:, sane], x[sane], y[sane]
    centres = np.stack([x + shifts[:, 0], y + shifts[:, 1]], axis=-1)  # (K, N, 2)
    halves = np.maximum(sides, 0) / 2
    corners = np.concatenate([centres - halves, centres + halves], axis=-1).transpose(1, 0, 2)
    width, height = image_size
    scale = np.array([width / columns, height / rows] * 2)
    boxes = box.clip(corners * scale, image_size)
    return labels[sane], scores[sane], boxes.astype(np.float32)


def discount_copies(scores: Floats, key_numbers: Ints) -> Floats:
    """Lower the scores of a window of which a part are copies, as at the start of a stream: it has seen less.

    scores: (N,); key_numbers: (K,) frame numbers of the window's clips, the same for copies.
    """
    return scores * np.float32(len(np.unique(key_numbers)) / len(key_numbers))


def _peaks(heat: Floats, top: int) -> Ints:
    """Flat indices into ``heat`` of its ``top`` highest local maxima, highest first."""
    heat = np.where(np.isfinite(heat), heat, -np.inf)
    framed = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    tallest = np.maximum(np.maximum(framed[:, :-2], framed[:, 1:-1]), framed[:, 2:])
    tallest = np.maximum(np.maximum(tallest[:, :, :-2], tallest[:, :, 1:-1]), tallest[:, :, 2:])
    peaks = np.flatnonzero((heat == tallest) & (heat > 0))
    scores = heat.reshape(-1)[peaks]
    if len(peaks) > top:
        # A cut before the sort, as most local maxima are noise.
        worth = scores >= np.partition(scores, -top)[-top]
        peaks, scores = peaks[worth], scores[worth]
    return peaks[np.argsort(-scores, kind="stable")[:top]]
