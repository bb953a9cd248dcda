"""From the backbone's coarse features to a map twice as fine (section 3.2, after CenterNet)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.network.backbones import OUT_CHANNELS

FEATURE_CHANNELS = 256


class DeformableConv2d(nn.Module):
    """Modulated deformable 3x3 convolution, stride 1 (Zhu et al. 2019), out of plain torch operations.

    A second convolution says, for each output cell and each of the nine taps, how far the tap moves
    (18 channels: dy, dx per tap) and how much it counts (9 logits). It starts at zero: taps where they
    belong, each counting one half. Exports to ONNX as GridSample (opset 16).
    """

    TAPS = 9

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.offsets = nn.Conv2d(inputs, 3 * self.TAPS, kernel_size=3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        offsets = self.offsets(x).float()
        shift = offsets[:, : 2 * self.TAPS].unflatten(1, (self.TAPS, 2))
        mask = offsets[:, 2 * self.TAPS :].sigmoid()

        rows = torch.arange(height, device=x.device, dtype=torch.float32).view(1, 1, height, 1)
        columns = torch.arange(width, device=x.device, dtype=torch.float32).view(1, 1, 1, width)
        tap = torch.arange(self.TAPS, device=x.device)
        y = rows + (tap // 3 - 1).view(1, -1, 1, 1) + shift[:, :, 0]
        x_ = columns + (tap % 3 - 1).view(1, -1, 1, 1) + shift[:, :, 1]
        # In grid_sample's units cell centres run from -1 + 1/n to 1 - 1/n (corners not aligned).
        grid = torch.stack(((2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)

        # One call samples all taps: they lie below each other, (B, C, 9 * H, W).
        sampled = F.grid_sample(x.float(), grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
        sampled = sampled.unflatten(2, (self.TAPS, height)) * mask.unsqueeze(1)
        columns_of_taps = sampled.flatten(1, 2).flatten(2)
        out = self.weight.flatten(1) @ columns_of_taps.to(x.dtype)
        return out.unflatten(2, (height, width)) + self.bias.view(1, -1, 1, 1)


class Decoder(nn.Sequential):
    """(B, 512, g, g) -> (B, 256, 2g, 2g)."""

    def __init__(self):
        super().__init__(
            DeformableConv2d(OUT_CHANNELS, FEATURE_CHANNELS),
            nn.BatchNorm2d(FEATURE_CHANNELS),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(FEATURE_CHANNELS, FEATURE_CHANNELS, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(FEATURE_CHANNELS),
            nn.ReLU(inplace=True),
        )
        nn.init.kaiming_uniform_(self[3].weight, nonlinearity="relu")
