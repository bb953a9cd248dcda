"""Where a training step's time goes: samples per second of loading alone, of the step alone, and together.

python benchmarks/training.py config/train/jhmdb21_m_cpu.yaml --set data.annotations=data/jhmdb21
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch

from amma_core.data.cache import open_or_build
from amma_core.data.dataset import load_dataset
from amma_core.network import Amma
from amma_core.training.cpu import make_faster
from amma_core.training.loading import Epochs, to_loader
from amma_core.training.optimizer import Average, freeze, make_optimizer, to_training
from amma_core.training.recipe import load_recipe
from amma_core.training.samples import Samples
from amma_core.training.step import Step
from amma_core.training.trainer import make_fabric, optimise


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
    average = Average(network, recipe.optimisation.ema) if recipe.optimisation.ema else None
    samples = Samples.of(recipe, videos, cache, network.config, dataset.labels)

    start = 0
    for phase in recipe.phases:
        network.config = replace(network.config, input_size=phase.input_size)
        freeze(network, phase.frozen_stages, phase.only)
        step = fabric.setup_module(Step.of(recipe.optimisation, network), move_to_device=False)
        epochs = Epochs(len(samples), recipe, fabric)
        epochs.epoch = start
        loader = to_loader(samples, epochs, recipe.machine, fabric)
        start += phase.epochs

        def work(batch, step=step):
            parts = optimise(fabric, step, optimizer, batch, recipe.optimisation)
            if average:
                average.update(network)
            return parts.cpu()  # waits for the device

        count = len(next(iter(epochs)))
        batches = list(itertools.islice(loader, 4))
        for _ in range(3):
            work(batches[0])
        rates = {
            "loading": count * rate(loader, arguments.steps, lambda batch: None),
            "step": count * rate(batches, arguments.steps, work),
            "together": count * rate(loader, arguments.steps, work),
        }
        clips = sum(len(batch[0]) for batch in batches) / len(batches) / count
        line = "  ".join(f"{name} {value:6.1f}" for name, value in rates.items())
        print(
            f"{phase.input_size} px, {phase.frozen_stages} frozen: samples/s {line}  ({clips:.1f} clips each)"
        )


def rate(batches: Iterable, steps: int, work: Callable) -> float:
    """Batches per second, over and over until `steps` are done; the first does not count."""
    again = itertools.chain.from_iterable(itertools.repeat(batches))
    work(next(again))
    started = time.perf_counter()
    for batch in itertools.islice(again, steps - 1):
        work(batch)
    return (steps - 1) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
