"""Time and memory of an evaluation the size of UCF101-24's, against a plain loop over boxes.

    python benchmarks/evaluation.py [--boxes 5000000] [--loop-videos 50]

Makes 914 videos with annotated tubes of 24 classes, noisy detections of them and false alarms, and
about ten predicted tubes per video; evaluates frame-mAP@0.5 and @0.75, the errors, and video-mAP at eleven
thresholds. The loop is that of test/evaluation/per_box_loop.py. It would take too long on everything, so it
gets the first --loop-videos videos; there, both must give the same numbers, and times are compared per box.
"""

import argparse
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "test" / "evaluation")]

import per_box_loop as loop  # noqa: E402

from amma_core.evaluation.metrics import FRAME_THRESHOLDS, VIDEO_THRESHOLDS, evaluate  # noqa: E402
from amma_core.evaluation.tubes import Tubes  # noqa: E402

VIDEOS, CLASSES, FRAMES, SIZE = 914, 24, 170, (320, 240)
LABELS = [f"class {i}" for i in range(CLASSES)]


def make_truth(random: np.random.Generator) -> Tubes:
    """One to three people per video, all doing the same, for a part of it."""

    def tube(video: int):
        start, length = random.integers(1, 40), random.integers(30, FRAMES - 40)
        centre = random.uniform((60, 60), (260, 180)) + random.normal(0, 1, (length, 2)).cumsum(0)
        half = random.uniform(10, 40, 2)
        boxes = np.hstack([centre - half, centre + half]).clip(0, np.tile(SIZE, 2) - 1.0)
        return video, video % CLASSES, 1.0, np.column_stack([np.arange(start, start + length), boxes])

    return Tubes.of(tube(video) for video in range(VIDEOS) for _ in range(random.integers(1, 4)))


def make_detections(truth: Tubes, count: int, random: np.random.Generator) -> np.ndarray:
    """Noisy copies of true boxes, a third of another class, and as many boxes anywhere; ordered by frame."""
    rows = truth.frames()[random.integers(0, len(truth.boxes), count)]
    rows[:, 4:] += random.normal(0, 6, (count, 4))
    other = random.random(count) < 1 / 3
    rows[other, 2] = random.integers(0, CLASSES, other.sum())
    rows[:, 3] = random.random(count) * np.where(other, 0.5, 1)
    stray = random.random(count) < 1 / 2
    rows[stray, 1] = random.integers(1, FRAMES + 1, stray.sum())
    rows[stray, 3] *= 0.3
    corners = np.hstack([random.uniform(0, (250, 180), (count, 2)), random.uniform(20, 60, (count, 2))])
    corners[:, 2:] += corners[:, :2]
    rows[stray, 4:] = corners[stray]
    rows[:, 4:] = rows[:, 4:].clip(0, np.tile(SIZE, 2) - 1.0)
    rows[:, 6:] = np.maximum(rows[:, 4:6], rows[:, 6:])
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))].astype(np.float32)


def make_tubes(truth: Tubes, random: np.random.Generator) -> Tubes:
    """Five noisy copies of each true tube, cut short, some of another class."""

    def copy(source: int):
        boxes = truth.boxes[slice(*truth.offsets[source : source + 2])][random.integers(0, 10) :].copy()
        boxes[:, 1:] += random.normal(0, 8, 4)
        wrong = random.random() < 0.3
        label = random.integers(CLASSES) if wrong else truth.labels[source]
        return truth.videos[source], label, random.random() * (0.6 if wrong else 1), boxes

    return Tubes.of(copy(source) for source in range(len(truth)) for _ in range(5))


def evaluate_by_loop(detections: np.ndarray, tubes: Tubes, truth: Tubes) -> dict[str, float]:
    """What `evaluate` gives, but for the names of the classes."""
    rows, true_rows = detections.astype(float).tolist(), truth.frames().tolist()
    found, true = (
        [
            (int(t.videos[i]), int(t.labels[i]), t.scores[i], t.boxes[slice(*t.offsets[i : i + 2])].tolist())
            for i in range(len(t))
        ]
        for t in (tubes, truth)
    )
    result = {}
    for at in FRAME_THRESHOLDS:
        per_class = [loop.frame_class(rows, true_rows, label, at, "untrimmed") for label in range(CLASSES)]
        known = [result for result in per_class if result]
        result[f"frame_mAP@{at}"] = np.mean([ap for ap, _ in known])
        if at == 0.5:
            result["errors@0.5"] = {
                kind: np.mean([errors[kind] for _, errors in known]) for kind in known[0][1]
            }
    at_threshold = {}
    for at in {at for several in VIDEO_THRESHOLDS.values() for at in several}:
        per_class = [loop.video_class(found, true, label, at) for label in range(CLASSES)]
        at_threshold[at] = np.mean([ap for ap in per_class if ap is not None])
    for name, several in VIDEO_THRESHOLDS.items():
        result[f"video_mAP@{name}"] = np.mean([at_threshold[at] for at in several])
    return result


def timed(function, *arguments):
    start = time.process_time()  # of this process alone: the machine may be busy with others
    result = function(*arguments)
    return result, time.process_time() - start


def peak_mib(function, *arguments) -> float:
    """What a call needs beyond its arguments, at most."""
    tracemalloc.start()
    function(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--boxes", type=int, default=5_000_000)
    parser.add_argument("--loop-videos", type=int, default=50, help="videos for the loop; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    truth = make_truth(random)
    tubes = make_tubes(truth, random)
    detections = make_detections(truth, arguments.boxes, random)
    print(
        f"{VIDEOS} videos, {len(truth.boxes):,} true boxes, {len(detections):,} scored boxes, "
        f"{len(tubes):,} tubes"
    )

    result, seconds = timed(evaluate, detections, tubes, truth, LABELS)
    memory = peak_mib(evaluate, detections, tubes, truth, LABELS)
    print(
        f"arrays: {seconds:.1f} s, {memory:.0f} MiB beyond the input of {detections.nbytes / 2**20:.0f} MiB"
    )
    print("  " + ", ".join(f"{name} {value:.2f}" for name, value in result.items() if "mAP" in name))
    if not arguments.loop_videos:
        return

    few = arguments.loop_videos
    detections = detections[detections[:, 0] < few]
    tubes, truth = (t.take(np.flatnonzero(t.videos < few)) for t in (tubes, truth))
    expected, loop_seconds = timed(evaluate_by_loop, detections, tubes, truth)
    got = evaluate(detections, tubes, truth, LABELS)
    share = len(detections) / arguments.boxes
    print(f"loop, {few} videos, {len(detections):,} scored boxes: {loop_seconds:.1f} s", end="")
    print(f" ({loop_seconds / share:.0f} s for all at this pace)")
    difference = max(
        *(abs(got[name] - value) for name, value in expected.items() if name != "errors@0.5"),
        *(abs(got["errors@0.5"][kind] - value) for kind, value in expected["errors@0.5"].items()),
    )
    print(
        f"arrays are {loop_seconds / share / seconds:.0f} times as fast; "
        f"largest difference {difference:.1e} points"
    )
    if difference > 0.01:
        sys.exit("the two disagree")


if __name__ == "__main__":
    main()
