"""The paper's ablation: what micro-motion and the clips before the newest are worth.

    python benchmarks/ablation.py config/train/jhmdb21_ablation.yaml --set data.annotations=PATH --seeds 0 1

Trains the recipe's network as it is, without motion, with plain differences, and with fewer clips, each once
per seed, and judges every model on the recipe's test split, streaming as deployed. What has been trained and
judged is not done again, so a run that was cut short goes on. With one clip, tubelets have one box: frame-mAP
then counts the key frames alone, and video-mAP is what can be compared.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from amma_core.training.recipe import load_recipe

VARIANTS = {
    "RGB alone": ["network.motion=none", "appearance_share=null"],
    "MM_Diff": ["network.motion=diff"],
    "MM_Conv_Diff": ["network.motion=conv_diff"],
    "MM_Conv_Diff, K = 1": ["network.clips=1"],
    "MM_Conv_Diff, K = 3": ["network.clips=3"],
}
METRICS = ("frame_mAP@0.5", "video_mAP@0.5", "video_mAP@0.5:0.95")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="as for `amma train`")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
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
            changes = [*arguments.set, *VARIANTS[name], f"seed={seed}"]
            folder = arguments.output / f"{name.replace(' ', '').replace(',', '_')}-{seed}"
            results[name].append(trained_and_judged(arguments.recipe, changes, folder, arguments.workers))
    print(table(results))


def trained_and_judged(recipe: Path, changes: list[str], folder: Path, workers: int) -> dict:
    """The metrics of a variant on the test split; trains and judges it unless that was done before."""
    data = load_recipe(recipe, changes).data
    if not (folder / "metrics.json").exists():
        given = [word for change in changes for word in ("--set", change)]
        amma("train", str(recipe), *given, "--output", str(folder))
        judge = ["--split", data.test, "--workers", str(workers), "--output", str(folder)]
        amma("evaluate-model", str(folder / "last"), data.annotations, *judge)
    return json.loads((folder / "metrics.json").read_text())


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
