"""Judge predictions against ground truth: frame-mAP, video-mAP and the errors.

Boxes have both corners inside (x2 - x1 + 1 wide) and frames count from 1; docs/evaluation.md says what
each number is and how the files of predictions look.
"""

import argparse
import json

from amma_core.data.dataset import load_dataset
from amma_core.errors import AmmaError
from amma_core.evaluation.frame_map import MODES
from amma_core.evaluation.metrics import evaluate, table
from amma_core.evaluation.predictions import load_predictions
from amma_core.evaluation.tubes import annotated_tubes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--predictions", required=True, metavar="FILE", help=".npz or .json, frames and tubes"
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
    parser.add_argument("--json", action="store_true", help="print one line of JSON, last")


def run(arguments: argparse.Namespace) -> None:
    dataset = load_dataset(arguments.ground_truth)
    videos = dataset.split(arguments.split)
    predictions = load_predictions(arguments.predictions, videos, dataset.labels)
    if predictions.frames is None:
        raise AmmaError(f"{arguments.predictions} holds no frames; give its tubes with --tubes")
    tubes = predictions.tubes
    if arguments.tubes:
        tubes = load_predictions(arguments.tubes, videos, dataset.labels).tubes
        if tubes is None:
            raise AmmaError(f"{arguments.tubes} holds no tubes")
    truth = annotated_tubes(videos)
    if not len(truth):
        raise AmmaError(f"{arguments.ground_truth}: no video of split {arguments.split!r} has an annotation")
    metrics = evaluate(predictions.frames, tubes, truth, dataset.labels, arguments.mode)
    if arguments.json:
        print(json.dumps(metrics))
    else:
        print(f"{arguments.predictions}: {len(videos)} videos of split {arguments.split}, {arguments.mode}\n")
        print(table(metrics))
        if tubes is None:
            print("\nNo video-mAP: the predictions hold no tubes.")
