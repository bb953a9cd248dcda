"""Where a training step's time goes: samples per second of loading alone, of the step alone, and together.

python benchmarks/training.py config/train/jhmdb21_m_cpu.yaml --set data.annotations=data/jhmdb21
"""

import argparse
import itertools
import time
from dataclasses import replace
from pathlib import Path

import torch

from amma_core.data.cache import open_or_build
from amma_core.data.dataset import load_dataset
from amma_core.network import Amma
from amma_core.training.cpu import make_faster
from amma_core.training.loading import Epochs, to_loader, to_step
from amma_core.training.losses import Losses
from amma_core.training.optimizer import freeze, make_optimizer, to_training
from amma_core.training.recipe import load_recipe
from amma_core.training.samples import Samples
from amma_core.training.step import Step
from amma_core.training.trainer import make_fabric


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error(f"--steps is {arguments.steps}, but must be 2 or more: the first is not counted")
    recipe = load_recipe(arguments.config, [*arguments.set, "machine.devices=1"])
    dataset = load_dataset(recipe.data.annotations)
    videos = dataset.split(recipe.data.train)
    cache = open_or_build(Path(recipe.data.cache), {v.name: v.file for v in videos}, recipe.data.max_side)
    fabric = make_fabric(recipe.machine)
    network = Amma(recipe.network_config(len(dataset.labels)))
    network.to(fabric.device, memory_format=torch.channels_last)
    if fabric.device.type == "cpu":
        make_faster(network, recipe.optimisation.frozen_norms)
    to_training(network, recipe.optimisation.frozen_norms)
    optimizer = fabric.setup_optimizers(make_optimizer(network, recipe.optimisation))
    samples = Samples.of(recipe, videos, cache, network.config, dataset.labels)

    start = 0
    for phase in recipe.phases:
        network.config = replace(network.config, input_size=phase.input_size)
        freeze(network, phase.frozen_stages)
        step = fabric.setup_module(Step.of(recipe.optimisation, network), move_to_device=False)
        epochs = Epochs(len(samples), recipe, fabric)
        epochs.epoch = start
        loader = to_loader(samples, epochs, recipe.machine, fabric)
        start += phase.epochs

        def work(batch, step=step):
            clips, windows, targets = to_step(batch, fabric.device)
            loss = Losses(*step(clips, windows, targets)).total(**recipe.optimisation.loss_weights)
            fabric.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()  # waits for the device

        batches = list(itertools.islice(loader, 4))
        count = phase.batch or recipe.optimisation.batch
        for _ in range(3):
            work(batches[0])
        rates = {
            "loading": rate(itertools.islice(loader, arguments.steps), lambda batch: None, count),
            "step": rate(itertools.islice(itertools.cycle(batches), arguments.steps), work, count),
            "together": rate(itertools.islice(loader, arguments.steps), work, count),
        }
        clips = sum(len(batch[0]) for batch in batches) / len(batches) / count
        line = "  ".join(f"{name} {value:6.1f}" for name, value in rates.items())
        print(
            f"{phase.input_size} px, {phase.frozen_stages} frozen: samples/s {line}  ({clips:.1f} clips each)"
        )


def rate(batches, work, count: int) -> float:
    """Samples per second, the first batch (and the loader's start) aside."""
    batches = iter(batches)
    work(next(batches))
    started, done = time.perf_counter(), 0
    for batch in batches:
        work(batch)
        done += count
    return done / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
