"""A network and what training minimises, as one module."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.network import Amma
from amma_core.network.micro_motion import enlarge
from amma_core.training.losses import Losses, disagreement, losses
from amma_core.training.targets import Targets


class Step(nn.Module):
    """A network and its losses as one module, which is what several processes have to share."""

    def __init__(
        self,
        network: Amma,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        hidden: float = 0.0,
        reader: nn.Module | None = None,
    ):
        super().__init__()
        self.network = network
        self.reader = reader
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.hidden = hidden

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
        features = fine[windows]
        found = losses(self.network.branches(features), targets, self.label_smoothing)
        if self.reader is None:
            return found
        read = self.reader(self._before_classes(features, targets))
        return found._replace(hint=disagreement(read, targets.hints))

    def _hide(self, newest: Tensor, windows: Tensor) -> Tensor:
        """Paint over the (N, 3, S, S) newest frames of some windows: there only motion tells what happens."""
        shown = torch.ones(len(newest), device=newest.device)
        shown[windows[torch.rand(len(windows), device=newest.device) < self.hidden]] = 0.0
        return newest * shown[:, None, None, None]

    def _before_classes(self, features: Tensor, targets: Targets) -> Tensor:
        """(P, 256) what the center branch's classes are told from, at the actions' newest centres."""
        columns, rows = (cell[:, None, None] for cell in targets.cells[:, -1].unbind(dim=1))
        three = torch.arange(3, device=features.device)
        framed = F.pad(features.flatten(1, 2), (1, 1, 1, 1))
        around = framed[targets.window[:, None, None], :, rows + three[:, None], columns + three]
        return self.network.branches.center[:2](around.permute(0, 3, 1, 2))[:, :, 1, 1]
