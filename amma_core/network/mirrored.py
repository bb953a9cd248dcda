"""Two views of everything: as it is, and in the mirror."""

import torch
from torch import Tensor, nn

from amma_core.network.amma import Amma
from amma_core.network.heads import on_grid, peak_cells


class MirroredAmma(nn.Module):
    """Looks at every clip and at its mirror image, and answers with the mean of what both say.

    Boxes fit better, for twice the work of the network below. It is right for networks that were trained with
    mirrored videos and whose actions have no side. A stream runs it as it runs an :class:`Amma`.
    """

    def __init__(self, network: Amma):
        super().__init__()
        self.config = network.config
        self.network = network

    def encode(self, clips: Tensor) -> Tensor:
        """(B, t, 3, S, S) clips -> (B, 2, 64, S/16, S/16): of each clip, and of its mirror image."""
        views = torch.stack([clips, clips.flip(-1)], dim=1)
        return self.network.encode(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def size(self, features: Tensor) -> Tensor:
        """(B, 2, 64, S/16, S/16) encoded clips -> (B, 2, G, G); see :meth:`Amma.size`."""
        seen, mirrored = self.network.size(features.flatten(0, 1)).unflatten(0, features.shape[:2]).unbind(1)
        return (seen + unmirror(mirrored)) / 2

    def heat_and_movement(self, features: Tensor, top: int | None = None) -> tuple[Tensor, Tensor]:
        """(B, K, 2, 64, S/16, S/16) encoded clips, oldest first; see :meth:`Amma.heat_and_movement`."""
        branches = self.network.branches
        views = self.network.stack(features.transpose(1, 2).flatten(0, 1))
        seen, mirrored = branches.heat(views).unflatten(0, (-1, 2)).unbind(1)
        heat = (seen + unmirror(mirrored)) / 2
        if top is None:
            seen, mirrored = branches.movement(views).unflatten(0, (-1, 2)).unbind(1)
            return heat, (seen + unmirror_movement(mirrored)) / 2
        # The peaks of the mean need not be those of a view.
        sample, row, column = peak_cells(heat, top)
        there = mirrored_columns(heat)
        seen = branches.movement_at(views, (2 * sample, row, column))
        mirrored = branches.movement_at(views, (2 * sample + 1, row, there[column]))
        mirrored = _turned(mirrored, _shift(there)[column, None])
        return heat, on_grid((seen + mirrored) / 2, (sample, row, column), heat)


def mirrored_columns(maps: Tensor) -> Tensor:
    """(G,) where in the mirror image's maps (..., G) the image's columns are.

    A centre at x cells is marked in the column nearest to it, and in the mirror, where it is at G - x, in the
    column nearest to that: column i answers to G - i. There is no column G; the last one stands for it.
    """
    grid = maps.shape[-1]
    return (grid - torch.arange(grid, device=maps.device)).clamp(max=grid - 1)


def unmirror(maps: Tensor) -> Tensor:
    """What a mirror image's heat or sizes (..., G, G) say of the image itself."""
    return maps[..., mirrored_columns(maps)]


def unmirror_movement(movement: Tensor) -> Tensor:
    """What the movement (B, 2K, G, G) that was found in a mirror image says of the image itself."""
    return _turned(unmirror(movement), _shift(mirrored_columns(movement)))


def _turned(movement: Tensor, shift: Tensor) -> Tensor:
    """Movement (N, 2K, ...), read where it was in the mirror image, as it is in the image, in place."""
    movement[:, 0::2] = shift - movement[:, 0::2]
    return movement


def _shift(there: Tensor) -> Tensor:
    """Where in the image, in cells to the right of each column, the column is that its mirror image's is."""
    grid = len(there)
    return grid - there - torch.arange(grid, device=there.device)
