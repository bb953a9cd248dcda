"""All numbers of an evaluation at once."""

import math

from numpy.typing import NDArray

from amma_core.evaluation.curves import mean_over_classes
from amma_core.evaluation.frame_map import frame_curves
from amma_core.evaluation.tubes import Tubes
from amma_core.evaluation.video_map import video_curves

FRAME_THRESHOLDS = (0.5, 0.75)
VIDEO_THRESHOLDS = {
    "0.2": [0.2],
    "0.5": [0.5],
    "0.75": [0.75],
    "0.5:0.95": [0.5 + 0.05 * i for i in range(10)],
}


def evaluate(
    frames: NDArray, tubes: Tubes | None, truth: Tubes, labels: list[str], mode: str = "untrimmed"
) -> dict:
    """Frame-mAP, video-mAP and errors, over all classes and per class, in percent.

    Args:
        frames: (N, 8) rows of video, frame, label, score, x1, y1, x2, y2.
        tubes: the predicted tubes, or None where there are none to judge: the video-mAPs are then None.
        truth: the annotated tubes.
        labels: names of the classes.
        mode: see :func:`~amma_core.evaluation.frame_map.frame_curves`; concerns the frame-mAPs and errors.

    Returns:
        ``frame_mAP@0.5``, ``frame_mAP@0.75``, ``video_mAP@0.2``, ``video_mAP@0.5``, ``video_mAP@0.75``,
        ``video_mAP@0.5:0.95``, ``errors@0.5`` (an object of L, C, T, O, M), and ``per_class``: the same by
        label with AP for mAP, and ``boxes`` and ``tubes``, the numbers of true ones. None stands where a
        class has no ground truth. All of it can be written as JSON.
    """
    classes = len(labels)
    curves = frame_curves(frames, truth.frames(), classes, FRAME_THRESHOLDS, mode)
    curves = dict(zip(FRAME_THRESHOLDS, curves, strict=True))
    aps = {f"frame_AP@{at}": [curve.ap for curve in found] for at, found in curves.items()}
    aps |= _video_aps(tubes, truth, classes)
    errors = [curve.errors for curve in curves[0.5]]
    summary = {name.replace("AP", "mAP"): mean_over_classes(column) for name, column in aps.items()}
    summary["errors@0.5"] = {kind: mean_over_classes([e[kind] for e in errors]) for kind in errors[0]}
    summary["per_class"] = {
        label: {
            **{name: column[i] for name, column in aps.items()},
            "errors@0.5": errors[i],
            "boxes": curves[0.5][i].positives,
            "tubes": int((truth.labels == i).sum()),
        }
        for i, label in enumerate(labels)
    }
    return _without_nan(summary)


def _video_aps(tubes: Tubes | None, truth: Tubes, classes: int) -> dict[str, list[float]]:
    if tubes is None:
        return {f"video_AP@{name}": [math.nan] * classes for name in VIDEO_THRESHOLDS}
    thresholds = sorted({at for several in VIDEO_THRESHOLDS.values() for at in several})
    curves = dict(zip(thresholds, video_curves(tubes, truth, classes, thresholds), strict=True))
    return {
        f"video_AP@{name}": [sum(curves[at][i].ap for at in several) / len(several) for i in range(classes)]
        for name, several in VIDEO_THRESHOLDS.items()
    }


def _without_nan(value):
    """JSON knows no nan: null says as well that there is no such number."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def percent(number: float | None) -> str:
    """For the terminal, where - is unknown."""
    return "-" if number is None else f"{number:.2f}"


def table(metrics: dict) -> str:
    """The result of :func:`evaluate` for the terminal: one line per class, the mean last."""
    columns = [name for name in metrics if "mAP@" in name]
    kinds = list(metrics["errors@0.5"])
    heads = [name.replace("_mAP", "") for name in columns] + kinds
    width = max(len("mean"), *map(len, metrics["per_class"]))

    def line(name: str, values: dict, ap: str) -> str:
        numbers = [values[column.replace("mAP", ap)] for column in columns]
        numbers += [values["errors@0.5"][kind] for kind in kinds]
        return f"{name:{width}}  " + "  ".join(
            f"{percent(number):>{max(len(head), 6)}}" for number, head in zip(numbers, heads, strict=True)
        )

    lines = [f"{'':{width}}  " + "  ".join(f"{head:>6}" for head in heads)]
    lines += [line(label, values, "AP") for label, values in metrics["per_class"].items()]
    return "\n".join([*lines, line("mean", metrics, "mAP")])
