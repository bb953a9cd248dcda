"""The detector head: where actions are, how they move, how large they are (section 3.3)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.network.decoder import FEATURE_CHANNELS

SHRUNK_CHANNELS = 64
HIDDEN_CHANNELS = 256
RARE_CENTER = 0.1
"""What the center branch says of every cell before training: most cells hold no action."""

Cells = tuple[Tensor, Tensor, Tensor]
"""N cells of maps (B, ..., G, G): sample, row and column, (N,) int64 each."""


class Maps(NamedTuple):
    """The head's answer on a grid of G x G cells, G = S/8."""

    heat: Tensor
    """(B, C, G, G) probability that an action of the class has its centre here on the newest key frame."""
    movement: Tensor
    """(B, 2K, G, G) for each key frame, oldest first, (dx, dy) in cells from here to the centre on it."""
    size: Tensor
    """(B, 2K, G, G) for each key frame, oldest first, (w, h) in cells of a box centred here on it."""


class Head(nn.Module):
    """(B, K, 64, G, G) clip features, oldest first -> Maps.

    The center and trajectory branches see all clips stacked; the box branch sees one clip at a time.
    """

    def __init__(self, clips: int, num_classes: int):
        super().__init__()
        self.center = _branch(clips * SHRUNK_CHANNELS, HIDDEN_CHANNELS, num_classes)
        self.trajectory = _branch(clips * SHRUNK_CHANNELS, HIDDEN_CHANNELS, 2 * clips)
        self.box = _branch(SHRUNK_CHANNELS, SHRUNK_CHANNELS, 2)
        nn.init.constant_(self.center[2].bias, math.log(RARE_CENTER / (1 - RARE_CENTER)))

    def forward(self, features: Tensor) -> Maps:
        stacked = features.flatten(1, 2)
        size = self.size(features.flatten(0, 1)).unflatten(0, features.shape[:2]).flatten(1, 2)
        return Maps(self.heat(stacked), self.movement(stacked), size)

    def heat(self, stacked: Tensor) -> Tensor:
        """What the center branch says of (B, K * 64, G, G) stacked features, see :class:`Maps`."""
        return self.center(stacked).float().sigmoid()

    def movement(self, stacked: Tensor) -> Tensor:
        """What the trajectory branch says of (B, K * 64, G, G) stacked features, see :class:`Maps`."""
        return self.trajectory(stacked).float()

    def movement_at(self, stacked: Tensor, at: Cells) -> Tensor:
        """(N, 2K), what :meth:`movement` is at N cells, without the work for all the others."""
        return _at_cells(self.trajectory, stacked, at).float()

    def size(self, features: Tensor) -> Tensor:
        """What the box branch says of (B, 64, G, G) clips: (B, 2, G, G), see :class:`Maps`."""
        return self.box(features).float()


def heat_and_movement(branches: nn.Module, stacked: Tensor, top: int | None = None) -> tuple[Tensor, Tensor]:
    """Two of the three maps, (B, C, G, G) and (B, 2K, G, G); see :class:`Maps`.

    `branches` is a :class:`Head` or answers as one. With `top`, movement is computed only where decoding
    reads it, at the cells of the `top` highest peaks (and of all that are as high as the last), and is 0
    elsewhere: less than a tenth of the cells, and the trajectory branch is two fifths of the head's work.
    """
    heat = branches.heat(stacked)
    if top is None:
        return heat, branches.movement(stacked)
    at = peak_cells(heat, top)
    return heat, _on_grid(branches.movement_at(stacked, at), at, heat)


def peak_cells(heat: Tensor, top: int) -> Cells:
    """The cells where (B, C, G, G) `heat` has its `top` highest peaks per sample.

    A peak is as in :func:`amma_core.decoding.decode`. Where several are as high as the last, all their cells.
    """
    heat = heat.nan_to_num(0.0)
    peaks = torch.where(heat == F.max_pool2d(heat, 3, stride=1, padding=1), heat, 0.0)
    least = peaks.flatten(1).topk(min(top, peaks[0].numel())).values[:, -1]
    return ((peaks >= least.view(-1, 1, 1, 1)) & (peaks > 0)).any(dim=1).nonzero(as_tuple=True)


def _on_grid(values: Tensor, at: Cells, like: Tensor) -> Tensor:
    """Lay (N, V) `values` of N cells on maps as large as (B, C, G, G) `like`: (B, V, G, G), elsewhere 0."""
    maps = values.new_zeros(len(like), *like.shape[-2:], values.shape[-1])
    maps[at] = values
    return maps.permute(0, 3, 1, 2)


def _at_cells(branch: nn.Sequential, maps: Tensor, at: Cells) -> Tensor:
    """What a branch answers to (B, C, G, G) maps at N cells alone: (N, outputs)."""
    first, _, last = branch
    sample, row, column = (index.view(-1, 1, 1) for index in at)
    around = torch.arange(3, device=maps.device)
    framed = F.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    patches = framed[sample, row + around.view(3, 1), column + around]  # (N, 3, 3, C)
    hidden = F.linear(patches.flatten(1), first.weight.permute(0, 2, 3, 1).flatten(1), first.bias)
    return F.linear(hidden.relu_(), last.weight.flatten(1), last.bias)


def shrink() -> nn.Sequential:
    """1x1 convolution of clip features to fewer channels, so that K of them can be stacked cheaply."""
    return nn.Sequential(
        nn.Conv2d(FEATURE_CHANNELS, SHRUNK_CHANNELS, kernel_size=1, bias=False),
        nn.BatchNorm2d(SHRUNK_CHANNELS),
    )


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, kernel_size=3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden, outputs, 1),
    )
