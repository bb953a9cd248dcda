"""Run a model over a data set as a stream of frames, as a robot would, and judge what it finds.

    amma evaluate-model amma_m_jhmdb21 data/jhmdb21 --split test1

The results lie in --output: predictions.npz for `amma eval` and `amma report`, published.npz with what the
linker says of each frame when it is settled, metrics.json, timings.json, and one file per video, so that a
run that was cut off goes on where it was. Several machines that share the folder take their parts with

    torchrun --nnodes 2 ... -m amma_core evaluate-model jhmdb21 data/jhmdb21 --split test1
"""

import argparse
import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from amma_core.clips import POLICIES
from amma_core.data.dataset import Video, load_dataset
from amma_core.errors import AmmaError
from amma_core.evaluation.frame_map import MODES
from amma_core.evaluation.metrics import evaluate, percent, table
from amma_core.evaluation.predictions import load_predictions, save_predictions
from amma_core.evaluation.tubes import Tubes, annotated_tubes
from amma_core.files import write_text_whole

MOST_SMALLER = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder or shipped name of a model")
    parser.add_argument("dataset", help="annotations.json, its folder, or a benchmark's .pkl")
    parser.add_argument("--split", default="test", help="name of the split, or all (default: %(default)s)")
    parser.add_argument("--output", metavar="DIR", help="(default: runs/evaluate/MODEL-SPLIT)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="videos at the same time (default: 1)"
    )
    parser.add_argument(
        "--policy",
        choices=POLICIES,
        default=POLICIES[0],
        help="whether the first clips of a video are answered (default: %(default)s)",
    )
    parser.add_argument(
        "--dense", action="store_true", help="frame detections from a key frame at every frame"
    )
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="look at the mirror image as well, up to twice the work",
    )
    parser.add_argument(
        "--smaller",
        type=float,
        default=1.0,
        metavar="RATIO",
        help="show all pictures RATIO times smaller, as from farther away (default: 1, as they are)",
    )
    parser.add_argument(
        "--mode", choices=MODES, default=MODES[0], help="as in amma eval (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON, last")


def run(arguments: argparse.Namespace) -> None:
    from amma_core import bundle
    from amma_core.evaluation.streaming import Settings, evaluate_videos

    if arguments.workers < 1:
        raise AmmaError(f"--workers is {arguments.workers}, but must be 1 or more")
    if not 1 <= arguments.smaller <= MOST_SMALLER:
        raise AmmaError(f"--smaller is {arguments.smaller:g}, but must be from 1 to {MOST_SMALLER}")
    dataset = load_dataset(arguments.dataset)
    videos = dataset.split(arguments.split)
    if not videos:
        raise AmmaError(f"{arguments.dataset}: split {arguments.split!r} has no videos")
    path = bundle.load(arguments.model).path
    name = f"{_name(path.resolve())}-{arguments.split}{'-dense' * arguments.dense}"
    name += "-mirrored" * arguments.mirrored
    name += f"-smaller{arguments.smaller:g}" * (arguments.smaller > 1)
    output = Path(arguments.output or Path("runs", "evaluate", name))
    settings = Settings(
        str(path.resolve()),
        tuple(dataset.labels),
        arguments.device,
        arguments.policy,
        arguments.dense,
        arguments.mirrored,
        arguments.smaller,
    )
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    evaluate_videos(settings, videos, output / "videos", arguments.workers, (rank, world))
    if world > 1:
        _wait_for_all()
    if rank == 0:
        _conclude(arguments, videos, dataset.labels, name, output)


def _name(model: Path) -> str:
    """The folder's name, and the run's before it where that is what tells models apart."""
    return f"{model.parent.name}-{model.name}" if model.name in ("best", "last") else model.name


def _wait_for_all() -> None:
    from torch import distributed

    # Whoever is done first waits for the slowest machine's share, which may take hours.
    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    distributed.barrier()
    distributed.destroy_process_group()


def _conclude(
    arguments: argparse.Namespace, videos: list[Video], labels: list[str], name: str, output: Path
) -> None:
    """Put the videos' results together, judge them, and say so."""
    from amma_core.evaluation.streaming import STAGES, VideoResult, result_file

    results = [VideoResult.load(result_file(output / "videos", i)) for i in range(len(videos))]
    _warn_of_short(videos, [result.count for result in results])
    truth, names = annotated_tubes(videos), [video.name for video in videos]

    def judge(file_name: str, frames: list[np.ndarray], tubes: Tubes | None) -> dict:
        """Keep predictions in a file, and say how good these are."""
        rows = np.concatenate([np.zeros((0, 8), np.float32), *frames])
        save_predictions(output / file_name, rows, tubes, names, labels)
        saved = load_predictions(output / file_name, videos, labels)
        return evaluate(saved.frames, saved.tubes, truth, labels, arguments.mode)

    tubes = Tubes.join(result.tubes for result in results)
    metrics = judge("predictions.npz", [result.frames for result in results], tubes)
    published = judge("published.npz", [result.published for result in results], None)
    metrics["published"] = {name: published[name] for name in ("frame_mAP@0.5", "frame_mAP@0.75")}

    count = sum(result.count for result in results)
    latencies = np.concatenate([result.latencies for result in results])
    seconds = sum(result.seconds for result in results)
    timing = {
        "name": name,
        "frames": count,
        "fps": count / float(seconds.sum()),
        "latency_ms": {f"p{p}": float(np.percentile(latencies, p)) * 1000 for p in (50, 95, 99)},
        "ms": dict(zip(STAGES, (seconds / len(latencies) * 1000).tolist(), strict=True)),
    }
    for file_name, content in (("metrics.json", metrics), ("timings.json", [timing])):
        write_text_whole(output / file_name, json.dumps(content, indent=1) + "\n")
    if arguments.json:
        print(json.dumps(metrics | {key: timing[key] for key in ("frames", "fps", "latency_ms")}))
        return
    print(f"{arguments.model}: {len(videos)} videos of split {arguments.split}, {arguments.mode}\n")
    print(table(metrics))
    latency = ", ".join(f"{name} {value:.1f}" for name, value in timing["latency_ms"].items())
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in timing["ms"].items())
    at = ", ".join(f"{name} {percent(value)}" for name, value in metrics["published"].items())
    print(f"\nframes as published, before later clips show them too: {at}")
    print(f"{count} frames, {timing['fps']:.1f} per second without reading the videos")
    print(f"answer to a key frame, ms: {latency}; on average {stages}")
    print(f"written to {output}: predictions.npz, published.npz, metrics.json, timings.json")


def _warn_of_short(videos: list[Video], counts: list[int]) -> None:
    short = [(video, count) for video, count in zip(videos, counts, strict=True) if count < video.frames]
    if short:
        video, count = short[0]
        print(
            f"{len(short)} of {len(videos)} videos have fewer frames than annotated, {video.name!r} {count} "
            f"of {video.frames} for instance: what is annotated on the frames that lack counts as missed.",
            file=sys.stderr,
        )
