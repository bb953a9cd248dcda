import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from amma_core import bundle
from amma_core.cli import main
from amma_core.config import NetworkConfig
from amma_core.data.dataset import load_dataset
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.evaluation.smaller import at_full_size, shown_smaller
from amma_core.evaluation.streaming import Evaluator, Settings, evaluate_videos, result_file
from amma_core.linker import TubeLinker
from amma_core.network import Amma
from amma_core.pipeline import ActionPipeline
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_core.video import VideoReader

LABELS = ["run", "wave"]
JHMDB = Path(__file__).parents[3] / "shared" / "data" / "jhmdb21"
CONFIG = NetworkConfig(backbone="shufflenet_v2", clips=2, clip_length=4, num_classes=2, input_size=64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny"
    bundle.save(path, Amma(CONFIG), LABELS[::-1], 10.0)  # in another order than the data set's
    return path


@pytest.fixture
def dataset(tmp_path):
    """Three videos as folders of images: 9, 8 and 5 frames of noise."""
    random = np.random.default_rng(0)
    videos = {}
    for name, frames in (("a", 9), ("b", 8), ("c", 5)):
        (tmp_path / name).mkdir()
        for frame in range(1, frames + 1):
            image = random.integers(0, 256, (48, 64, 3), np.uint8)
            cv2.imwrite(str(tmp_path / name / f"{frame:05d}.png"), image)
        tube = {"label": "run", "boxes": [[frame, 8, 8, 40, 40] for frame in range(1, frames + 1)]}
        videos[name] = {"frames": frames, "width": 64, "height": 48, "fps": 10.0, "tubes": [tube]}
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps({"labels": LABELS, "videos": videos, "splits": {"test1": ["c", "a", "b"]}}))
    return path


def settings(model, **changes):
    return Settings(str(model), tuple(LABELS), device="cpu", **changes)


def test_every_frame_of_a_video_gets_boxes_of_the_data_sets_classes(model, dataset):
    video = load_dataset(dataset).videos["a"]
    result = Evaluator(settings(model))(7, video)
    assert set(result.frames[:, 0]) == {7}
    assert sorted(set(result.frames[:, 1])) == list(range(1, 10))
    assert result.count == 9
    assert len(result.latencies) == 3  # clips end at frames 4, 8 and, flushed, 9
    assert (result.seconds > 0).all()
    assert set(result.tubes.videos) <= {7}
    # The model's class 0 is the data set's 1: where the order is the same, labels are swapped.
    swapped = Evaluator(Settings(str(model), tuple(LABELS[::-1]), "cpu"))(7, video)
    np.testing.assert_array_equal(result.frames[:, 2], 1 - swapped.frames[:, 2])
    np.testing.assert_array_equal(result.frames[:, 3:], swapped.frames[:, 3:])


@pytest.mark.parametrize(("mirrored", "smaller"), [(False, 1), (True, 1), (False, 2)])
def test_what_is_published_of_each_frame_is_what_a_pipeline_gives_a_robot(model, dataset, mirrored, smaller):
    video = load_dataset(dataset).videos["a"]
    same_labels = Settings(str(model), tuple(LABELS[::-1]), "cpu", mirrored=mirrored, smaller=smaller)
    published = Evaluator(same_labels)(7, video).published
    runtime = TorchRuntime(bundle.load(model).build(), "cpu", mirrored=mirrored)
    pipeline = ActionPipeline(ActionDetector(runtime, target_fps=10.0), TubeLinker())
    images = [shown_smaller(image, smaller) for image, _ in VideoReader(video.file)]
    steps = [pipeline.update(image, number * 100_000_000) for number, image in enumerate(images)]
    frames = [frame for step in [*steps, pipeline.flush()] for frame in step.frames]
    assert [frame.number for frame in frames] == list(range(1, 10))
    assert set(published[:, 0]) == {7}
    np.testing.assert_array_equal(
        published[:, 1], np.repeat(np.arange(1, 10), [len(frame) for frame in frames])
    )
    for column, name in ((2, "labels"), (3, "scores"), (slice(4, 8), "boxes")):
        expected = np.concatenate([getattr(frame, name) for frame in frames])
        if name == "boxes":
            expected = at_full_size(expected, smaller, 64, 48)
        np.testing.assert_array_equal(published[:, column], expected)


def test_full_policy_leaves_the_first_frames_to_the_first_full_window(model, dataset):
    result = Evaluator(settings(model, policy="full"))(0, load_dataset(dataset).videos["a"])
    assert sorted(set(result.frames[:, 1])) == list(range(4, 10))


def test_dense_adds_the_key_frames_between(model, dataset):
    video = load_dataset(dataset).videos["b"]
    plain, dense = (Evaluator(settings(model, dense=on))(0, video) for on in (False, True))
    np.testing.assert_array_equal(plain.tubes.boxes, dense.tubes.boxes)
    # Streaming answers at the frames 4 and 8, with tubelets from 1 to 4 and from 4 to 8. Dense, those ending
    # at 1, 2, 3, 5, 6 and 7 come in: twice the frame 1, 1 to 2, ..., 3 to 7.
    boxes = [np.bincount(result.frames[:, 1].astype(int), minlength=9)[1:] for result in (plain, dense)]
    assert (boxes[0] > 0).all()
    assert (boxes[1] > boxes[0]).tolist() == [True] * 7 + [False]


@pytest.mark.parametrize(("fps", "answers"), [(10.0, 3), (20.0, 2), (0.5, 3)])
def test_a_video_is_seen_at_the_models_rate_and_not_cut(model, dataset, fps, answers):
    """Of nine frames: answers at 4, 8 and 9, or where clips hold every second one, at 7 and 9."""
    video = replace(load_dataset(dataset).videos["a"], fps=fps)
    result = Evaluator(settings(model))(0, video)
    assert len(result.latencies) == answers
    assert result.count == 9
    assert sorted(set(result.frames[:, 1])) == list(range(1, 10))


def test_dense_takes_every_frame_that_clips_hold(model, dataset):
    video = load_dataset(dataset).videos["b"]
    slow, right = (Evaluator(settings(model, dense=True))(0, replace(video, fps=fps)) for fps in (5.0, 10.0))
    np.testing.assert_array_equal(slow.frames, right.frames)


def test_frames_of_another_size_than_annotated_are_refused(model, dataset):
    video = replace(load_dataset(dataset).videos["a"], width=32)
    with pytest.raises(AmmaError, match=r"frames of 64x48 pixels, but the video 'a' is annotated as 32x48"):
        Evaluator(settings(model))(0, video)


def test_a_run_that_was_cut_off_goes_on(model, dataset, tmp_path):
    videos = load_dataset(dataset).split("test1")
    folder = tmp_path / "results"
    evaluate_videos(settings(model), videos, folder)
    contents = [result_file(folder, i).read_bytes() for i in range(3)]
    result_file(folder, 1).unlink()
    result_file(folder, 2).write_bytes(b"kept as it is")
    evaluate_videos(settings(model), videos, folder)
    with np.load(result_file(folder, 1)) as again:
        assert again["count"] == 9
    assert result_file(folder, 0).read_bytes() == contents[0]
    assert result_file(folder, 2).read_bytes() == b"kept as it is"
    with pytest.raises(AmmaError, match="holds results of another model, other videos"):
        evaluate_videos(settings(model, policy="full"), videos, folder)


def test_results_of_videos_that_have_changed_are_not_kept(model, dataset, tmp_path):
    videos = load_dataset(dataset).split("test1")
    evaluate_videos(settings(model), videos, tmp_path / "results")
    faster = [replace(videos[0], fps=120.0), *videos[1:]]
    with pytest.raises(AmmaError, match="holds results of another model, other videos"):
        evaluate_videos(settings(model), faster, tmp_path / "results")
    one_of_its_images = min(videos[0].file.iterdir())
    one_of_its_images.write_bytes(one_of_its_images.read_bytes() + b"more")
    with pytest.raises(AmmaError, match="holds results of another model, other videos"):
        evaluate_videos(settings(model), videos, tmp_path / "results")


def test_shares_and_processes_give_what_one_gives(model, dataset, tmp_path):
    videos = load_dataset(dataset).split("test1")
    evaluate_videos(settings(model), videos, tmp_path / "one")
    evaluate_videos(settings(model), videos, tmp_path / "shared", share=(1, 2))
    assert not result_file(tmp_path / "shared", 0).exists()
    assert not result_file(tmp_path / "shared", 2).exists()
    evaluate_videos(settings(model), videos, tmp_path / "shared", workers=2, share=(0, 2))
    for i in range(3):
        one, other = (np.load(result_file(tmp_path / name, i)) for name in ("one", "shared"))
        np.testing.assert_allclose(one["frames"], other["frames"], atol=1e-3)
        np.testing.assert_allclose(one["tube_boxes"], other["tube_boxes"], atol=1e-3)


def test_a_model_with_other_labels_is_refused(model):
    with pytest.raises(AmmaError, match="finds 'wave', which is not among the data set's labels"):
        Evaluator(Settings(str(model), ("run", "jump")))


def test_command(model, dataset, tmp_path, capsys):
    arguments = [str(model), str(dataset), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["evaluate-model", *arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["frames"] == 22
    assert result["fps"] > 0
    assert 0 <= result["frame_mAP@0.5"] <= 100
    # What it wrote is judged as it judged it.
    predictions = str(tmp_path / "out" / "predictions.npz")
    assert main(["eval", "--predictions", predictions, "--ground-truth", str(dataset), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again == {key: result[key] for key in again}
    published = str(tmp_path / "out" / "published.npz")
    assert main(["eval", "--predictions", published, "--ground-truth", str(dataset), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["published"] == {key: again[key] for key in result["published"]}
    (timing,) = json.loads((tmp_path / "out" / "timings.json").read_text())
    assert set(timing["ms"]) == {"encode", "head", "link", "rest"}
    assert main(["evaluate-model", *arguments]) == 0
    printed = capsys.readouterr()
    assert "22 frames" in printed.out
    assert f"show them too: frame_mAP@0.5 {again['frame_mAP@0.5']:.2f}" in printed.out
    assert "fewer frames" not in printed.err
    assert main(["evaluate-model", *arguments, "--output", predictions]) == 2
    assert "predictions.npz/videos cannot be made: Not a directory" in capsys.readouterr().err
    assert main(["evaluate-model", *arguments, "--workers", "0"]) == 2
    (tmp_path / "out" / "metrics.json").unlink()
    (tmp_path / "out" / "metrics.json").mkdir()
    assert main(["evaluate-model", *arguments]) == 2
    assert "metrics.json cannot be written: " in capsys.readouterr().err


def test_smaller_pictures_are_judged_where_they_were(model, dataset, tmp_path, capsys):
    arguments = [
        "evaluate-model",
        str(model),
        str(dataset),
        "--output",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    for ratio in ("0.5", "nan", "1000"):
        assert main([*arguments, "--smaller", ratio]) == 2
        assert f"--smaller is {ratio}, but must be from 1 to 10" in capsys.readouterr().err
    assert main([*arguments, "--smaller", "2"]) == 0  # which refuses boxes that leave the picture
    boxes = np.load(tmp_path / "out" / "predictions.npz")["frames"][:, 4:]
    assert boxes.min() == 0
    assert boxes[:, 2:].max() == 63
    assert main(arguments) == 2
    assert "another setting" in capsys.readouterr().err


def test_results_of_a_version_with_fewer_settings_are_taken(model, dataset, tmp_path, capsys):
    arguments = ["evaluate-model", str(model), str(dataset), "--output", str(tmp_path), "--device", "cpu"]
    assert main(arguments) == 0
    note = tmp_path / "videos" / "settings.json"
    settings = json.loads(note.read_text())
    del settings["smaller"]
    note.write_text(json.dumps(settings))
    assert main([*arguments, "--smaller", "2"]) == 2
    assert "another setting" in capsys.readouterr().err
    assert main(arguments) == 0


def test_videos_that_are_shorter_than_annotated_are_told_of(model, dataset, tmp_path, capsys):
    content = json.loads(dataset.read_text())
    content["videos"]["a"]["frames"] = 12
    dataset.write_text(json.dumps(content))
    arguments = [str(model), str(dataset), "--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["evaluate-model", *arguments]) == 0
    assert "1 of 3 videos have fewer frames than annotated, 'a' 9 of 12" in capsys.readouterr().err


def test_the_installed_program_starts_workers(model, dataset, tmp_path):
    """Worker processes import the program's file anew, and must not run it."""
    root = Path(__file__).parents[2]
    arguments = [str(model), str(dataset), "--output", str(tmp_path), "--device", "cpu", "--workers", "2"]
    command = [sys.executable, str(root / "scripts" / "amma"), "evaluate-model", *arguments]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert "22 frames" in done.stdout


def test_what_stops_a_worker_is_said(model, dataset, tmp_path):
    other = replace(settings(model), labels=("run",))
    with pytest.raises(AmmaError, match="finds 'wave', which is not among the data set's labels"):
        evaluate_videos(other, load_dataset(dataset).split("test1"), tmp_path / "out", workers=2)


@pytest.mark.slow
def test_the_shipped_model_reaches_the_figures_of_its_record(tmp_path):
    """JHMDB-21's first test split as deployed, some minutes; other CPUs round in other places."""
    if not JHMDB.exists():
        pytest.skip(f"JHMDB-21 is not at {JHMDB}")
    command = ["evaluate-model", "amma_m_jhmdb21", str(JHMDB), "--split", "test1", "--output", str(tmp_path)]
    assert main([*command, "--workers", str(os.cpu_count())]) == 0
    found = json.loads((tmp_path / "metrics.json").read_text())
    record = bundle.load("amma_m_jhmdb21").metrics
    for name in ("frame_mAP@0.5", "video_mAP@0.5", "video_mAP@0.5:0.95"):
        assert found[name] == pytest.approx(record[name], abs=0.5), name
