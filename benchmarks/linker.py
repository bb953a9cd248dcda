"""What decoding and linking cost at each key frame, and what one box at a time would cost.

    python benchmarks/linker.py [--steps 60]

A street: four people, two tubelets each. A crowd: 24 classes and 100 tubelets a step, most of them noise, as
an untrained or very unsure network gives. Every 4th frame is a key frame, K = 5.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "core")]

from slow_linker import SlowLinker  # noqa: E402

from amma_core.decoding import decode  # noqa: E402
from amma_core.linker import TubeLinker  # noqa: E402
from amma_core.types import Tubelets  # noqa: E402

CLASSES, CLIPS, STEP, GRID, SIZE = 24, 5, 4, 36, (1280, 720)
HALF = np.array([40, 90])


def stream(people: int, noise: int, classes: int, steps: int, clips: int = CLIPS) -> list[Tubelets]:
    """People who walk in straight lines, seen twice each, and tubelets anywhere."""
    rng = np.random.default_rng(0)
    start, speed = rng.uniform(100, 600, (people, 1, 2)), rng.normal(0, 1.5, (people, 1, 2))
    answers = []
    for step in range(steps):
        keys = np.arange(step + 1, step + clips + 1) * STEP
        walkers = np.repeat(start + speed * keys[:, None], 2, axis=0)
        centres = np.concatenate([walkers, rng.uniform(0, 700, (noise, 1, 2)).repeat(clips, axis=1)])
        centres += rng.normal(0, 2, centres.shape)
        frames = np.arange(1 if step == 0 else keys[-1] - STEP + 1, keys[-1] + 1)
        labels = np.concatenate([np.arange(2 * people) // 2 % classes, rng.integers(0, classes, noise)])
        answers.append(
            Tubelets(
                image_size=SIZE,
                key_numbers=keys,
                key_stamps=keys * 33_000_000,
                frame_numbers=frames,
                frame_stamps=frames * 33_000_000,
                labels=labels,
                scores=rng.uniform(0.01, 0.3, len(labels)).astype(np.float32),
                boxes=np.concatenate([centres - HALF, centres + HALF], axis=-1).astype(np.float32),
            )
        )
    return answers


def milliseconds(step, items) -> float:
    """Median time of a step, over the second half, when the linker has its usual number of tubes."""
    times = []
    for item in items:
        start = time.perf_counter()
        step(item)
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times[len(times) // 2 :]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=60, help="key frames to link (default: 60)")
    steps = parser.parse_args().steps

    rng = np.random.default_rng(0)
    heat = rng.random((CLASSES, GRID, GRID), dtype=np.float32)
    movement, size = rng.normal(4, 2, (2, 2 * CLIPS, GRID, GRID)).astype(np.float32)
    cost = milliseconds(lambda _: decode(heat, movement, size, SIZE), range(200))
    print(f"decode  {CLASSES} classes, {GRID} x {GRID} cells, K = {CLIPS}: {cost:.2f} ms")

    for name, people, noise, classes in (("street", 4, 0, 3), ("crowd", 20, 60, CLASSES)):
        answers = stream(people, noise, classes, steps)
        live = milliseconds(TubeLinker(causal=True).update, answers)
        whole = milliseconds(TubeLinker(keep_history=True).update, answers)
        slow = milliseconds(SlowLinker().update, answers)
        causal = TubeLinker(causal=True)
        for answer in answers:
            causal.update(answer)
        carry = milliseconds(lambda number, on=causal: on.extrapolate(number, 0), range(10_000, 10_200))
        print(
            f"{name:7} {len(answers[0])} tubelets a step: live {live:.2f} ms, with history {whole:.2f} ms, "
            f"one frame carried on {carry:.3f} ms; "
            f"one box at a time {slow:.1f} ms ({slow / live:.0f} times live)"
        )


if __name__ == "__main__":
    main()
