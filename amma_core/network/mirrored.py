"""Two views of everything: as it is, and in the mirror."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amma_core.network.amma import Amma
from amma_core.network.committee import Committee, CommitteeBranches
from amma_core.network.heads import Cells, Head


class MirroredAmma(nn.Module):
    """Looks at every clip and at its mirror image, and answers with the mean of what both say.

    Boxes fit better, for twice the work of the network below. It is right for networks that were trained with
    mirrored videos and whose actions have no side. A stream runs it as it runs an :class:`Amma`.
    """

    def __init__(self, network: Amma | Committee):
        super().__init__()
        self.config = network.config
        self.network = network
        self.branches = MirroredBranches(network.branches)

    def encode(self, clips: Tensor) -> Tensor:
        """(B, t, 3, S, S) clips -> (B, 2, 64, S/16, S/16): of each clip, and of its mirror image."""
        views = torch.stack([clips, clips.flip(-1)], dim=1)
        return self.network.encode(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def size(self, features: Tensor) -> Tensor:
        """(B, 2, 64, S/16, S/16) encoded clips -> (B, 2, G, G); see :meth:`Amma.size`."""
        seen, mirrored = _each(self.network.size, features)
        return (seen + unmirror(mirrored)) / 2

    def stack(self, features: Tensor) -> Tensor:
        """(B, K, 2, 64, S/16, S/16) encoded clips -> (B, 2, K * 64, G, G); see :meth:`Amma.stack`."""
        views = self.network.stack(features.transpose(1, 2).flatten(0, 1))
        return views.unflatten(0, (-1, 2))


class MirroredBranches(nn.Module):
    """What the branches say of (B, 2, K * 64, G, G) stacked features, images and mirror images: the mean.

    As in :class:`~amma_core.network.heads.Head`.
    """

    def __init__(self, branches: Head | CommitteeBranches):
        super().__init__()
        self.branches = branches

    def heat(self, stacked: Tensor) -> Tensor:
        seen, mirrored = _each(self.branches.heat, stacked)
        return (seen + unmirror(mirrored)) / 2

    def movement(self, stacked: Tensor) -> Tensor:
        seen, mirrored = _each(self.branches.movement, stacked)
        return (seen + unmirror_movement(mirrored)) / 2

    def movement_at(self, stacked: Tensor, at: Cells) -> Tensor:
        sample, row, column = at
        there = mirrored_columns(stacked)
        seen = self.branches.movement_at(stacked[:, 0], at)
        mirrored = self.branches.movement_at(stacked[:, 1], (sample, row, there[column]))
        return (seen + _turned(mirrored, _shift(there)[column, None])) / 2


def _each(look: Callable[[Tensor], Tensor], views: Tensor) -> tuple[Tensor, Tensor]:
    """What `look` says of the images and of the mirror images among (B, 2, ...) views, in one batch."""
    return look(views.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)


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
