"""Where the time of online detection goes, and what caching saves (the paper's figure 9).

    python benchmarks/pipeline.py [--backbones mobilenet_v2 resnet18] [--clips 1 3 5] \\
        [--late-fusion 0.3] [--mirrored]

Milliseconds per clip of t frames, medians: preparing the frames, the encoder, the head, reading boxes off the
maps, linking. `all anew` encodes all K clips of every window again, as a detector without a cache has to;
`saved` is how many times faster the streaming detector is. FPS counts frames of one stream per second.

The network has random weights (its speed does not depend on them), the head gets noise, the linker gets
synthetic tubelets of four people among noise, the frames are noise of the given size.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from linker import stream  # noqa: E402

from amma_core.config import FUSIBLE_STAGES, NetworkConfig  # noqa: E402
from amma_core.decoding import decode  # noqa: E402
from amma_core.linker import TubeLinker  # noqa: E402
from amma_core.network import Amma  # noqa: E402
from amma_core.runtime.torch_runtime import TorchRuntime  # noqa: E402

WARM_UP = 3
PARTS = ("prepare", "encode", "head", "decode", "link")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(FUSIBLE_STAGES), choices=list(FUSIBLE_STAGES))
    parser.add_argument("--clips", nargs="+", type=int, default=[1, 3, 5], metavar="K")
    parser.add_argument("--input-size", type=int, default=288)
    parser.add_argument("--image-size", nargs=2, type=int, default=[640, 480], metavar=("W", "H"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--mirrored", action="store_true", help="look at the mirror image as well")
    parser.add_argument(
        "--late-fusion", type=float, default=0.0, metavar="SHARE", help="of motion alone (default: none)"
    )
    parser.add_argument("--repeat", type=int, default=15, help="measurements of each part (default: 15)")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()

    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device {arguments.device}")
    print(f"\n{'backbone':<20}K" + "".join(f"{name:>10}" for name in (*PARTS, "all anew", "saved", "FPS")))
    for backbone in arguments.backbones:
        for clips in arguments.clips:
            row = measure(backbone, clips, arguments)
            rows.append(row)
            times = "".join(f"{row[name]:>10.1f}" for name in (*PARTS, "all_anew"))
            print(f"{backbone:<20}{clips}{times}{row['saved']:>9.1f}x{row['fps']:>10.1f}")
    if arguments.json:
        print(json.dumps({"unit": "milliseconds per clip", "parts": PARTS, "rows": rows}))


def measure(backbone: str, clips: int, arguments: argparse.Namespace) -> dict:
    config = NetworkConfig(
        num_classes=24,
        backbone=backbone,
        clips=clips,
        input_size=arguments.input_size,
        late_fusion=arguments.late_fusion,
    )
    runtime = TorchRuntime(Amma(config), arguments.device, arguments.precision, arguments.mirrored)
    rng = np.random.default_rng(0)
    width, height = arguments.image_size
    frames = rng.integers(0, 256, (config.clip_length, height, width, 3), np.uint8)

    def prepare() -> np.ndarray:
        side = (config.input_size, config.input_size)
        return np.stack([cv2.resize(frame, side, interpolation=cv2.INTER_LINEAR) for frame in frames])[None]

    clip = prepare()
    window = [noise_in_place_of(entry) for entry in runtime.encode(clip) * clips]
    maps = [values[0] for values in runtime.head([window], top=100)]
    heat = rng.random(maps[0].shape, np.float32)
    steps = iter(stream(4, 96, 24, arguments.repeat + WARM_UP, clips))
    linker = TubeLinker()

    def encode(batch: np.ndarray) -> None:
        runtime.encode(batch)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()

    anew = np.repeat(clip, clips, axis=0)
    row = {
        "backbone": backbone,
        "clips": clips,
        "prepare": median(prepare, arguments.repeat),
        "encode": median(lambda: encode(clip), arguments.repeat),
        "head": median(lambda: runtime.head([window], top=100), arguments.repeat),
        "decode": median(lambda: decode(heat, *maps[1:], (width, height)), arguments.repeat),
        "link": median(lambda: linker.update(next(steps)), arguments.repeat),
    }
    rest = sum(row[name] for name in PARTS if name != "encode")
    row["all_anew"] = median(lambda: encode(anew), arguments.repeat) + rest
    total = rest + row["encode"]
    return row | {"saved": row["all_anew"] / total, "fps": 1000 * config.clip_length / total}


def noise_in_place_of(entry: tuple) -> tuple:
    """Noise for a feature: a random network's are alike in all cells, so that each would be a peak."""
    feature, size = entry
    return torch.randn_like(feature), size


def median(action: Callable[[], object], repeat: int) -> float:
    """Milliseconds, after some rounds to warm up."""
    times = []
    for _ in range(repeat + WARM_UP):
        start = time.perf_counter()
        action()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[WARM_UP:])


if __name__ == "__main__":
    main()
