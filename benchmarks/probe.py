"""How much pre-trained image features already know of a data set's actions.

    python benchmarks/probe.py RECIPE [--sizes 160 224] [--set data.annotations=PATH]

Three frames of each video go through the recipe's appearance stream as its initial weights have it. A linear
classifier learns their pooled features (512 to 1280 numbers) of the training videos, and names the actions of
those that the recipe holds out. What training makes of the network should do better.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from amma_core.data.cache import FrameCache, open_or_build
from amma_core.data.dataset import Video, load_dataset
from amma_core.network import Amma
from amma_core.network.micro_motion import normalise
from amma_core.training.augmentation import show, whole_view
from amma_core.training.initial_weights import load_initial_weights
from amma_core.training.optimizer import new_layers
from amma_core.training.recipe import load_recipe
from amma_core.training.samples import action_frames
from amma_core.training.trainer import hold_out
from amma_core.types import Ints

STEPS = 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path, help="as for `amma train`")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change a setting")
    parser.add_argument("--sizes", type=int, nargs="+", default=[160, 224], help="input sizes to compare")
    parser.add_argument("--weights-cache", type=Path, default=Path("runs/weights"))
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, arguments.set)
    if recipe.initial_weights is None:
        parser.error(f"{arguments.recipe} has no initial_weights: add --set initial_weights=NAME")
    dataset = load_dataset(recipe.data.annotations)
    videos = dataset.split(recipe.data.train)
    training, held = hold_out(videos, recipe.data)
    cache = open_or_build(Path(recipe.data.cache), {v.name: v.file for v in videos}, recipe.data.max_side)
    network = Amma(recipe.network_config(len(dataset.labels))).eval()
    load_initial_weights(network, recipe.initial_weights, arguments.weights_cache)

    print(f"{recipe.initial_weights}, {len(training)} videos to learn from, {len(held)} held out")
    print("size   right of the frames [%]   right of the videos [%]")
    rows = []
    for size in arguments.sizes:
        torch.manual_seed(recipe.seed)
        known, unknown = (features(network, cache, part, size) for part in (training, held))
        logits = classify(known, labels_of(training), unknown, len(dataset.labels))
        frames, by_video = accuracy(logits, labels_of(held))
        rows.append({"size": size, "frames": frames, "videos": by_video})
        print(f"{size:4}   {frames:23.1f}   {by_video:23.1f}")
    print(json.dumps(rows))


@torch.inference_mode()
def features(network: Amma, cache: FrameCache, videos: list[Video], size: int) -> Tensor:
    """(V, 3, C) features of three frames of each of V videos."""
    stages = list(network.backbone.appearance)
    without_start = len(new_layers(network))
    stages[-1] = stages[-1][: len(stages[-1]) - without_start]
    found = []
    for video in tqdm(videos, desc=f"{size} pixels", unit="video"):
        frames = cache[video.name][three_frames(video) - 1]
        x = normalise(torch.from_numpy(show(frames, whole_view(frames), size)).permute(0, 3, 1, 2))
        for stage in stages:
            x = stage(x)
        found.append(x.mean((2, 3)))
    return torch.stack(found)


def three_frames(video: Video) -> Ints:
    numbers = action_frames(video)
    return numbers[len(numbers) * np.arange(1, 4) // 4]


def labels_of(videos: list[Video]) -> Tensor:
    return torch.tensor([video.tubes[0].label for video in videos])


def classify(known: Tensor, labels: Tensor, unknown: Tensor, classes: int) -> Tensor:
    """Learn (V, 3, C) features of (V,) labels; (W, 3, classes) logits of (W, 3, C) others."""
    known, unknown = known.clone(), unknown.clone()  # inference tensors can't be learned from
    centre, scale = known.mean((0, 1)), known.std((0, 1)) + 1e-3
    model = nn.Linear(known.shape[-1], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.3)
    x, y = ((known - centre) / scale).flatten(0, 1), labels.clone().repeat_interleave(3)
    for _ in range(STEPS):
        logits = model(nn.functional.dropout(x, 0.5))
        nn.functional.cross_entropy(logits, y, label_smoothing=0.1).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model((unknown - centre) / scale).detach()


def accuracy(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Percent of the frames, and of the videos by the mean of their frames' probabilities, that are right."""
    frames = (logits.argmax(-1) == labels[:, None]).float().mean()
    videos = (logits.softmax(-1).mean(1).argmax(-1) == labels).float().mean()
    return round(100 * float(frames), 1), round(100 * float(videos), 1)


if __name__ == "__main__":
    main()
