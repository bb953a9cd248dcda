"""Write an HTML page about predictions: metrics, curves, errors, confusion, worst frames, runtime.

    amma report --predictions runs/evaluate/m-test1/predictions.npz --ground-truth data/jhmdb21 \\
        --timings runs/evaluate/m-test1/timings.json --output report.html

The page holds everything: it needs no other file, no script and no network.
"""

import argparse
import json
import shlex
from pathlib import Path

from amma_core.cli.evaluate import add_inputs, read_inputs
from amma_core.errors import AmmaError, packages_for
from amma_core.evaluation.predictions import load_predictions
from amma_core.files import write_text_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="FILE", help="predictions to stand beside"
    )
    parser.add_argument(
        "--timings", nargs="+", default=[], metavar="FILE", help="timings.json of amma evaluate-model"
    )
    parser.add_argument("--title", default="Action detection: evaluation", help="(default: %(default)s)")
    parser.add_argument("--output", default="report.html", metavar="FILE", help="(default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    with packages_for("the report"):
        from amma_core.evaluation.report import make_report

    labels, videos, predictions = read_inputs(arguments)
    runs = {_name(arguments.predictions): predictions}
    files = {Path(arguments.predictions).resolve()}
    for path in arguments.compare:
        if Path(path).resolve() in files:
            raise AmmaError(f"{path} is compared with itself: give each file once")
        files.add(Path(path).resolve())
        name = _name(path) if _name(path) not in runs else path
        runs[name] = load_predictions(path, videos, labels)
        if runs[name].frames is None:
            raise AmmaError(f"{path} holds no frames to compare")
    timings = [timing for path in arguments.timings for timing in _read_timings(path)]
    page = make_report(
        arguments.title,
        runs,
        videos,
        labels,
        mode=arguments.mode,
        timings=timings,
        commands=_commands(arguments),
    )
    write_text_whole(Path(arguments.output), page)
    print(f"{arguments.output}: {len(page) / 1e6:.1f} MB")


def _name(path: str) -> str:
    """What to call a file of predictions; evaluate-model calls all of them predictions.npz."""
    path = Path(path).absolute()
    return path.parent.name if path.stem == "predictions" else path.stem


def _read_timings(path: str) -> list[dict]:
    try:
        timings = json.loads(Path(path).read_text(encoding="utf-8"))
        return [
            {
                "name": str(timing["name"]),
                "fps": float(timing["fps"]),
                "ms": {stage: float(ms) for stage, ms in timing["ms"].items()},
            }
            for timing in timings
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AmmaError(
            f"{path} does not hold timings, a list of objects with name, fps and ms by stage: {error}"
        ) from error


def _commands(arguments: argparse.Namespace) -> list[str]:
    inputs = ["--predictions", arguments.predictions, "--ground-truth", arguments.ground_truth]
    inputs += ["--split", arguments.split, "--mode", arguments.mode]
    inputs += ["--tubes", arguments.tubes] if arguments.tubes else []
    more = ["--compare", *arguments.compare] if arguments.compare else []
    more += ["--timings", *arguments.timings] if arguments.timings else []
    return [
        shlex.join(["amma", "eval", *inputs]),
        shlex.join(["amma", "report", *inputs, *more, "--output", arguments.output]),
    ]
