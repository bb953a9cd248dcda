"""The network in torch, on a CPU or a GPU."""

import gc
import re
from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from amma_core.errors import AmmaError
from amma_core.network import Amma, Committee, MirroredAmma
from amma_core.network.heads import heat_and_movement
from amma_core.runtime import NumpyMaps

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchRuntime:
    """Runs an :class:`~amma_core.network.Amma`, or several as one; see :class:`~amma_core.runtime.Runtime`.

    `device` is ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``. Raises AmmaError for a
    device that is not there. `mirrored`: every clip is looked at in the mirror as well, see
    :class:`~amma_core.network.MirroredAmma`. The network is copied, and stays as it is.
    """

    def __init__(
        self,
        network: Amma | Committee,
        device: str = "auto",
        precision: str = "float32",
        mirrored: bool = False,
    ):
        if precision not in PRECISIONS:
            raise AmmaError(f"precision is {precision!r}, but must be one of {', '.join(PRECISIONS)}")
        self.config = network.config
        self.clips_encoded = 0
        self.device = find_device(device)
        self.precision = PRECISIONS[precision]
        seeing = MirroredAmma(network) if mirrored else network
        self._network = fold_batch_norm(seeing).to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def encode(self, clips: NDArray[np.uint8]) -> list[tuple[Tensor, Tensor]]:
        """Each clip's feature and, as these depend on no other clip, its sizes."""
        self.clips_encoded += len(clips)
        frames = torch.from_numpy(clips).to(self.device, non_blocking=True).permute(0, 1, 4, 2, 3)
        with self._autocast():
            features = self._network.encode(frames)
            return list(zip(features, self._network.size(features), strict=True))

    @torch.inference_mode()
    def head(self, windows: Sequence[Sequence[tuple[Tensor, Tensor]]], top: int | None) -> NumpyMaps:
        features = torch.stack([torch.stack([feature for feature, _ in window]) for window in windows])
        sizes = torch.stack([torch.cat([size for _, size in window]) for window in windows])
        # A GPU computes all of a map sooner than it finds the cells that matter.
        few = top if self.device.type == "cpu" else None
        with self._autocast():
            stacked = self._network.stack(features)
            heat, movement = heat_and_movement(self._network.branches, stacked, few)
        return tuple(values.float().cpu().numpy() for values in (heat, movement, sizes))

    def _autocast(self) -> torch.autocast:
        lower = self.precision is not torch.float32
        return torch.autocast(self.device.type, dtype=self.precision if lower else None, enabled=lower)


def free_gpu_memory() -> None:
    """Give back to the GPU what torch keeps of runtimes that nobody holds any more."""
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose batch normalisations are folded into the convolutions before them.

    The outputs are the same up to rounding; a pass over every feature map is saved.
    """
    network = deepcopy(network).eval()
    for chain in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(chain) - 1):
            conv, norm = chain[index], chain[index + 1]
            if isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(norm, nn.BatchNorm2d):
                chain[index] = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
                chain[index + 1] = nn.Identity()
    return network


def find_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N`` as a torch device; raises AmmaError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:(0|[1-9][0-9]?))?", name):
        raise AmmaError(f"there is no device {name!r}; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise AmmaError(f"device {name!r} was asked for, but torch sees {seen} GPUs; use device cpu or auto")
    return device
