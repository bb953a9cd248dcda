"""Average the weights of several models into one, which often knows more than each of them.

It works for models that went on from the same one: networks trained apart from the start have nothing in
common that could be averaged.

    amma average-models runs/one/last runs/other/last --output runs/average
"""

import argparse
from typing import TYPE_CHECKING

from amma_core import bundle
from amma_core.bundle import Bundle
from amma_core.errors import AmmaError

if TYPE_CHECKING:
    from amma_core.network import Amma


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a model's folder or shipped name")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the new model goes")


def run(arguments: argparse.Namespace) -> None:
    models = [bundle.load(model) for model in arguments.models]
    network = average(models)
    first = models[0]
    parts = [{"model": name} | model.training for name, model in zip(arguments.models, models, strict=True)]
    made = bundle.save(arguments.output, network, first.labels, first.fps, training={"average_of": parts})
    print(f"{made.path}: the average of {len(models)} models; judge it with amma evaluate-model")


def average(models: list[Bundle]) -> "Amma":
    """The network whose weights are the means of these models'.

    Raises AmmaError where they don't fit together.
    """
    first = models[0]
    for other in models[1:]:
        if (other.network, other.labels, other.fps) != (first.network, first.labels, first.fps):
            raise AmmaError(
                f"{other.path} has another network, other labels or another frame rate than {first.path}: "
                "only models that went on from the same one can be averaged"
            )
    untrained = next((model for model in models if not model.trained), None)
    if len(models) < 2 or untrained:
        what = f"{untrained.path} is untrained" if untrained else f"{first.path} is only one model"
        raise AmmaError(f"{what}: give two or more trained models")
    states = [model.build_one().state_dict() for model in models]
    network = first.build_one()
    network.load_state_dict(
        {name: sum(state[name].double() for state in states) / len(states) for name in states[0]}
    )
    return network
