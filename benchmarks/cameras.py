"""Throughput of one model for several cameras, one by one and batched.

    python benchmarks/cameras.py --model untrained --cameras 1 2 4 8

Frames per second of all cameras together, decoding of images and ROS left out: what the network can do. The
last line is the table as JSON.
"""

import argparse
import json
import time

import numpy as np

from amma_core import bundle
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_core.streams import Stream, advance

SIZE = (480, 640)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="untrained", help="name or folder of a model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each measurement")
    arguments = parser.parse_args()
    model = bundle.load(arguments.model)
    runtime = TorchRuntime(model.build(), arguments.device, arguments.precision)
    rows = []
    print(f"{model.name} on {runtime.device}, {arguments.precision}")
    print("cameras   one by one [frames/s]   batched [frames/s]   batched, a camera")
    for count in arguments.cameras:
        single, batched = (measure(runtime, count, arguments.seconds, together) for together in (False, True))
        rows.append({"cameras": count, "one_by_one": round(single, 1), "batched": round(batched, 1)})
        print(f"{count:7}   {single:21.1f}   {batched:18.1f}   {batched / count:17.1f}")
    device = str(runtime.device)
    print(json.dumps({"model": model.name, "device": device, "precision": arguments.precision, "rows": rows}))


def measure(runtime: TorchRuntime, cameras: int, seconds: float, together: bool) -> float:
    """Frames per second of so many cameras that deliver their clips at the same moment."""
    config = runtime.config
    streams = [Stream(config) for _ in range(cameras)]
    images = np.random.default_rng(0).integers(0, 256, (config.clip_length, *SIZE, 3), dtype=np.uint8)
    stamp, frames = 0, 0
    begin = time.perf_counter()
    warm = 3
    while warm or time.perf_counter() - begin < seconds:
        for image in images:
            stamp += 33_000_000
            for stream in streams:
                stream.add(image, stamp)
        for batch in [streams] if together else [[stream] for stream in streams]:
            advance(runtime, batch)
        if warm:
            warm -= 1
            begin = time.perf_counter()
        else:
            frames += cameras * config.clip_length
    return frames / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
