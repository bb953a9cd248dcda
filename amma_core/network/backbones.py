"""The image networks that AMMA is built on, cut into the stages between which motion is blended in.

A backbone is a list of stages; the first ones can have a motion twin (`amma_core.config.FUSIBLE_STAGES`).
Modules stand in the order of the widely used ImageNet implementations, so that such weights load by position.

    stage          1        2        3        4        5
    resnet18       64@72    64@72    128@36   256@18   512@9      (sizes for a 288 pixel input)
    mobilenet_v2   16@144   24@72    32@36    512@9
    shufflenet_v2  24@72    116@36   232@18   512@9
    efficientnet_lite0  as mobilenet_v2, but 40@36

The first three are the paper's; EfficientNet-Lite0 (Tan and Le 2019, without its squeeze-and-excitation
and with ReLU6, for edge processors) is ours.
"""

import torch
from torch import Tensor, nn

OUT_CHANNELS = 512
"""Channels after the last stage, at 1/32 of the input's side."""


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (divided by the stride), and its batch normalisation."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            *conv_bn(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *conv_bn(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand, filter each channel alone, project (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int, kernel: int = 3):
        super().__init__()
        hidden = inputs * expand
        widen = [*conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True)] if expand > 1 else []
        self.body = nn.Sequential(
            *widen,
            *conv_bn(hidden, hidden, kernel, stride, groups=hidden),
            nn.ReLU6(inplace=True),
            *conv_bn(hidden, outputs, 1),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class ShuffleUnit(nn.Module):
    """Half the channels pass, the other half is filtered, then both are shuffled (Ma et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.downsamples = stride > 1
        if self.downsamples:
            self.shortcut = nn.Sequential(
                *conv_bn(inputs, inputs, 3, stride, groups=inputs),
                *conv_bn(inputs, half, 1),
                nn.ReLU(inplace=True),
            )
        self.body = nn.Sequential(
            *conv_bn(inputs if self.downsamples else half, half, 1),
            nn.ReLU(inplace=True),
            *conv_bn(half, half, 3, stride, groups=half),
            *conv_bn(half, half, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        kept, worked = (self.shortcut(x), x) if self.downsamples else x.chunk(2, dim=1)
        both = torch.cat((kept, self.body(worked)), dim=1)
        # Channel shuffle: interleave the two halves.
        return both.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)


def resnet18() -> list[nn.Module]:
    def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1))

    stem = nn.Sequential(*conv_bn(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1))
    return [stem, stage(64, 64, 1), stage(64, 128, 2), stage(128, 256, 2), stage(256, OUT_CHANNELS, 2)]


def mobilenet_v2() -> list[nn.Module]:
    return [
        nn.Sequential(*conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True), InvertedResidual(32, 16, 1, expand=1)),
        nn.Sequential(*inverted_residuals(16, 24, 2, 2)),
        nn.Sequential(*inverted_residuals(24, 32, 2, 3)),
        nn.Sequential(
            *inverted_residuals(32, 64, 2, 4),
            *inverted_residuals(64, 96, 1, 3),
            *inverted_residuals(96, 160, 2, 3),
            *inverted_residuals(160, 320, 1, 1),
            *conv_bn(320, 1280, 1),
            nn.ReLU6(inplace=True),
            *conv_bn(1280, OUT_CHANNELS, 1),
        ),
    ]


def efficientnet_lite0() -> list[nn.Module]:
    return [
        nn.Sequential(*conv_bn(3, 32, 3, 2), nn.ReLU6(inplace=True), InvertedResidual(32, 16, 1, expand=1)),
        nn.Sequential(*inverted_residuals(16, 24, 2, 2)),
        nn.Sequential(*inverted_residuals(24, 40, 2, 2, kernel=5)),
        nn.Sequential(
            *inverted_residuals(40, 80, 2, 3),
            *inverted_residuals(80, 112, 1, 3, kernel=5),
            *inverted_residuals(112, 192, 2, 4, kernel=5),
            *inverted_residuals(192, 320, 1, 1),
            *conv_bn(320, 1280, 1),
            nn.ReLU6(inplace=True),
            *conv_bn(1280, OUT_CHANNELS, 1),
        ),
    ]


def inverted_residuals(
    inputs: int, outputs: int, stride: int, count: int, kernel: int = 3
) -> list[nn.Module]:
    """`count` blocks of expansion 6, of which the first one strides and changes the channels."""
    first = InvertedResidual(inputs, outputs, stride, 6, kernel)
    return [first, *(InvertedResidual(outputs, outputs, 1, 6, kernel) for _ in range(count - 1))]


def shufflenet_v2() -> list[nn.Module]:
    def units(inputs: int, outputs: int, count: int) -> list[nn.Module]:
        return [
            ShuffleUnit(inputs, outputs, 2),
            *(ShuffleUnit(outputs, outputs, 1) for _ in range(count - 1)),
        ]

    return [
        nn.Sequential(*conv_bn(3, 24, 3, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)),
        nn.Sequential(*units(24, 116, 4)),
        nn.Sequential(*units(116, 232, 8)),
        nn.Sequential(
            *units(232, 464, 4),
            *conv_bn(464, 1024, 1),
            nn.ReLU(inplace=True),
            *conv_bn(1024, OUT_CHANNELS, 1),
        ),
    ]


BACKBONES = {
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "shufflenet_v2": shufflenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
}
"""Makers of lists of stages, by the names that :class:`~amma_core.config.NetworkConfig` knows."""

CHANNELS = {
    "resnet18": (64, 64, 128, 256, OUT_CHANNELS),
    "mobilenet_v2": (16, 24, 32, OUT_CHANNELS),
    "shufflenet_v2": (24, 116, 232, OUT_CHANNELS),
    "efficientnet_lite0": (16, 24, 40, OUT_CHANNELS),
}
"""Channels after each stage."""
