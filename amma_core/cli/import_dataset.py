"""Bring annotations of other tools into the native format, to train on them.

amma import-dataset cvat annotations/*.xml --videos videos --output annotations.json
amma import-dataset pickle JHMDB-GT.pkl --output annotations.json
amma import-dataset puppet-masks JHMDB --output annotations.json
"""

import argparse
from pathlib import Path

from amma_core.data.dataset import load_dataset, save_dataset
from amma_core.data.importers import from_cvat, from_puppet_masks
from amma_core.errors import AmmaError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("format", choices=["cvat", "pickle", "puppet-masks"])
    parser.add_argument("source", type=Path, nargs="+", help="XML files, a pickle, or JHMDB's folder")
    parser.add_argument(
        "--output", type=Path, required=True, help="the JSON to write, best beside the videos"
    )
    parser.add_argument("--videos", type=Path, help="cvat: folder of the annotated videos")
    parser.add_argument("--attribute", help="cvat: the attribute of boxes that names the action")
    parser.add_argument(
        "--test", type=float, default=0.2, help="cvat: share of the videos to test on (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> None:
    if arguments.format == "cvat":
        videos = arguments.videos or arguments.output.parent
        dataset = from_cvat(arguments.source, videos, arguments.attribute, arguments.test)
    elif len(arguments.source) > 1:
        raise AmmaError(f"give one source for {arguments.format}, not {len(arguments.source)}")
    elif arguments.format == "pickle":
        dataset = load_dataset(arguments.source[0])
    else:
        dataset = from_puppet_masks(arguments.source[0])
    save_dataset(dataset, arguments.output)
    tubes = sum(len(video.tubes) for video in dataset.videos.values())
    counts = f"{len(dataset.videos)} videos, {tubes} tubes, {len(dataset.labels)} classes"
    splits = ", ".join(f"{name} {len(videos)}" for name, videos in dataset.splits.items())
    print(f"{arguments.output}: {counts}; {splits}")
