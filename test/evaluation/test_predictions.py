import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amma_core.data.dataset import Video
from amma_core.errors import AmmaError
from amma_core.evaluation.predictions import load_predictions, save_predictions
from amma_core.evaluation.tubes import Tubes

LABELS = ["run", "wave"]
VIDEOS = [Video("a", Path("a"), 5, 32, 24, 30.0), Video("b", Path("b"), 3, 16, 12, 30.0)]
GOOD = [0, 1, 0, 0.5, 0, 0, 31, 23]
TUBES = Tubes.of(
    [
        (0, 1, 0.5, [[1, 0, 0, 9, 9], [2, 0, 0, 9, 9.5]]),
        (1, 0, 0.25, [[3, 1, 1, 8, 8, 0.125]]),
    ]
)


def assert_same_tubes(a, b):
    for name in ("videos", "labels", "scores", "offsets", "boxes"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_npz_is_read_as_it_was_written(tmp_path):
    frames = [GOOD, [1, 3, 1, 0.25, 1.5, 2, 3, 4]]
    save_predictions(tmp_path / "p.npz", frames, TUBES, ["a", "b"])
    found = load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
    np.testing.assert_array_equal(found.frames, frames)
    assert_same_tubes(found.tubes, TUBES)


def test_labels_of_another_order_are_found_by_name(tmp_path, capsys):
    save_predictions(tmp_path / "p.npz", [GOOD], TUBES, labels=["wave", "run"])
    found = load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
    assert found.frames[:, 2].tolist() == [1]
    assert_same_tubes(found.tubes, replace(TUBES, labels=1 - TUBES.labels))
    assert capsys.readouterr().err == ""


def test_what_is_predicted_of_unknown_labels_is_left_out(tmp_path, capsys):
    frames = [[0, 1, label, 0.5, 0, 0, 9, 9] for label in (0, 1, 2)]
    save_predictions(tmp_path / "p.npz", frames, TUBES, labels=["jump", "wave", "sit"])
    found = load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
    np.testing.assert_array_equal(found.frames, [frames[1]])
    assert_same_tubes(found.tubes, TUBES.take(np.array([0])))
    assert "p.npz: the data set has no label jump and no sit: what" in capsys.readouterr().err
    save_predictions(tmp_path / "p.npz", frames[:1], labels=["jump", "sit"])
    with pytest.raises(AmmaError, match=r"predicts none of the data set's labels, but jump, sit"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


def test_a_label_that_the_file_does_not_name_is_refused(tmp_path):
    save_predictions(tmp_path / "p.npz", [[0, 1, 1, 0.5, 0, 0, 9, 9]], labels=["wave"])
    with pytest.raises(AmmaError, match="row 0: there is no label 1: the labels are 0 to 0"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


def test_npz_without_tubes(tmp_path):
    save_predictions(tmp_path / "p.npz", [GOOD])
    assert load_predictions(tmp_path / "p.npz", VIDEOS, LABELS).tubes is None


def test_where_nothing_was_found_there_are_no_tubes(tmp_path):
    save_predictions(tmp_path / "p.npz", [])
    found = load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
    assert found.frames.shape == (0, 8)
    assert len(found.tubes) == 0


def test_tubes_without_their_places_are_refused(tmp_path):
    save_predictions(tmp_path / "p.npz", [], Tubes.of([]))
    arrays = dict(np.load(tmp_path / "p.npz"))
    arrays["tube_offsets"] = arrays["tube_offsets"][:0]
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(AmmaError, match="do not fit together"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


def test_json_with_names_or_indices(tmp_path):
    (tmp_path / "p.json").write_text(
        json.dumps(
            {
                "frames": [GOOD],
                "tubes": [
                    {
                        "video": "a",
                        "label": "wave",
                        "score": 0.5,
                        "boxes": [[1, 0, 0, 9, 9], [2, 0, 0, 9, 9.5]],
                    },
                    {"video": 1, "label": 0, "score": 0.25, "boxes": [[3, 1, 1, 8, 8, 0.125]]},
                ],
            }
        )
    )
    found = load_predictions(tmp_path / "p.json", VIDEOS, LABELS)
    np.testing.assert_array_equal(found.frames, [GOOD])
    assert_same_tubes(found.tubes, TUBES)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (3, np.nan, "finite"),
        (6, np.inf, "finite"),
        (0, 2, "no video 2: the split has the videos 0 to 1"),
        (0, -1, "no video -1"),
        (0, 0.5, r"no video 0\.5"),
        (1, 0, "video 0 has the frames 1 to 5, not 0"),
        (1, 6, "frames 1 to 5, not 6"),
        (1, 1.5, r"frames 1 to 5, not 1\.5"),
        (2, 2, "no label 2: the labels are 0 to 1"),
        (4, 31.5, "x2 < x1"),
        (5, 24, "y2 < y1"),
        (4, -1.5, "leaves the image of 32 x 24"),
        (5, -1.5, "leaves the image"),
        (6, 32.5, "leaves the image"),
        (7, 24.5, "leaves the image"),
    ],
)
def test_the_row_at_fault_is_named(tmp_path, column, value, message):
    bad = list(GOOD)
    bad[column] = value
    save_predictions(tmp_path / "p.npz", [GOOD, GOOD, bad, bad])
    with pytest.raises(AmmaError, match=rf"p\.npz: row 2: .*{message}"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


def test_the_last_pixel_may_be_counted_either_way(tmp_path):
    save_predictions(tmp_path / "p.npz", [[0, 1, 0, 0.5, -1, -1, 32, 24]])
    load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


@pytest.mark.parametrize(
    ("tube", "message"),
    [
        (
            (0, 0, 1, [[1, 0, 0, 9, 9], [9, 0, 0, 9, 9]]),
            "tube 1, row 1: video 0 has the frames 1 to 5, not 9",
        ),
        ((0, 0, np.nan, [[1, 0, 0, 9, 9]]), "tube 1, row 0: not all numbers are finite"),
        ((0, 0, 1, [[2, 0, 0, 9, 9], [1, 0, 0, 9, 9]]), "tube 1, row 1: its frame does not come after"),
        ((0, 0, 1, np.zeros((0, 5))), "tube 1 has no boxes"),
    ],
)
def test_the_row_of_a_tube_at_fault_is_named(tmp_path, tube, message):
    good = (0, 0, 1, [[1, 0, 0, 9, 9], [2, 0, 0, 9, 9]])
    save_predictions(tmp_path / "p.npz", [GOOD], Tubes.of([good, tube, good]))
    with pytest.raises(AmmaError, match=message):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)


def test_files_that_are_no_predictions(tmp_path):
    def loading(content, suffix=".npz"):
        path = tmp_path / f"p{suffix}"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.savez(path, **content)
        load_predictions(path, VIDEOS, LABELS)

    with pytest.raises(AmmaError, match="no such file"):
        load_predictions(tmp_path / "none.npz", VIDEOS, LABELS)
    with pytest.raises(AmmaError, match="does not hold predictions"):
        loading(b"no zip")
    with pytest.raises(AmmaError, match="does not hold predictions"):
        loading(b"{", ".json")
    with pytest.raises(AmmaError, match="there is no 'label'"):
        loading(b'{"tubes": [{"video": 0}]}', ".json")
    with pytest.raises(AmmaError, match="tube 0: 'jump' is unknown to the ground truth"):
        loading(b'{"tubes": [{"video": 0, "label": "jump", "score": 1, "boxes": []}]}', ".json")
    with pytest.raises(AmmaError, match="rows of 8 numbers expected"):
        loading({"frames": np.zeros((3, 7))})
    with pytest.raises(AmmaError, match="holds neither frames nor tubes"):
        loading({"boxes": np.zeros((3, 8))})
    for key, value in (("video", None), ("video", True), ("label", 0.5), ("label", 10**30), ("score", [1])):
        tube = {"video": 0, "label": 0, "score": 1, "boxes": [[1, 0, 0, 9, 9]]} | {key: value}
        with pytest.raises(AmmaError, match="does not hold predictions as documented"):
            loading(json.dumps({"tubes": [tube]}).encode(), ".json")
    with pytest.raises(AmmaError, match="names expected, not 3"):
        loading(b'{"frames": [], "videos": 3}', ".json")
    with pytest.raises(AmmaError, match="do not fit together"):
        loading(
            {
                "tube_videos": np.zeros(2),
                "tube_labels": np.zeros(2),
                "tube_scores": np.zeros(1),
                "tube_offsets": np.array([0, 1, 2]),
                "tube_boxes": np.ones((2, 5)),
            }
        )


def test_a_damaged_file_says_so(tmp_path):
    path = tmp_path / "p.npz"
    np.savez_compressed(path, frames=np.random.default_rng(0).integers(0, 9, (200, 8)))
    flipped = bytearray(path.read_bytes())
    flipped[100] ^= 255  # within the compressed numbers
    for content in (flipped, b""):
        path.write_bytes(content)
        with pytest.raises(AmmaError, match=r"p\.npz does not hold predictions"):
            load_predictions(path, VIDEOS, LABELS)


def test_predictions_for_another_split_are_refused(tmp_path):
    save_predictions(tmp_path / "p.npz", [GOOD], videos=["a", "c"])
    with pytest.raises(AmmaError, match="for other videos than this split: 'c' is not among them"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
    save_predictions(tmp_path / "p.npz", [GOOD], videos=["b", "a"])
    with pytest.raises(AmmaError, match="another order"):
        load_predictions(tmp_path / "p.npz", VIDEOS, LABELS)
