import json

import numpy as np
import pytest

from amma_core.cli import main
from amma_core.evaluation.predictions import save_predictions
from amma_core.evaluation.tubes import Tubes

BOXES = [[frame, 0, 0, 9, 9] for frame in range(1, 5)]


@pytest.fixture
def truth(tmp_path):
    video = {"frames": 6, "width": 32, "height": 24, "fps": 30.0}
    content = {
        "labels": ["run", "wave", "jump"],
        "videos": {
            "a": {**video, "tubes": [{"label": "run", "boxes": BOXES}]},
            "b": {**video, "tubes": [{"label": "wave", "boxes": BOXES}]},
        },
        "splits": {"test1": ["b", "a"]},
    }
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def predictions(tmp_path, tubes=True):
    """All right for class wave (video 0). For class run (video 1): two frames of four, a tube of half the
    length and, with the best score, a false alarm after the end."""
    found = Tubes.of([(0, 1, 0.9, BOXES), (1, 0, 0.8, BOXES[:2])])
    frames = np.vstack([found.frames(), [1, 6, 0, 0.95, 0, 0, 9, 9]])
    save_predictions(tmp_path / "p.npz", frames, found if tubes else None)
    return tmp_path / "p.npz"


def evaluated(capsys, *arguments):
    assert main(["eval", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_json(tmp_path, truth, capsys):
    result = evaluated(capsys, "--predictions", predictions(tmp_path), "--ground-truth", truth)
    # Run: wrong, right, right of 4: (0 + 1/2) / 2 / 4 + (1/2 + 2/3) / 2 / 4.
    run = 100 * (1 / 2 + 1 / 2 + 2 / 3) / 8
    lost = 100 * (1 + 1 / 2 + 1 / 2 + 1 / 3) / 8
    assert result["frame_mAP@0.5"] == pytest.approx((run + 100) / 2)
    assert result["frame_mAP@0.75"] == pytest.approx((run + 100) / 2)
    assert result["errors@0.5"] == pytest.approx({"L": 0, "C": 0, "T": lost / 2, "O": 0, "M": 25})
    assert result["video_mAP@0.2"] == 100
    assert result["video_mAP@0.5"] == 100  # IoU 2/4
    assert result["video_mAP@0.75"] == 50
    assert result["video_mAP@0.5:0.95"] == pytest.approx((100 / 10 + 100) / 2)
    assert result["per_class"]["run"]["frame_AP@0.5"] == pytest.approx(run)
    assert result["per_class"]["run"]["boxes"] == 4
    assert result["per_class"]["jump"]["frame_AP@0.5"] is None
    assert result["per_class"]["jump"]["video_AP@0.5:0.95"] is None


def test_trimmed_forgives_frames_after_the_end(tmp_path, truth, capsys):
    result = evaluated(
        capsys, "--predictions", predictions(tmp_path), "--ground-truth", truth, "--mode", "trimmed"
    )
    assert result["frame_mAP@0.5"] == 75
    assert result["errors@0.5"]["T"] == 0


def test_tubes_from_elsewhere_or_from_nowhere(tmp_path, truth, capsys):
    arguments = (
        "--predictions",
        predictions(tmp_path, tubes=False),
        "--ground-truth",
        truth,
        "--split",
        "test1",
    )
    result = evaluated(capsys, *arguments)
    assert result["video_mAP@0.2"] is None
    assert result["frame_mAP@0.5"] > 50
    tubes = {"tubes": [{"video": "b", "label": "wave", "score": 0.5, "boxes": BOXES}]}
    (tmp_path / "tubes.json").write_text(json.dumps(tubes))
    assert evaluated(capsys, *arguments, "--tubes", tmp_path / "tubes.json")["video_mAP@0.75"] == 50


def test_empty_predictions_give_zero(tmp_path, truth, capsys):
    save_predictions(tmp_path / "p.npz", [])
    result = evaluated(capsys, "--predictions", tmp_path / "p.npz", "--ground-truth", truth)
    numbers = {key: value for key, value in result.items() if "mAP" in key}
    assert set(numbers.values()) == {0}
    assert result["errors@0.5"] == {"L": 0, "C": 0, "T": 0, "O": 0, "M": 100}


def test_table(tmp_path, truth, capsys):
    assert main(["eval", "--predictions", str(predictions(tmp_path)), "--ground-truth", str(truth)]) == 0
    head, _, columns, run, wave, jump, mean = capsys.readouterr().out.splitlines()
    assert head.endswith("2 videos of split test, untrimmed")
    assert columns.split()[:3] == ["frame@0.5", "frame@0.75", "video@0.2"]
    assert run.split()[:2] == ["run", "20.83"]
    assert wave.split()[:2] == ["wave", "100.00"]
    assert jump.split()[:2] == ["jump", "-"]
    assert mean.split()[:2] == ["mean", "60.42"]
    assert len({len(line) for line in (columns, run, wave, jump, mean)}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "train"], "no split 'train': choose one of test1, all"),
        (["--tubes", "none.npz"], "none.npz: no such file"),
        (["--ground-truth", "none.json"], "none.json: no such data set"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path, truth, capsys, arguments, message):
    given = ["--predictions", str(predictions(tmp_path)), "--ground-truth", str(truth)]
    assert main(["eval", *given, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
