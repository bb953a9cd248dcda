"""One HTML page that says how good a model is and what it gets wrong.

The page needs no other file, no script and no network.
"""

import base64
from collections.abc import Sequence
from html import escape

from amma_core.data.dataset import Video
from amma_core.evaluation import plots
from amma_core.evaluation.examples import Example, examples, worst_errors
from amma_core.evaluation.frame_map import class_curves, confusion, judge
from amma_core.evaluation.metrics import evaluate
from amma_core.evaluation.predictions import Predictions
from amma_core.evaluation.tubes import annotated_tubes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; border-bottom: 1px solid #ddd; }
p { margin: .3rem 0 .8rem; }
p.note, figcaption { color: #555; font-size: .88rem; }
table { border-collapse: collapse; font-size: .78rem; font-variant-numeric: tabular-nums; }
th, td { padding: .15rem .3rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { white-space: normal; vertical-align: bottom; border-bottom: 2px solid #bbb; }
tr.last td { font-weight: 600; border-top: 2px solid #bbb; }
.wide { overflow-x: auto; } .wide table { width: 100%; }
svg { width: 100%; height: auto; }
.frames { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .8rem; }
figure { margin: 0; } figure img { width: 100%; }
figcaption { overflow-wrap: anywhere; line-height: 1.3; }
pre { background: #f5f5f5; padding: .6rem .8rem; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def make_report(
    title: str,
    runs: dict[str, Predictions],
    videos: Sequence[Video],
    labels: list[str],
    *,
    mode: str = "untrimmed",
    timings: Sequence[dict] = (),
    commands: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        title: its heading.
        runs: what was predicted, by the name of the model. The first is what the report is about; the
            others stand beside it in the metrics and errors.
        videos: the split's videos, for the ground truth and the frames of the worst errors. Frames of those
            that cannot be read are left out.
        labels: names of the classes.
        mode: see :func:`~amma_core.evaluation.frame_map.judge`.
        timings: for the runtime breakdown, one entry per bar: ``{"name", "fps", "ms": {stage: ms}}``.
        commands: command lines that lead to this page.
    """
    truth = annotated_tubes(videos)
    true_boxes = truth.frames()
    metrics = {name: evaluate(run.frames, run.tubes, truth, labels, mode) for name, run in runs.items()}
    name, run = next(iter(runs.items()))
    order, (outcomes,) = judge(run.frames, true_boxes, len(labels), mode=mode)
    curves = class_curves(run.frames, true_boxes, len(labels), order, outcomes)
    worst = examples(worst_errors(run.frames, outcomes), run.frames, true_boxes, videos, labels)
    of_all = f"{len(videos)} videos, {len(true_boxes)} true boxes, {len(truth)} true tubes, {mode}"
    parts = [
        ("Metrics", "Percent; the mean over the classes that occur.", _summary(metrics)),
        ("Average precision per class", "", plots.average_precision(metrics[name])),
        (
            "Precision and recall",
            "Boxes of single frames at IoU 0.5; beside each class its average precision, the shaded area.",
            plots.precision_recall(curves, labels),
        ),
        (
            "Errors",
            "What the frame-mAP at IoU 0.5 is lost to; with it, the bars sum to 100. Location: right class, "
            "box too far off or a second one. Class: right box, wrong class. Time: the action is in the "
            "video, but not now. Other: neither. Missed: never found.",
            plots.errors(metrics) + plots.errors_per_class(metrics[name]),
        ),
        (
            "Confusion",
            "The class of the best-scored detection on each true box (IoU at least 0.5), in percent of the "
            "boxes of the true class.",
            plots.confusion(confusion(run.frames, true_boxes, len(labels)), labels),
        ),
        (
            "Worst errors",
            "The wrong detections with the best scores, one per video and kind: red is what was found, "
            "green what is true.",
            _gallery(worst) or '<p class="note">The videos are not here, so there are no frames to show.</p>',
        ),
    ]
    if timings:
        parts.append(
            ("Runtime", "Mean time per detection cycle (one per clip), by stage.", plots.runtime(timings))
        )
    parts.append(("All numbers", "Average precision and errors in percent.", _details(metrics[name])))
    if commands:
        parts.append(("Commands", "", f"<pre>{escape(chr(10).join(commands))}</pre>"))
    sections = "".join(
        f'<section id="{heading.lower().replace(" ", "-")}"><h2>{heading}</h2>'
        + (f'<p class="note">{note}</p>' if note else "")
        + f"{content}</section>\n"
        for heading, note, content in parts
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body><h1>{escape(title)}</h1>
<p class="note">{escape(name)}: {of_all}</p>
{sections}</body>
</html>
"""


def _summary(metrics: dict[str, dict]) -> str:
    names = [key for key in next(iter(metrics.values())) if "mAP@" in key]
    rows = [[run, *(values[key] for key in names)] for run, values in metrics.items()]
    return _table(["", *(key.replace("_mAP", "-mAP ") for key in names)], rows)


def _details(metrics: dict) -> str:
    names = [key for key in metrics if "mAP@" in key]
    kinds = list(metrics["errors@0.5"])

    def row(name: str, values: dict, ap: str, counts: list) -> list:
        aps = [values[key.replace("mAP", ap)] for key in names]
        return [name, *counts, *aps, *(values["errors@0.5"][kind] for kind in kinds)]

    rows = [row(label, v, "AP", [v["boxes"], v["tubes"]]) for label, v in metrics["per_class"].items()]
    totals = [sum(column) for column in zip(*(r[1:3] for r in rows), strict=True)]
    heads = ["", "boxes", "tubes", *(key.replace("_mAP@", " @") for key in names), *kinds]
    return _table(heads, [*rows, row("all", metrics, "mAP", totals)], last=True)


def _table(heads: list[str], rows: list[list], last: bool = False) -> str:
    def cell(value) -> str:
        if value is None:
            return "-"
        return f"{value:.2f}" if isinstance(value, float) else escape(str(value))

    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr{' class=last' if last and row is rows[-1] else ''}>"
        + "".join(f"<td>{cell(value)}</td>" for value in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _gallery(worst: list[Example]) -> str:
    figures = "".join(
        f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(example.image).decode()}">'
        f"<figcaption><b>{plots.KINDS[example.kind][0]}</b>: {escape(example.caption)}</figcaption></figure>"
        for example in worst
    )
    return f'<div class="frames">{figures}</div>' if figures else ""
