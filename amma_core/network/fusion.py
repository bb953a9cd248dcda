"""Two streams, appearance and motion, and the one-way connections between them (section 3.2)."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from amma_core.network.backbones import BACKBONES, CHANNELS


class TwoStreamBackbone(nn.Module):
    """(B, 3, S, S) newest frames and (B, 3, S, S) micro-motion -> (B, 512, S/32, S/32).

    After each of the first `fusion_stages` stages the appearance becomes a * appearance +
    (1 - a) * motion, with one learned a per stage. The motion stream never sees the appearance.

    With a `late_fusion` above 0, which is ours, the appearance's other stages look at the motion a second
    time, alone, and what they see of it takes that share of the outcome. `still` stands for the newest frame
    then: what is left of the appearance where nothing is seen.
    """

    def __init__(self, name: str, fusion_stages: int, late_fusion: float = 0.0):
        super().__init__()
        stages = BACKBONES[name]()
        self.appearance = nn.ModuleList(stages)
        self.motion = nn.ModuleList(deepcopy(stages[:fusion_stages]))
        self.appearance_share = nn.Parameter(torch.full((fusion_stages,), 0.6))
        self.late_fusion = late_fusion
        if late_fusion:
            self.still = nn.Parameter(torch.zeros(CHANNELS[name][fusion_stages - 1], 1, 1))

    def forward(self, frames: Tensor, motion: Tensor | None) -> Tensor:
        fused, share_of_motion = self.fuse(frames, motion)
        x = self._deep(fused)
        if not self.late_fusion:
            return x
        return torch.lerp(x, self._deep(self.still + share_of_motion), self.late_fusion)

    def fuse(self, frames: Tensor, motion: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the last fusion makes of both, and the motion's part of it, None without fusions."""
        x, share_of_motion = frames, None
        for stage, twin, share in zip(
            self.appearance, self.motion, self.appearance_share.clamp(0.0, 1.0), strict=False
        ):
            motion = twin(motion)
            share_of_motion = (1.0 - share) * motion
            x = share * stage(x) + share_of_motion
        return x, share_of_motion

    def _deep(self, x: Tensor) -> Tensor:
        """The stages without a motion twin."""
        for stage in self.appearance[len(self.motion) :]:
            x = stage(x)
        return x
