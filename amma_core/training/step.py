"""A network and what training minimises, as one module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.network import Amma
from amma_core.network.micro_motion import enlarge
from amma_core.training.losses import Losses, losses
from amma_core.training.recipe import Optimisation
from amma_core.training.targets import Targets


class Step(nn.Module):
    """A network and its losses as one module, which is what several processes have to share."""

    def __init__(
        self,
        network: Amma,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        hidden: float = 0.0,
    ):
        super().__init__()
        self.network = network
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.hidden = hidden

    @classmethod
    def of(cls, settings: Optimisation, network: Amma) -> "Step":
        """With what `settings` hides and smooths."""
        return cls(network, settings.dropout, settings.label_smoothing, settings.hidden_appearance)

    def forward(self, clips: Tensor, windows: Tensor, targets: Targets) -> Losses:
        config = self.network.config
        newest, motion = self.network.inputs(clips)
        if self.hidden:
            newest = self._hide(newest, windows)
        encoded = self.network.shrink(self.network.decoder(self.network.backbone(newest, motion)))
        # Whole channels of a clip: single cells would be filled in again from their neighbours.
        coarse = F.dropout2d(encoded, self.dropout)
        # As Amma.head, but every clip is enlarged once and not once per window.
        fine = enlarge(coarse, config.grid, config.upsample)
        return losses(self.network.branches(fine[windows]), targets, self.label_smoothing)

    def _hide(self, newest: Tensor, windows: Tensor) -> Tensor:
        """Paint over the (N, 3, S, S) newest frames of some windows: there only motion tells what happens."""
        shown = torch.ones(len(newest), device=newest.device)
        shown[windows[torch.rand(len(windows), device=newest.device) < self.hidden]] = 0.0
        return newest * shown[:, None, None, None]
