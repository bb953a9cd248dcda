"""What a network costs: parameters and multiply-adds."""

from collections import Counter

import torch
from torch import nn

from amma_core.config import NetworkConfig
from amma_core.network.amma import Amma
from amma_core.network.decoder import DeformableConv2d


def parameter_count(module: nn.Module) -> int:
    """Trainable numbers in a module."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def multiply_adds(config: NetworkConfig) -> dict[str, float]:
    """Multiply-adds per clip of each part of the network, by the name of the part.

    Strict counting: convolutions, transposed and deformable convolutions alone; a whole K-clip inference
    divided by K. Nothing is computed: the shapes are enough.
    """
    with torch.device("meta"):
        network = Amma(config).eval()
        clips = torch.zeros(1, config.clips, config.clip_length, 3, config.input_size, config.input_size)
    total = Counter()

    def count(part: str):
        def hook(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
            # A transposed convolution spends its kernel on every input cell, the others on every output cell.
            transposed = isinstance(layer, nn.ConvTranspose2d)
            cells = (inputs[0] if transposed else output)[:, 0].numel()
            total[part] += cells * layer.weight.numel() / config.clips

        return hook

    for part, module in network.named_children():
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, DeformableConv2d)):
                layer.register_forward_hook(count(part))
    with torch.no_grad():
        network(clips)
    return dict(total)


def gmacs_per_clip(config: NetworkConfig) -> float:
    """Billions of multiply-adds per clip; see :func:`multiply_adds`."""
    return sum(multiply_adds(config).values()) / 1e9
