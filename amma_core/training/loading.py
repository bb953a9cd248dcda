"""Which samples an epoch has, and how they come to a step."""

from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from amma_core.errors import AmmaError
from amma_core.training.recipe import Machine, Recipe
from amma_core.training.samples import Batch, Request, Samples, join_batches
from amma_core.training.targets import Targets


class Epochs:
    """A batch sampler: the requests of this process's share of the epoch that `epoch` says."""

    def __init__(self, count: int, recipe: Recipe, fabric: Fabric):
        self.epoch = 0
        self._count, self._recipe = count, recipe
        self._rank, self._processes = fabric.global_rank, fabric.world_size
        if count < self._processes:
            raise AmmaError(
                f"the videos to train on give {count} samples, but each of {self._processes} processes needs "
                "one: annotate more of them, or make sampling.stride or machine.devices smaller"
            )

    def __len__(self) -> int:
        return max(1, self._count // (self._batch * self._processes))

    @property
    def _batch(self) -> int:
        """Samples per step of this process; where there are fewer than a batch, all processes share them."""
        batch = self._recipe.phase_of(self.epoch).batch or self._recipe.optimisation.batch
        return max(1, min(batch, self._count) // self._processes)

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self._recipe.seed, self.epoch)).permutation(self._count)
        size = self._recipe.phase_of(self.epoch).input_size
        for step in range(len(self)):
            first = (step * self._processes + self._rank) * self._batch
            yield [Request(self.epoch, int(number), size) for number in order[first : first + self._batch]]


def to_loader(samples: Samples, epochs: Epochs, machine: Machine, fabric: Fabric) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=epochs,
        num_workers=machine.workers,
        collate_fn=to_tensors,
        persistent_workers=machine.workers > 0,
        pin_memory=fabric.device.type == "cuda",
        # Of its own, as its start draws a number, which would move what the step draws.
        generator=torch.Generator(),
    )


def to_tensors(samples: list[Batch]) -> tuple[Tensor, Tensor, Targets]:
    clips, windows, targets = join_batches(samples)
    return torch.from_numpy(clips), torch.from_numpy(windows), Targets(*map(torch.from_numpy, targets))


def to_step(batch: tuple[Tensor, Tensor, Targets], device: torch.device) -> tuple[Tensor, Tensor, Targets]:
    """What a loader gives, as :class:`Step` wants it: on the device, colours before rows and columns."""
    clips, windows, targets = batch
    targets = Targets(*(part.to(device, non_blocking=True) for part in targets))
    clips = clips.to(device, non_blocking=True).permute(0, 1, 4, 2, 3)
    return clips, windows.to(device, non_blocking=True), targets
