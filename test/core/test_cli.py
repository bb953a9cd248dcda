"""The `amma` command, run as a person runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from amma_core import bundle
from amma_core.cli import main
from amma_core.config import NetworkConfig
from amma_core.network import Amma
from amma_core.video import VideoReader, VideoWriter

WRITTEN = ("--output", "--json", "--rerun", "--predictions")


def amma(*words, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "amma_core", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(3)
    network = Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=3, input_size=64))
    return bundle.save(tmp_path_factory.mktemp("models") / "small", network, ["sit", "walk"], 30).path


@pytest.fixture(scope="module")
def make_video(tmp_path_factory):
    def make(count: int, size: tuple[int, int] = (80, 60)):
        path = tmp_path_factory.mktemp("videos") / f"{count}.mp4"
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        with VideoWriter(path, size, 25) as writer:
            for i in range(count):
                writer.write(np.roll(noise, 3 * i, axis=1))
        return path

    return make


def test_help_teaches():
    overview = amma("--help").stdout
    assert "detect" in overview
    assert "find actions in a video" in overview
    assert "amma detect street.mp4" in amma("detect", "--help").stdout


def test_info_prints_the_cost_of_a_network():
    words = [
        "info",
        "--backbone",
        "resnet18",
        "--motion",
        "conv_diff",
        "--fusion-stages",
        "3",
        "--clips",
        "5",
        "--num-classes",
        "21",
    ]
    last_line = amma(*words, "--json").stdout.splitlines()[-1]
    answer = json.loads(last_line)
    assert answer["parameters"] == 15_750_751
    assert answer["gmacs_per_clip"] == pytest.approx(5.3307, rel=1e-3)
    table = amma(*words).stdout
    assert "backbone" in table
    assert "15,750,751" in table
    assert (
        "must be from 0 to 3 for mobilenet_v2"
        in amma("info", "--backbone=mobilenet_v2", "--fusion-stages=4").stderr
    )


@pytest.mark.parametrize(("count", "size"), [(1, (80, 60)), (11, (81, 61)), (12, (80, 60))])
@pytest.mark.parametrize("mode", [[], ["--causal"]])
def test_detect_writes_a_line_and_a_picture_per_frame(tmp_path, model, make_video, count, size, mode):
    output, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    video = make_video(count, size)
    done = amma(
        "detect", video, "--model", model, "--output", output, "--json", lines, "--min-score", 0, *mode
    )
    assert done.returncode == 0, done.stderr
    assert f"in {count} frames" in done.stdout
    answers = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [answer["frame"] for answer in answers] == list(range(1, count + 1))
    assert [answer["stamp"] for answer in answers] == pytest.approx([0.04 * i for i in range(count)])
    detections = [detection for answer in answers for detection in answer["detections"]]
    assert detections or (mode and count < 4)  # at once means: before the first key frame, nothing
    for detection in detections:
        assert detection["label"] in ("sit", "walk")
        assert 0 <= detection["score"] <= 1
        assert detection["tube"] > 0
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= size[0] + 1
        assert 0 <= y1 <= y2 <= size[1] + 1
    assert len(list(VideoReader(output))) == count


def test_detect_prints_only_json_where_lines_go_to_standard_output(model, make_video):
    done = amma("detect", make_video(5), "--model", model, "--json", "-")
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == [1, 2, 3, 4, 5]


def test_predictions_of_a_video_can_be_evaluated(tmp_path, model, make_video):
    video, predictions, truth = make_video(24), tmp_path / "found.npz", tmp_path / "truth.json"
    done = amma("detect", video, "--model", model, "--predictions", predictions)
    assert done.returncode == 0, done.stderr
    tube = {"label": "walk", "boxes": [[frame, 10, 10, 40, 50] for frame in range(1, 25)]}
    about = {"file": str(video), "frames": 24, "width": 80, "height": 60, "fps": 25, "tubes": [tube]}
    # The data set's classes stand in another order than the model's, and lack one.
    truth.write_text(
        json.dumps({"labels": ["walk", "jump"], "videos": {"a": about}, "splits": {"test": ["a"]}})
    )
    done = amma("eval", "--predictions", predictions, "--ground-truth", truth, "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert 0 <= answer["frame_mAP@0.5"] <= 100
    assert answer["video_mAP@0.5"] is not None
    assert "the data set has no label sit" in done.stderr


def test_a_slow_file_is_one_stream(model, make_video):
    done = amma("detect", make_video(9), "--model", model, "--json", "-", "--fps", 0.5, "--min-score", 0)
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    first, last = ({detection["tube"] for detection in frames[i]["detections"]} for i in (0, 3))
    assert first & last


def test_a_rerun_recording_holds_frames_boxes_and_scores(tmp_path, model, make_video):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    recording = tmp_path / "run.rrd"
    done = amma("detect", make_video(6), "--model", model, "--rerun", recording, "--min-score", 0)
    assert done.returncode == 0, done.stderr
    content = recording.read_bytes()
    assert content.startswith(b"RRF")
    for part in (b"/camera/detections", b"/score/", b"Boxes2D", b"EncodedImage"):
        assert part in content


def test_an_untrained_model_says_so(make_video):
    assert "untrained" in amma("detect", make_video(1), "--model", "untrained").stderr


def test_mistakes_are_answered_in_one_sentence(tmp_path, model, make_video):
    (tmp_path / "empty.mp4").touch()
    video = make_video(4)
    for words, message in [
        (["detect", tmp_path / "nothing.mp4"], "does not exist"),
        (["detect", tmp_path / "empty.mp4"], "cannot be read as a video"),
        (["detect", video, "--model", "nope"], "there is no model 'nope'"),
        (["detect", video, "--model", model, "--device", "gpu"], "no device 'gpu'"),
        (["detect", video, "--model", model, "--min-score", "7"], "--min-score is 7.0"),
        (["detect", video, "--model", model, "--json", tmp_path / "no" / "where"], "cannot be written"),
        (["detect", video, "--model", model, "--output", tmp_path / "out"], "needs an ending"),
        (["detect", video, "--model", model, "--output", video], "the video itself"),
        (["detect", video, "--model", model, "--fps", "nan"], "are nan, but must be above 0"),
        (["detect", video, "--model", model, "--fps", "-5"], "are -5.0, but must be above 0"),
    ]:
        done = amma(*words)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("amma detect: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        *((["a.mp4", option, "./a.mp4"], f"{option} is ./a.mp4, the video itself") for option in WRITTEN),
        (["images", "--json", "images/1.png"], "--json is images/1.png, among the images of the video"),
        (["a.mp4", "--json", "b.mp4", "--output", "./b.mp4"], "--output and --json are both b.mp4"),
        (["a.mp4", "--predictions", "no/where.npz"], "no/where.npz cannot be written"),
    ],
)
def test_nothing_is_written_over_anything_else(tmp_path, make_video, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(make_video(1), "a.mp4")
    Path("images").mkdir()
    cv2.imwrite("images/1.png", np.zeros((48, 64, 3), np.uint8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert main(["detect", *words]) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_reader_that_has_read_enough_is_no_error(model, make_video):
    command = f"{sys.executable} -m amma_core detect {make_video(9)} --model {model} --json - | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, env=os.environ)
    assert json.loads(done.stdout)["frame"] == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("missing", "command", "says"),
    [
        ("lightning_fabric", "train", "which training needs: pip install 'amma-core[train]'"),
        ("matplotlib", "report", "which the report needs: pip install matplotlib"),
    ],
)
def test_a_package_that_is_missing_is_named(tmp_path, missing, command, says):
    given = {"train": [tmp_path / "recipe.yaml"], "report": ["--predictions", "a", "--ground-truth", "b"]}
    block = (
        f"import sys; sys.modules[{missing!r}] = None; import amma_core.cli; sys.exit(amma_core.cli.main())"
    )
    run = [sys.executable, "-c", block, command, *given[command]]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1] == f"amma {command}: {missing} is missing, {says}"
