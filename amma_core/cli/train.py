"""Train a network as a YAML file says; a run that was cut short goes on where it stopped."""

import argparse
from pathlib import Path

from amma_core.errors import packages_for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a recipe, see config/train")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/NAME of the recipe)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a setting, as data.train=train2",
    )
    parser.add_argument(
        "--weights-cache", type=Path, default=Path("runs/weights"), help="where fetched initial weights lie"
    )


def run(arguments: argparse.Namespace) -> None:
    with packages_for("training", "'amma-core[train]'"):
        from amma_core.training.recipe import load_recipe
        from amma_core.training.trainer import train

    recipe = load_recipe(arguments.config, arguments.set)
    folder = arguments.output or Path("runs") / arguments.config.stem
    train(recipe, folder, arguments.weights_cache)
