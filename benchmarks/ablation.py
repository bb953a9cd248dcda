"""The paper's ablation: what micro-motion and the clips before the newest are worth.

    python benchmarks/ablation.py config/train/jhmdb21_ablation_1clip.yaml \\
        config/train/jhmdb21_ablation.yaml --set data.annotations=PATH --seeds 0 1

Trains a network of one clip by the first recipe for each kind of motion (none, plain differences, learned
ones), lets networks of K clips grow from them by the second, each once per seed, and judges these on the
recipe's test split, streaming as deployed. What has been trained and judged is not done again, so a run that
was cut short goes on, and two with a seed each may run beside each other. With one clip, tubelets have one
box, and share no key frame by which they could be linked: then compare frame-mAP at the key frames.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amma_core import bundle
from amma_core.data.dataset import Dataset, load_dataset
from amma_core.evaluation.frame_map import frame_map
from amma_core.evaluation.predictions import load_predictions
from amma_core.evaluation.tubes import annotated_tubes
from amma_core.training.recipe import load_recipe

VARIANTS = {
    "RGB alone": ("none", 5),
    "MM_Diff": ("diff", 5),
    "MM_Conv_Diff": ("conv_diff", 5),
    "MM_Conv_Diff, K = 1": ("conv_diff", 1),
    "MM_Conv_Diff, K = 3": ("conv_diff", 3),
}
"""Micro-motion and K."""
AT_KEYS = "at key frames"
METRICS = ("frame_mAP@0.5", AT_KEYS, "video_mAP@0.5", "video_mAP@0.5:0.95")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path, help="recipe for one clip, as for `amma train`")
    parser.add_argument("second", type=Path, help="recipe for K clips; its initial_model is the first's")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting of both"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument(
        "--variants",
        nargs="+",
        default=list(VARIANTS),
        choices=VARIANTS,
        metavar="NAME",
        help=f"some of {', '.join(map(repr, VARIANTS))} (default: all)",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"), help="where the runs lie")
    parser.add_argument("--workers", type=int, default=1, help="videos that are judged at the same time")
    arguments = parser.parse_args()
    results = {name: [] for name in arguments.variants}
    for seed in arguments.seeds:
        for name in arguments.variants:
            motion, clips = VARIANTS[name]
            changes = [*arguments.set, f"seed={seed}", f"network.motion={motion}"]
            first = arguments.output / f"1clip-{motion}-{seed}"
            # Without motion there is nothing to share with.
            shares = ["appearance_share=null"] if motion == "none" else []
            trained(arguments.first, [*changes, "network.clips=1", *shares], first)
            changes += [f"network.clips={clips}", f"initial_model={first / 'last'}"]
            folder = arguments.output / f"{clips}clips-{motion}-{seed}"
            trained(arguments.second, changes, folder)
            results[name].append(judged(arguments.second, changes, folder, arguments.workers))
    print(table(results))


def trained(recipe: Path, changes: list[str], folder: Path) -> None:
    if not (folder / "last").exists():
        amma("train", str(recipe), *(f"--set={change}" for change in changes), "--output", str(folder))


def judged(recipe: Path, changes: list[str], folder: Path, workers: int) -> dict:
    """Metrics of a trained network on the recipe's test split, and frame-mAP@0.5 at the key frames alone."""
    data = load_recipe(recipe, changes).data
    if not (folder / "metrics.json").exists():
        judge = ["--split", data.test, "--workers", str(workers), "--output", str(folder)]
        amma("evaluate-model", str(folder / "last"), data.annotations, *judge)
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics | {AT_KEYS: frame_map_at_keys(folder, load_dataset(data.annotations), data.test)}


def frame_map_at_keys(folder: Path, dataset: Dataset, split: str) -> float:
    """Key frames are every t-th frame, and the last one of a video."""
    videos = dataset.split(split)
    length = bundle.load(folder / "last").network.clip_length
    last = np.array([video.frames for video in videos])

    def at_keys(rows: NDArray) -> NDArray:
        return rows[(rows[:, 1] % length == 0) | (rows[:, 1] == last[rows[:, 0].astype(int)])]

    found = load_predictions(folder / "predictions.npz", videos, dataset.labels).frames
    return frame_map(at_keys(found), at_keys(annotated_tubes(videos).frames()), len(dataset.labels))


def amma(*words: str) -> None:
    if subprocess.run([sys.executable, "-m", "amma_core", *words]).returncode:
        sys.exit(f"ablation: amma {words[0]} failed, and says why above; the next run goes on from here")


def table(results: dict[str, list[dict]]) -> str:
    """A row per variant: the mean over the seeds, and how far the seeds lie from it at most."""
    lines = [" " * 24 + "".join(f"{name:>20}" for name in METRICS)]
    for name, judged in results.items():
        cells = []
        for metric in METRICS:
            values = np.array([metrics[metric] for metrics in judged])
            cells.append(f"{values.mean():.1f} +- {np.abs(values - values.mean()).max():.1f}")
        lines.append(f"{name:24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
