import base64
import json
import re
import shutil
import subprocess

import cv2
import matplotlib
import numpy as np
import pytest

from amma_core.cli import main
from amma_core.evaluation.examples import SHOWN_WIDTH, worst_errors
from amma_core.evaluation.frame_map import CLASS, LOCATION, OTHER
from amma_core.evaluation.plots import FPS, FRAME, KINDS, VIDEO
from amma_core.evaluation.predictions import save_predictions
from amma_core.evaluation.tubes import Tubes

LABELS = ["run <fast>", "wave $x_$", "jump"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def still(box, frames=range(1, 7)):
    return [[frame, *box] for frame in frames]


@pytest.fixture
def inputs(tmp_path):
    """Two videos as folders of grey images. In each, one person and errors of all five kinds."""
    videos, found = {}, []
    for index, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        for frame in range(1, 11):
            cv2.imwrite(
                str(tmp_path / name / f"{frame:02d}.png"), np.full((120, 160, 3), 100 + frame, np.uint8)
            )
        tube = {"label": LABELS[index], "boxes": still((10, 10, 49, 89))}
        videos[name] = {"frames": 10, "width": 160, "height": 120, "fps": 10.0, "tubes": [tube]}
        found += [
            (index, index, 0.7, still((10, 10, 49, 89), range(1, 5))),  # right, two frames missed
            (index, index, 0.95, still((90, 10, 129, 89), [1])),  # location
            (index, 1 - index, 0.8, still((10, 10, 49, 89), [2])),  # class
            (index, index, 0.97, still((10, 10, 49, 89), [9])),  # time
            (index, 1 - index, 0.85, still((90, 10, 129, 89), [3])),  # other
        ]
    truth = tmp_path / "annotations.json"
    truth.write_text(json.dumps({"labels": LABELS, "videos": videos, "splits": {"test1": ["a", "b"]}}))
    tubes = Tubes.of(found)
    save_predictions(tmp_path / "p.npz", tubes.frames(), tubes)
    save_predictions(tmp_path / "other.npz", tubes.frames()[:4])
    timings = [
        {"name": f"K={k}", "fps": 100 - k, "ms": {"inference": 8.0, "linking": 1.0 * k}} for k in (2, 3)
    ]
    (tmp_path / "timings.json").write_text(json.dumps(timings))
    return tmp_path


def report(folder, *more):
    arguments = ["--predictions", f"{folder}/p.npz", "--ground-truth", f"{folder}/annotations.json"]
    assert main(["report", *arguments, "--output", f"{folder}/report.html", *map(str, more)]) == 0
    return (folder / "report.html").read_text()


def everything(folder):
    return report(folder, "--compare", folder / "other.npz", "--timings", folder / "timings.json")


def test_the_page_stands_alone(inputs):
    page = everything(inputs)
    sections = re.findall(r'<section id="([\w-]+)">', page)
    assert sections == [
        "metrics",
        "average-precision-per-class",
        "precision-and-recall",
        "errors",
        "confusion",
        "worst-errors",
        "runtime",
        "all-numbers",
        "commands",
    ]
    assert page.count("<svg") == 6
    assert "http" not in page
    assert "<script" not in page
    assert "<link" not in page
    references = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(reference.startswith(("#", "data:image/")) for reference in references)
    assert all(reference[1:] in page for reference in references if reference.startswith("#"))
    assert "run &lt;fast&gt;" in page
    assert "run <fast>" not in page
    assert page.count(">wave $x_$<") >= 4  # in tables and on axes as it is written
    assert "amma eval --predictions" in page


def test_the_same_input_gives_the_same_page(inputs):
    assert everything(inputs) == everything(inputs)


def test_numbers_are_those_of_eval(inputs, capsys):
    page = report(inputs)
    capsys.readouterr()
    given = ["--predictions", f"{inputs}/p.npz", "--ground-truth", f"{inputs}/annotations.json"]
    assert main(["eval", *given, "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    row = re.search(r"<tr><td>p</td>(.*?)</tr>", page).group(1)
    shown = [float(number) for number in re.findall(r"<td>([\d.]+)</td>", row)]
    assert shown == [round(value, 2) for key, value in metrics.items() if "mAP" in key]
    assert all(value > 0 for value in metrics["errors@0.5"].values())


def test_frames_of_the_worst_errors(inputs):
    page = report(inputs)
    pictures = re.findall(r'<img alt="" src="data:image/jpeg;base64,([^"]+)"><figcaption>(.*?)</fig', page)
    captions = [caption for _, caption in pictures]
    assert captions[0] == "<b>location</b>: run &lt;fast&gt; 0.95, true: run &lt;fast&gt; (a, frame 1)"
    assert captions[4] == "<b>time</b>: run &lt;fast&gt; 0.97, true: nothing (a, frame 9)"
    assert [re.match("<b>(.*)</b>", caption).group(1) for caption in captions] == [
        kind for kind in ("location", "class", "time", "other") for _ in "ab"
    ]
    image = cv2.imdecode(np.frombuffer(base64.b64decode(pictures[0][0]), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (120, 160, 3)
    assert (image[50, 10] > (40, 120, 0)).all()  # the left side of the true box is green,
    assert image[50, 10].argmax() == 1
    assert image[50, 90].argmax() == 2  # that of the wrong one red


def test_large_frames_are_shrunk_to_what_is_shown(inputs):
    truth = json.loads((inputs / "annotations.json").read_text())
    for name in ("a", "b"):
        truth["videos"][name] |= {"width": 1280, "height": 960}
        for path in (inputs / name).iterdir():
            cv2.imwrite(str(path), np.full((960, 1280, 3), 100, np.uint8))
    (inputs / "annotations.json").write_text(json.dumps(truth))
    picture = re.search(r'src="data:image/jpeg;base64,([^"]+)"', report(inputs)).group(1)
    image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (360, SHOWN_WIDTH, 3)
    assert image[20, 4].argmax() == 1  # the left side of the true box is still seen


def test_without_videos_and_tubes(inputs):
    for name in ("a", "b"):
        shutil.rmtree(inputs / name)
    save_predictions(inputs / "p.npz", [[0, 1, 0, 0.5, 0, 0, 9, 9]])
    page = report(inputs)
    assert "The videos are not here" in page
    assert VIDEO not in page  # no bars of video-AP


def test_worst_errors_are_the_surest_of_each_kind_and_video():
    scores = [0.1, 0.9, 0.8, 0.7, 0.6, 0.5]
    videos = [0, 0, 0, 1, 2, 3]
    outcomes = [LOCATION, 0, LOCATION, LOCATION, OTHER, CLASS]
    detections = np.zeros((6, 8))
    detections[:, 0], detections[:, 3] = videos, scores
    assert worst_errors(detections, np.array(outcomes)) == [("L", 2), ("L", 3), ("C", 5), ("O", 4)]
    assert worst_errors(detections, np.array(outcomes), per_kind=1) == [("L", 2), ("C", 5), ("O", 4)]


def test_files_of_the_same_name_are_told_apart(inputs, capsys):
    (inputs / "old").mkdir()
    shutil.copy(inputs / "other.npz", inputs / "old" / "p.npz")
    page = report(inputs, "--compare", inputs / "old" / "p.npz")
    figures = [re.search("<table.*?</table>", each, re.DOTALL)[0] for each in (page, report(inputs))]
    assert figures[0].startswith(figures[1].removesuffix("</tbody></table>"))
    given = ["--predictions", f"{inputs}/p.npz", "--ground-truth", f"{inputs}/annotations.json"]
    old, itself = f"{inputs}/old/p.npz", f"{inputs}/old/../p.npz"
    for same in ([old, old], [f"{inputs}/p.npz"], [itself]):
        assert main(["report", *given, "--compare", *same]) == 2
        assert f"{same[-1]} is compared with itself: give each file once" in capsys.readouterr().err


def test_mistakes(inputs, capsys):
    (inputs / "timings.json").write_text('[{"name": "K=2"}]')
    given = ["--predictions", f"{inputs}/p.npz", "--ground-truth", f"{inputs}/annotations.json"]
    assert main(["report", *given, "--timings", f"{inputs}/timings.json"]) == 2
    assert "does not hold timings" in capsys.readouterr().err
    assert main(["report", *given, "--output", f"{inputs}/no/report.html"]) == 2
    assert "report.html cannot be written" in capsys.readouterr().err


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here to look at the page with")
def test_a_browser_draws_every_plot(inputs):
    everything(inputs)
    picture = inputs / "page.png"
    subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1000,3600",
            f"--user-data-dir={inputs}/profile",
            f"--screenshot={picture}",
            f"file://{inputs}/report.html",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    image = cv2.imread(str(picture))[:, :, ::-1]

    def count(colour: str) -> int:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return int((np.abs(image.astype(int) - wanted).max(2) <= 3).sum())

    assert count(FRAME) > 5000  # bars of frame-AP
    assert count(VIDEO) > 2000  # bars of video-AP
    assert count("#d9eaf3") > 1000  # the areas below the curves: the line's colour at 15 %
    assert all(count(colour) > 1000 for _, colour in KINDS.values())  # errors
    half = matplotlib.colors.to_hex(matplotlib.colormaps["Blues"](0.5))
    assert count(half) > 1000  # the confusion matrix: cells of 50 %
    assert count("#656565") > 10_000  # the grey frames of the worst errors
    assert count(FPS) > 100  # the line of the runtime
