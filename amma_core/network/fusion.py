"""Two streams, appearance and motion, and the one-way connections between them (section 3.2)."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from amma_core.network.backbones import BACKBONES


class TwoStreamBackbone(nn.Module):
    """(B, 3, S, S) newest frames and (B, 3, S, S) micro-motion -> (B, 512, S/32, S/32).

    After each of the first `fusion_stages` stages the appearance becomes a * appearance +
    (1 - a) * motion, with one learned a per stage. The motion stream never sees the appearance.
    """

    def __init__(self, name: str, fusion_stages: int):
        super().__init__()
        stages = BACKBONES[name]()
        self.appearance = nn.ModuleList(stages)
        self.motion = nn.ModuleList(deepcopy(stages[:fusion_stages]))
        self.appearance_share = nn.Parameter(torch.full((fusion_stages,), 0.6))

    def forward(self, frames: Tensor, motion: Tensor | None) -> Tensor:
        x = frames
        shares = self.appearance_share.clamp(0.0, 1.0)
        for index, stage in enumerate(self.appearance):
            x = stage(x)
            if index < len(self.motion):
                motion = self.motion[index](motion)
                x = shares[index] * x + (1.0 - shares[index]) * motion
        return x
