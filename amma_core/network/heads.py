"""The detector head: where actions are, how they move, how large they are (section 3.3)."""

import math
from typing import NamedTuple

from torch import Tensor, nn

from amma_core.network.decoder import FEATURE_CHANNELS

SHRUNK_CHANNELS = 64
HIDDEN_CHANNELS = 256
RARE_CENTER = 0.1
"""What the center branch says of every cell before training: most cells hold no action."""


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
        batch = len(features)
        stacked = features.flatten(1, 2)
        size = self.box(features.flatten(0, 1)).unflatten(0, (batch, -1)).flatten(1, 2)
        return Maps(self.center(stacked).float().sigmoid(), self.trajectory(stacked).float(), size.float())


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
