"""Two views of everything: as it is, and in the mirror."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amma_core.runtime import NumpyMaps, Runtime


class MirroredRuntime:
    """Looks at every clip and at its mirror image, and answers with the mean of what both say.

    Boxes fit better, for twice the work of the runtime below, and for movement everywhere, which it need not
    compute otherwise. It is right for models that were trained with mirrored videos and whose actions have no
    side. See :class:`Runtime`.
    """

    def __init__(self, runtime: Runtime):
        self.config = runtime.config
        self._runtime = runtime

    @property
    def clips_encoded(self) -> int:
        return self._runtime.clips_encoded

    def encode(self, clips: NDArray[np.uint8]) -> list[tuple[Any, Any]]:
        """The features of each clip and of its mirror image."""
        features = self._runtime.encode(np.concatenate([clips, clips[:, :, :, ::-1]]))
        return list(zip(features[: len(clips)], features[len(clips) :], strict=True))

    def head(self, windows: Sequence[Sequence[tuple[Any, Any]]], top: int | None) -> NumpyMaps:
        """Movement is not left out anywhere: the peaks of the mean need not be those of a view."""
        views = [[pair[view] for pair in window] for view in (0, 1) for window in windows]
        maps = self._runtime.head(views, None)
        seen, mirrored = zip(*(np.split(values, 2) for values in maps), strict=True)
        return tuple((a + b) / 2 for a, b in zip(seen, unmirror(*mirrored), strict=True))


def unmirror(heat: NDArray, movement: NDArray, size: NDArray) -> NumpyMaps:
    """What the maps of a mirrored image say of the image itself.

    A centre at x cells is marked in the column nearest to it, and in the mirror, where it is at G - x, in the
    column nearest to that: column i answers to G - i. There is no column G; the last one stands for it.
    """
    grid = heat.shape[-1]
    columns = np.arange(grid)
    theirs = np.minimum(grid - columns, grid - 1)
    heat, movement, size = (np.ascontiguousarray(values[..., theirs]) for values in (heat, movement, size))
    movement[:, 0::2] = (grid - theirs - columns) - movement[:, 0::2]
    return heat, movement, size
