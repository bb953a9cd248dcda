"""Ways around kernels that are slow on CPUs (measured with torch 2.13 on AVX-512)."""

import ctypes

import torch
from torch import Tensor, nn

from amma_core.network import Amma
from amma_core.network.micro_motion import halve


def make_faster(network: Amma, frozen_norms: bool) -> None:
    """All that this module knows for a network to train on a CPU, in place; weights and names stay."""
    spare_slow_kernels(network)
    if frozen_norms:
        absorb_norms(network)
    keep_freed_memory()


def spare_slow_kernels(network: Amma) -> None:
    """Let some modules of `network` compute the same in another way, in place; weights and names stay."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            if module.kernel_size == (5, 5) or module.stride == (2, 2):
                module.__class__ = FullPrecisionConv2d
        elif isinstance(module, nn.MaxPool2d) and (module.kernel_size, module.stride, module.padding) == (
            3,
            2,
            1,
        ):
            module.__class__ = SlicedMaxPool2d
        elif type(module) is nn.ReLU6:
            module.__class__ = FrugalReLU6


def absorb_norms(network: Amma) -> None:
    """Let convolutions do the work of the batch norms behind them, in place; weights and names stay.

    For norms that keep their statistics: they are then a scale and a shift, and a pass over every map is
    saved, forth and back.
    """
    for module in network.modules():
        if type(module) is nn.Sequential:
            module.__class__ = AbsorbingSequential


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, where it is glibc.

    Otherwise it gives large blocks back to the system, and every step waits for cleared pages.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_threshold, 2**25)  # the most it takes


class FullPrecisionConv2d(nn.Conv2d):
    """For 5x5 and for strided depthwise convolutions: bfloat16 makes their gradients 2 to 30 times slower."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not (x.requires_grad or weight.requires_grad):
            return super()._conv_forward(x, weight, bias)
        with torch.autocast(x.device.type, enabled=False):
            return super()._conv_forward(x.float(), weight, bias)


class AbsorbingSequential(nn.Sequential):
    """Layers one after the other, where a batch norm behind a convolution without bias is computed as a part
    of it."""

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            normed = bool(layers) and isinstance(layers[0], nn.BatchNorm2d)
            if normed and isinstance(layer, nn.Conv2d) and layer.bias is None:
                norm = layers.pop(0)
                slope = norm.weight * (norm.running_var + norm.eps).rsqrt()
                weight, shift = layer.weight * slope.view(-1, 1, 1, 1), norm.bias - norm.running_mean * slope
                x = layer._conv_forward(x, weight, shift)
            else:
                x = layer(x)
        return x


class FrugalReLU6(nn.ReLU6):
    """In place without a copy: torch keeps the input for the gradient, but the output tells as much."""

    def forward(self, x: Tensor) -> Tensor:
        return _Clamp.apply(x) if self.inplace and x.requires_grad else super().forward(x)


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(0, 6))
        return x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, 0, 6)


class SlicedMaxPool2d(nn.MaxPool2d):
    """3x3, stride 2, padding 1, of even-sized maps behind a ReLU: a fourth of the time."""

    def forward(self, x: Tensor) -> Tensor:
        return halve(x)
