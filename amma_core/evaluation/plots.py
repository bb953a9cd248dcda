"""The plots of an evaluation report, each as one piece of SVG that can stand in an HTML page."""

import io
import re
from collections.abc import Callable

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from amma_core.evaluation.curves import Curve

KINDS = {
    "L": ("location", "#e69f00"),
    "C": ("class", "#d55e00"),
    "T": ("time", "#cc79a7"),
    "O": ("other", "#8f8f8f"),
    "M": ("missed", "#56b4e9"),
}
"""Name and colour of every kind of error."""
FRAME, VIDEO = "#0072b2", "#009e73"
STAGES = ("#0072b2", "#56b4e9", "#e69f00", "#8f8f8f", "#009e73", "#cc79a7")
FPS = "#d62728"

_STYLE = {
    "svg.fonttype": "none",  # letters stay letters: smaller, sharp, and searchable
    "svg.hashsalt": "amma",  # the same input gives the same page
    "text.parse_math": False,  # a $ in the name of a class is a $
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e8e8e8",
}


def _svg(width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """Draw on a figure of width x height inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None}, transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # In HTML the names of the XML formats and the file's own description are not needed.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)


def average_precision(metrics: dict) -> str:
    """Per class, frame-AP and (where there are tubes) video-AP at 0.5; the best class on top."""
    known = {label: e for label, e in metrics["per_class"].items() if e["frame_AP@0.5"] is not None}
    labels = sorted(known, key=lambda label: known[label]["frame_AP@0.5"])
    measures = {"frame_AP@0.5": ("frame-AP @0.5", FRAME), "video_AP@0.5": ("video-AP @0.5", VIDEO)}
    measures = {key: value for key, value in measures.items() if known[labels[0]][key] is not None}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        thickness = 0.8 / len(measures)
        for i, (key, (name, colour)) in enumerate(measures.items()):
            place = np.arange(len(labels)) + (len(measures) - 1 - 2 * i) * thickness / 2
            bars = axes.barh(
                place, [known[label][key] for label in labels], thickness, color=colour, label=name
            )
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
        axes.set_yticks(np.arange(len(labels)), labels)
        axes.set(xlim=(0, 108), ylim=(-0.6, len(labels) - 0.4), xlabel="average precision, %")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=2, frameon=False)

    return _svg(8, 0.8 + 0.36 * len(labels), draw)


def precision_recall(curves: list[Curve], labels: list[str]) -> str:
    """One small plot per class."""
    known = [(label, curve) for label, curve in zip(labels, curves, strict=True) if curve.positives]
    columns = min(5, len(known))
    rows = -(-len(known) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, (label, curve) in zip(grid.flat, known, strict=False):
            few = _thinned(curve.recall)
            axes.fill_between(curve.recall[few], curve.precision[few], color=FRAME, alpha=0.15, linewidth=0)
            axes.plot(curve.recall[few], curve.precision[few], color=FRAME, linewidth=1.2)
            axes.set_title(f"{label}  {curve.ap:.1f}", fontsize=8)
            axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
        for axes in grid.flat[len(known) :]:
            axes.set_visible(False)
        figure.supxlabel("recall")
        figure.supylabel("precision")

    return _svg(8, 0.5 + 1.5 * rows, draw)


def _thinned(recall: NDArray, most: int = 200) -> NDArray[np.int64]:
    """Indices of the points worth drawing: the ends of rises, evenly along the curve."""
    rises = np.flatnonzero(np.diff(recall) > 0) + 1
    points = np.union1d([0, len(recall) - 1], np.concatenate([rises - 1, rises]))
    return points[np.unique(np.linspace(0, len(points) - 1, most).astype(np.int64))]


def errors(runs: dict[str, dict]) -> str:
    """The paper's Figure 7: what the frame-mAP at 0.5 is lost to, one bar per kind and evaluated model."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        thickness = 0.8 / len(runs)
        for i, (name, metrics) in enumerate(runs.items()):
            heights = [metrics["errors@0.5"][kind] for kind in KINDS]
            place = np.arange(len(KINDS)) + (2 * i - len(runs) + 1) * thickness / 2
            colours = [colour for _, colour in KINDS.values()]
            bars = axes.bar(place, heights, thickness * 0.95, color=colours, alpha=1 if i == 0 else 0.5)
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
            if len(runs) > 1:
                for x in place:
                    axes.annotate(
                        name, (x, 0), (0, -3), textcoords="offset points", ha="center", va="top", fontsize=6
                    )
        names = [f"$E_{kind}$ {name}" for kind, (name, _) in KINDS.items()]
        axes.set_xticks(np.arange(len(KINDS)), names, parse_math=True)
        axes.tick_params(axis="x", pad=12 if len(runs) > 1 else 4, length=0)
        axes.set_ylabel("lost frame-mAP, points")
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.12)

    return _svg(8, 3, draw)


def errors_per_class(metrics: dict) -> str:
    """Average precision and what is missing to 100, per class."""
    known = {label: e for label, e in metrics["per_class"].items() if e["frame_AP@0.5"] is not None}
    labels = sorted(known, key=lambda label: known[label]["frame_AP@0.5"])
    parts = {"AP": ("frame-AP", FRAME), **KINDS}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        start = np.zeros(len(labels))
        for kind, (name, colour) in parts.items():
            key = "frame_AP@0.5" if kind == "AP" else None
            width = np.array(
                [known[label][key] if key else known[label]["errors@0.5"][kind] for label in labels]
            )
            axes.barh(labels, width, 0.75, start, color=colour, label=name)
            start += width
        axes.set(xlim=(0, 100), ylim=(-0.6, len(labels) - 0.4), xlabel="%")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", ncols=len(parts), frameon=False, handlelength=1)

    return _svg(8, 0.8 + 0.25 * len(labels), draw)


def confusion(counts: NDArray[np.int64], labels: list[str]) -> str:
    """True classes by row, in percent of their boxes; the last column is what nothing was found for."""
    rows = np.flatnonzero(counts.sum(1))
    shares = 100 * counts[rows] / counts[rows].sum(1, keepdims=True)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        for row, column in zip(*np.nonzero(shares >= 0.5), strict=True):
            colour = "white" if shares[row, column] > 55 else "black"
            text = f"{shares[row, column]:.0f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
        axes.set_xticks(
            np.arange(len(labels) + 1), [*labels, "nothing"], rotation=60, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(np.arange(len(rows)), [labels[row] for row in rows])
        axes.set(xlabel="taken for", ylabel="true class")
        axes.grid(visible=False)

    return _svg(8, 1.6 + 0.24 * len(rows), draw)


def runtime(timings: list[dict]) -> str:
    """The paper's Figure 9: milliseconds per detection cycle by stage, and frames per second in red."""
    stages = list(dict.fromkeys(stage for timing in timings for stage in timing["ms"]))
    names = [timing["name"] for timing in timings]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        place, start = np.arange(len(names)), np.zeros(len(names))
        for stage, colour in zip(stages, STAGES * len(stages), strict=False):
            heights = np.array([timing["ms"].get(stage, 0.0) for timing in timings])
            axes.bar(
                place,
                heights,
                0.5,
                start,
                color=colour,
                label=f"{stage} {heights[0]:.1f}" if len(names) == 1 else stage,
            )
            start += heights
        axes.set_xticks(place, names)
        axes.set(ylabel="ms per detection cycle", xlim=(-0.75, len(names) - 0.25))
        axes.grid(axis="x", visible=False)
        rate = axes.twinx()
        rate.plot(place, [timing["fps"] for timing in timings], "o-", color=FPS)
        for x, timing in zip(place, timings, strict=True):
            rate.annotate(
                f"{timing['fps']:.1f}",
                (x, timing["fps"]),
                (0, 9),
                textcoords="offset points",
                ha="center",
                color=FPS,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )
        rate.set_ylabel("frames per second", color=FPS)
        rate.set_ylim(0, 1.3 * max(timing["fps"] for timing in timings))
        rate.grid(visible=False)
        figure.legend(loc="outside upper right", ncols=len(stages), frameon=False)

    return _svg(8, 3.2, draw)
