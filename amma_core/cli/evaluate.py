"""Judge predictions against ground truth: frame-mAP, video-mAP and the errors.

Boxes have both corners inside (x2 - x1 + 1 wide) and frames count from 1; docs/evaluation.md says what
each number is and how the files of predictions look.
"""

import argparse
import json

from amma_core.data.dataset import Video, load_dataset
from amma_core.errors import AmmaError
from amma_core.evaluation.frame_map import MODES
from amma_core.evaluation.metrics import evaluate, table
from amma_core.evaluation.predictions import Predictions, load_predictions
from amma_core.evaluation.tubes import annotated_tubes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_inputs(parser)
    parser.add_argument("--json", action="store_true", help="print one line of JSON, last")


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """What is judged, and against what."""
    parser.add_argument(
        "--predictions", required=True, metavar="FILE", help=".npz or .json with frames and tubes"
    )
    parser.add_argument("--tubes", metavar="FILE", help="take the tubes from this .npz or .json")
    parser.add_argument(
        "--ground-truth",
        required=True,
        metavar="FILE",
        help="annotations.json, its folder, or a benchmark's .pkl",
    )
    parser.add_argument("--split", default="test", help="name of the split, or all (default: %(default)s)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        default=MODES[0],
        help="trimmed leaves out detections on frames without their class in videos that have it "
        "(default: %(default)s)",
    )


def read_inputs(arguments: argparse.Namespace) -> tuple[list[str], list[Video], Predictions]:
    """The labels, the split's videos and what was predicted for them."""
    dataset = load_dataset(arguments.ground_truth)
    videos = dataset.split(arguments.split)
    if not any(video.tubes for video in videos):
        raise AmmaError(f"{arguments.ground_truth}: no video of split {arguments.split!r} has an annotation")
    predictions = load_predictions(arguments.predictions, videos, dataset.labels)
    if predictions.frames is None:
        raise AmmaError(f"{arguments.predictions} holds no frames; give its tubes with --tubes")
    if arguments.tubes:
        tubes = load_predictions(arguments.tubes, videos, dataset.labels).tubes
        if tubes is None:
            raise AmmaError(f"{arguments.tubes} holds no tubes")
        predictions = Predictions(predictions.frames, tubes)
    return dataset.labels, videos, predictions


def run(arguments: argparse.Namespace) -> None:
    labels, videos, predictions = read_inputs(arguments)
    truth = annotated_tubes(videos)
    metrics = evaluate(predictions.frames, predictions.tubes, truth, labels, arguments.mode)
    if arguments.json:
        print(json.dumps(metrics))
    else:
        print(f"{arguments.predictions}: {len(videos)} videos of split {arguments.split}, {arguments.mode}\n")
        print(table(metrics))
        if predictions.tubes is None:
            print("\nNo video-mAP: the predictions hold no tubes.")
