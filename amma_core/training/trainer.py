"""The training loop."""

import csv
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from amma_core import bundle
from amma_core.data.cache import FrameCache, open_or_build
from amma_core.data.dataset import Video, load_dataset
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.network.heads import HIDDEN_CHANNELS
from amma_core.network.micro_motion import enlarge
from amma_core.training.cpu import spare_slow_kernels
from amma_core.training.hints import open_or_make
from amma_core.training.inherit import inherit
from amma_core.training.initial_weights import load_initial_weights
from amma_core.training.losses import Losses, disagreement, losses
from amma_core.training.recipe import Data, Machine, Optimisation, Phase, Recipe
from amma_core.training.samples import Batch, Request, Samples, join_batches
from amma_core.training.targets import Targets
from amma_core.training.validation import validate

CHECKPOINT = "last.ckpt"
LOG = "log.csv"
READER_HURRY = 5.0
"""Learning rate of the layer that reads a teacher's features, as a factor: it starts from nothing."""


def train(recipe: Recipe, folder: Path, weights_cache: Path) -> Path:
    """Train as `recipe` says, in `folder`; returns the folder of the best bundle.

    A run that was cut short goes on after its last whole epoch, to the same result: everything random follows
    from the seed and the epoch. Raises AmmaError for settings or data that don't fit.
    """
    fabric = make_fabric(recipe.machine)
    dataset = load_dataset(recipe.data.annotations)
    training, validation = hold_out(dataset.split(recipe.data.train), recipe.data)
    with fabric.rank_zero_first():
        folder.mkdir(parents=True, exist_ok=True)
        cache = open_or_build(
            Path(recipe.data.cache), {v.name: v.file for v in training + validation}, recipe.data.max_side
        )

    torch.manual_seed(recipe.seed)
    config = recipe.network_config(len(dataset.labels))
    network = Amma(config)
    if recipe.initial_model is not None:
        inherit(network, bundle.load(recipe.initial_model), dataset.labels)
    else:
        if recipe.initial_weights is not None:
            with fabric.rank_zero_first():
                load_initial_weights(network, recipe.initial_weights, weights_cache)
        if recipe.appearance_share is not None:
            network.backbone.appearance_share.data.copy_(torch.tensor(recipe.appearance_share))
    network.to(fabric.device, memory_format=torch.channels_last)
    if fabric.device.type == "cpu":
        spare_slow_kernels(network)

    hints = None
    if recipe.teacher is not None:
        with fabric.rank_zero_first():
            hints = open_or_make(Path(recipe.teacher), training, cache, weights_cache, fabric.device)
    samples = Samples(
        training,
        cache,
        config,
        recipe.augmentation,
        recipe.sampling.windows,
        recipe.sampling.stride,
        recipe.seed,
        hints,
    )
    run = Run(fabric, recipe, network, samples, validation, cache, folder)
    run.resume()
    run.go_on()
    return folder / "best"


def make_fabric(machine: Machine) -> Fabric:
    """Lightning Fabric on the recipe's devices, with as many processes as there are."""
    cv2.setNumThreads(1)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    several = machine.devices * machine.nodes > 1
    fabric = Fabric(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        precision=machine.precision,
        strategy="ddp" if several else "auto",
    )
    fabric.launch()
    if machine.threads:  # the launcher's processes start with their own idea
        torch.set_num_threads(machine.threads)
    return fabric


def hold_out(videos: list[Video], data: Data) -> tuple[list[Video], list[Video]]:
    """Split by groups into what is trained on and what is validated on.

    The same way for every seed: a run that starts from another run's model must not be validated on videos
    that the other was trained on.
    """
    matches = [re.match(data.group, video.name) if data.group else None for video in videos]
    groups = [match.group() if match else video.name for match, video in zip(matches, videos, strict=True)]
    names = sorted(set(groups))
    count = round(data.validation * len(names))
    held = {names[i] for i in np.random.default_rng(0).permutation(len(names))[:count]}
    training = [video for video, group in zip(videos, groups, strict=True) if group not in held]
    if not training:
        raise AmmaError(f"data.validation is {data.validation}: nothing is left to train on")
    return training, [video for video, group in zip(videos, groups, strict=True) if group in held]


class Step(nn.Module):
    """A network and its losses as one module, which is what several processes have to share."""

    def __init__(
        self,
        network: Amma,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        reader: nn.Module | None = None,
    ):
        super().__init__()
        self.network = network
        self.reader = reader
        self.dropout = dropout
        self.label_smoothing = label_smoothing

    def forward(self, clips: Tensor, windows: Tensor, targets: Targets) -> Losses:
        config = self.network.config
        # Whole channels of a clip: single cells would be filled in again from their neighbours.
        coarse = F.dropout2d(self.network.encode(clips), self.dropout)
        # As Amma.head, but every clip is enlarged once and not once per window.
        fine = enlarge(coarse, config.grid, config.upsample)
        features = fine[windows]
        found = losses(self.network.branches(features), targets, self.label_smoothing)
        if self.reader is None:
            return found
        read = self.reader(self._hidden(features, targets))
        return found._replace(hint=disagreement(read, targets.hints))

    def _hidden(self, features: Tensor, targets: Targets) -> Tensor:
        """(P, 256) what the center branch's classes are told from, at the actions' newest centres."""
        columns, rows = (cell[:, None, None] for cell in targets.cells[:, -1].unbind(dim=1))
        three = torch.arange(3, device=features.device)
        framed = F.pad(features.flatten(1, 2), (1, 1, 1, 1))
        around = framed[targets.window[:, None, None], :, rows + three[:, None], columns + three]
        return self.network.branches.center[:2](around.permute(0, 3, 1, 2))[:, :, 1, 1]


class Average:
    """Exponential moving average of a network's weights and batch statistics.

    The decay is smaller at first, so that the random start is soon forgotten.
    """

    def __init__(self, network: Amma, decay: float):
        self.decay = decay
        self.steps = 0
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: Amma) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        state = network.state_dict()
        floating = [name for name, value in state.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in floating], [state[n] for n in floating], 1 - decay)

    def state_dict(self) -> dict:
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict) -> None:
        self.steps, self.values = state["steps"], state["values"]


class Epochs:
    """A batch sampler: the requests of this process's share of the epoch that `epoch` says."""

    def __init__(self, count: int, recipe: Recipe, fabric: Fabric):
        self.epoch = 0
        self._count, self._recipe = count, recipe
        self._rank, self._processes = fabric.global_rank, fabric.world_size

    def __len__(self) -> int:
        return max(1, self._count // (self._batch * self._processes))

    @property
    def _batch(self) -> int:
        """Samples per step of this process."""
        batch = self._recipe.phase_of(self.epoch).batch or self._recipe.optimisation.batch
        return max(1, batch // self._processes)

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self._recipe.seed, self.epoch)).permutation(self._count)
        size = self._recipe.phase_of(self.epoch).input_size
        for step in range(len(self)):
            first = (step * self._processes + self._rank) * self._batch
            yield [Request(self.epoch, int(number), size) for number in order[first : first + self._batch]]


class Progress(NamedTuple):
    epoch: int
    best: float


class Run:
    """One training run on one process: its state, and the loop."""

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        network: Amma,
        samples: Samples,
        validation: list[Video],
        cache: FrameCache,
        folder: Path,
    ):
        self.fabric, self.recipe, self.network, self.folder = fabric, recipe, network, folder
        self.validation, self.cache = validation, cache
        self.final_config = network.config
        settings = recipe.optimisation
        self.reader = nn.Linear(HIDDEN_CHANNELS, samples.hints.channels) if samples.hints else None
        if self.reader:
            self.reader.to(fabric.device)
        self.optimizer = fabric.setup_optimizers(make_optimizer(network, settings, self.reader))
        self.average = Average(network, settings.ema) if settings.ema else None
        self.epochs = Epochs(len(samples), recipe, fabric)
        self.loader = to_loader(samples, self.epochs, recipe.machine, fabric)
        self.progress = Progress(epoch=0, best=-math.inf)
        self.board = SummaryWriter(str(folder)) if fabric.is_global_zero else None

    def resume(self) -> None:
        """Continue from the folder's checkpoint, if there is one; AmmaError if it is of another network."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average:
                self.average.load_state_dict(state["average"])
            if self.reader:
                self.reader.load_state_dict(state["reader"])
        except (KeyError, RuntimeError, ValueError):
            raise AmmaError(
                f"{path} is of a run with another network or optimizer: choose another --output or delete it"
            ) from None
        self.progress = Progress(*state["progress"])
        self.fabric.print(f"going on after epoch {self.progress.epoch}")

    def go_on(self) -> None:
        """Train the epochs that are left."""
        step, phase = None, None
        for epoch in range(self.progress.epoch, self.recipe.epochs):
            if self.recipe.phase_of(epoch) is not phase:
                phase = self.recipe.phase_of(epoch)
                step = self._begin(phase)
            started = time.monotonic()
            mean = self._epoch(epoch, step)
            row = {"epoch": epoch + 1, "input_size": phase.input_size, **mean}
            row |= {"rate": self._rate(epoch, 0), "seconds": round(time.monotonic() - started, 1)}
            last = epoch + 1 == self.recipe.epochs
            best = self.progress.best
            if (
                self.fabric.is_global_zero
                and self.validation
                and (last or (epoch + 1) % self.recipe.validate_every == 0)
            ):
                row["frame_map"] = self._validate()
                if row["frame_map"] >= best:
                    best = row["frame_map"]
                    self._save_bundle("best", row)
            if last and self.fabric.is_global_zero:
                self._save_bundle("last", row)
                if not self.validation:
                    self._save_bundle("best", row)
            self.progress = Progress(epoch + 1, best)
            if self.fabric.is_global_zero:
                self._log(row)
                self._save_checkpoint()
            self.fabric.barrier()

    def _begin(self, phase: Phase) -> nn.Module:
        freeze(self.network, phase.frozen_stages)
        self.network.config = replace(self.final_config, input_size=phase.input_size)
        settings = self.recipe.optimisation
        step = Step(self.network, settings.dropout, settings.label_smoothing, self.reader)
        return self.fabric.setup_module(step, move_to_device=False)

    def _epoch(self, epoch: int, step: nn.Module) -> dict:
        settings = self.recipe.optimisation
        weights = settings.box_weight, settings.label_weight, settings.hint_weight
        self.network.train()
        if settings.frozen_norms:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        self.epochs.epoch = epoch
        total = torch.zeros(len(Losses._fields))
        bar = tqdm(
            self.loader,
            desc=f"epoch {epoch + 1}/{self.recipe.epochs}",
            unit="step",
            disable=not self.fabric.is_global_zero,
            mininterval=5,
        )
        for number, batch in enumerate(bar):
            rate = self._rate(epoch, number)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            parts = step(*to_step(batch, self.fabric.device))
            self.fabric.backward(Losses(*parts).total(*weights))
            if settings.clip_gradient:
                self.fabric.clip_gradients(step, self.optimizer, max_norm=settings.clip_gradient)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.average:
                self.average.update(self.network)
            total += torch.stack([part.detach().float().cpu() for part in parts])
            bar.set_postfix(loss=f"{float(Losses(*total).total(*weights)) / (number + 1):.3f}")
        mean = (total / len(self.epochs)).tolist()
        return {name: round(value, 4) for name, value in zip(Losses._fields, mean, strict=True)}

    def _rate(self, epoch: int, step: int) -> float:
        settings = self.recipe.optimisation
        done = (epoch + step / len(self.epochs)) / self.recipe.epochs
        return settings.rate * rate_factor(settings, done, epoch)

    def _evaluated(self) -> Amma:
        """The network that counts: the average, if there is one."""
        network = Amma(self.final_config).to(self.fabric.device, memory_format=torch.channels_last)
        network.load_state_dict(self.average.values if self.average else self.network.state_dict())
        return network.eval()

    def _validate(self) -> float:
        network = self._evaluated()
        with self.fabric.autocast():
            return round(validate(network, self.validation, self.cache), 2)

    def _save_bundle(self, name: str, row: dict) -> None:
        labels = load_dataset(self.recipe.data.annotations).labels
        record = {"recipe": self.recipe.to_dict(), "log": row}
        bundle.save(self.folder / name, self._evaluated(), labels, self.fps, training=record)

    @property
    def fps(self) -> float:
        return float(np.median([video.fps for video in self.loader.dataset.videos]))

    def _save_checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "reader": self.reader.state_dict() if self.reader else {},
            "progress": tuple(self.progress),
        }
        partial = self.folder / (CHECKPOINT + ".partial")
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def _log(self, row: dict) -> None:
        columns = ["epoch", "input_size", *Losses._fields, "rate", "seconds", "frame_map"]
        path = self.folder / LOG
        new = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, columns)
            if new:
                writer.writeheader()
            writer.writerow(row)
        for name in columns[1:]:
            if name in row:
                self.board.add_scalar(name, row[name], row["epoch"])
        self.board.flush()
        self.fabric.print(" ".join(f"{name} {value}" for name, value in row.items()))


def to_loader(samples: Samples, epochs: Epochs, machine: Machine, fabric: Fabric) -> DataLoader:
    return DataLoader(
        samples,
        batch_sampler=epochs,
        num_workers=machine.workers,
        collate_fn=to_tensors,
        persistent_workers=machine.workers > 0,
        pin_memory=fabric.device.type == "cuda",
    )


def to_step(batch: tuple[Tensor, Tensor, Targets], device: torch.device) -> tuple[Tensor, Tensor, Targets]:
    """What a loader gives, as :class:`Step` wants it: on the device, colours before rows and columns."""
    clips, windows, targets = batch
    targets = Targets(*(part.to(device, non_blocking=True) for part in targets))
    clips = clips.to(device, non_blocking=True).permute(0, 1, 4, 2, 3)
    return clips, windows.to(device, non_blocking=True), targets


def to_tensors(samples: list[Batch]) -> tuple[Tensor, Tensor, Targets]:
    clips, windows, targets = join_batches(samples)
    return torch.from_numpy(clips), torch.from_numpy(windows), Targets(*map(torch.from_numpy, targets))


def freeze(network: Amma, stages: int) -> None:
    """Let the first `stages` backbone stages of both streams, and what feeds them, keep their weights."""
    network.requires_grad_(True)
    backbone = network.backbone
    for stage in (*backbone.appearance[:stages], *backbone.motion[:stages]):
        stage.requires_grad_(False)
    if stages:
        backbone.appearance_share.requires_grad_(False)
        if network.micro_motion is not None:
            network.micro_motion.requires_grad_(False)
    for layer in new_layers(network):
        layer.requires_grad_(True)


def new_layers(network: Amma) -> list[nn.Module]:
    """Layers of the backbone without a pre-trained start: the mobile ones' last convolution and norm."""
    last = network.backbone.appearance[-1]
    return list(last[-2:]) if isinstance(last[-1], nn.BatchNorm2d) else []


def make_optimizer(
    network: Amma, settings: Optimisation, reader: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Adam or AdamW; vectors (biases, batch norms, shares) are not decayed."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if settings.name not in kinds:
        raise AmmaError(f"optimisation.name is {settings.name!r}, but must be one of {', '.join(kinds)}")
    slower = (settings.backbone_rate or settings.rate) / settings.rate
    new = {id(value) for layer in new_layers(network) for value in layer.parameters()}
    groups = []
    for of_backbone in (True, False):
        for decayed in (True, False):
            parameters = [
                value
                for name, value in network.named_parameters()
                if (name.startswith("backbone.") and id(value) not in new) == of_backbone
                and (value.ndim > 1) == decayed
            ]
            decay = settings.weight_decay if decayed else 0.0
            groups.append(
                {"params": parameters, "weight_decay": decay, "factor": slower if of_backbone else 1.0}
            )
    if reader is not None:
        groups.append({"params": list(reader.parameters()), "weight_decay": 0.0, "factor": READER_HURRY})
    return kinds[settings.name](groups, lr=settings.rate)


def rate_factor(settings: Optimisation, done: float, epoch: int) -> float:
    """The learning rate's factor when the share `done` of all steps lies behind, in `epoch` (from 0)."""
    if done < settings.warmup:
        return done / settings.warmup
    if settings.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * (done - settings.warmup) / (1 - settings.warmup)))
    if settings.schedule == "steps":
        return settings.factor ** sum(epoch >= milestone for milestone in settings.milestones)
    raise AmmaError(f"optimisation.schedule is {settings.schedule!r}, but must be steps or cosine")
