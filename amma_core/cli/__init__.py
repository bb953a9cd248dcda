"""The ``amma`` command. Each subcommand is a module of this package with ``add_arguments`` and ``run``."""

import argparse
import importlib
import os
import sys

from amma_core import __version__
from amma_core.errors import AmmaError

# Subcommand -> (module, one line for `amma --help`). Modules are imported only when asked for, so
# that looking for actions never loads what only training or evaluation needs.
COMMANDS = {
    "train": ("train", "train a network on annotated videos"),
    "import-dataset": ("import_dataset", "bring annotations of other tools into the native format"),
    "init-weights": ("init_weights", "fetch pre-trained weights to start training from"),
    "average-models": ("average_models", "average the weights of models that went on from the same one"),
    "detect": ("detect", "find actions in a video"),
    "bag": ("bag", "find actions in a ROS 2 recording"),
    "eval": ("evaluate", "judge predictions against ground truth: frame-mAP, video-mAP, errors"),
    "evaluate-model": ("evaluate_model", "run a model over a data set as a stream, and judge it"),
    "report": ("report", "write an HTML page about predictions"),
    "info": ("info", "parameters and multiply-adds of a network"),
}


def main(argv: list[str] | None = None) -> int:
    """Run ``amma``; returns the exit status (0 done, 2 a mistake that the user can mend)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="amma",
        description="Online spatiotemporal action detection.",
        epilog="amma COMMAND --help says more.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if word in COMMANDS), None)
    modules = {}
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        if name == chosen:
            modules[name] = importlib.import_module(f"{__name__}.{module}")
            command.description = modules[name].__doc__
            command.formatter_class = argparse.RawDescriptionHelpFormatter
            modules[name].add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        modules[arguments.command].run(arguments)
    except AmmaError as error:
        print(f"amma {arguments.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `amma ... | head`: whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"amma {arguments.command}: stopped", file=sys.stderr)
        return 130
    return 0
