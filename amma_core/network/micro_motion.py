"""Accumulated micro-motion: what moved within a clip, as an image (section 3.2, equations 1 to 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.config import COMPARED_FRAMES

EPSILON = 1e-6


class MicroMotion(nn.Module):
    """Motion boundaries of a clip: (B, t, 3, S, S) BGR frames in 0..255, of even size -> (B, 3, S, S).

    Each of the first three frames is compared with the last one at half resolution; the length of the
    difference over all feature channels is one output channel, oldest first.

    `learned` compares shallow features, the response of eight 5x5 filters (MM_Conv_Diff); otherwise the
    colours themselves are compared (MM_Diff).
    """

    def __init__(self, learned: bool, upsample: str):
        super().__init__()
        # The paper prints a padding of 3, which contradicts its own sizes: 2 keeps them.
        self.filters = _nearly_the_colours() if learned else nn.Identity()
        self.upsample = upsample

    def forward(self, clips: Tensor) -> Tensor:
        batch, length = clips.shape[:2]
        # Pooled before they are standardised, which comes to the same: fewer pixels, and of one byte each.
        features = self.filters(normalise(halve(clips.flatten(0, 1))))
        features = features.unflatten(0, (batch, length)).float()
        difference = features[:, :COMPARED_FRAMES] - features[:, -1:] + EPSILON
        # The square root's slope is infinite at 0; the floor lies far under EPSILON squared.
        length_of_difference = difference.square().sum(dim=2).clamp_min(1e-14).sqrt()
        return enlarge(length_of_difference, clips.shape[-1], self.upsample)


def _nearly_the_colours() -> nn.Conv2d:
    """Filters that are learned from plain differences on: three of the eight begin as the colours themselves.

    Filters that begin at random are nearly as random after a thousand steps, and tell less than the colours.
    The others begin small, not at 0, where the length of the difference has no slope.
    """
    filters = nn.Conv2d(3, 8, kernel_size=5, padding=2)
    with torch.no_grad():
        filters.weight *= 0.1
        filters.weight[:3] = 0.0
        filters.weight[range(3), range(3), 2, 2] = 1.0
    return filters


def halve(frames: Tensor) -> Tensor:
    """Max-pooling by 3x3 at stride 2 and padding 1 of (..., H, W) values >= 0, of any type, H and W even.

    By rows, then by columns: a ninth of the time of torch's own on a CPU, which knows no bytes.
    """
    padded = F.pad(frames, (1, 0, 1, 0))
    rows = torch.maximum(padded[..., :-2:2, :], padded[..., 1:-1:2, :])
    rows = torch.maximum(rows, padded[..., 2::2, :])
    columns = torch.maximum(rows[..., :-2:2], rows[..., 1:-1:2])
    return torch.maximum(columns, rows[..., 2::2])


def enlarge(maps: Tensor, size: int, mode: str) -> Tensor:
    """Resize (B, C, h, w) maps to (B, C, size, size); cell edges, not cell centres, are aligned."""
    if maps.shape[-1] == size:
        return maps
    return F.interpolate(
        maps, size=(size, size), mode=mode, **({"align_corners": False} if mode == "bilinear" else {})
    )


def normalise(frames: Tensor) -> Tensor:
    """BGR values in 0..255 (..., 3, S, S) -> float32, standardised with the statistics of COCO."""
    mean = torch.tensor([0.40789654, 0.44719302, 0.47026115], device=frames.device).view(3, 1, 1)
    std = torch.tensor([0.28863828, 0.27408164, 0.27809835], device=frames.device).view(3, 1, 1)
    return (frames.float() - 255.0 * mean) / (255.0 * std)
