import json
import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from amma_core.cli import main
from amma_core.data.dataset import load_dataset
from amma_core.data.importers import from_cvat, from_puppet_masks
from amma_core.errors import AmmaError


def write_video(path, frames: int = 20, width: int = 64, height: int = 48) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    for number in range(frames):
        writer.write(np.full((height, width, 3), 10 * number, np.uint8))
    writer.release()


def box(frame: int, x1: float, outside: int = 0, action: str | None = None) -> str:
    corners = f'xtl="{x1}" ytl="10.0" xbr="{x1 + 20}" ybr="40.0"'
    inner = f'<attribute name="action">{action}</attribute>' if action is not None else ""
    return f'<box frame="{frame}" keyframe="1" outside="{outside}" {corners} z_order="0">{inner}</box>'


def cvat(tracks: str, source: str = "a.avi") -> str:
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
<meta><job><id>1</id><size>20</size><mode>interpolation</mode><start_frame>0</start_frame>
<labels><label><name>walk</name></label></labels>
<original_size><width>64</width><height>48</height></original_size><source>{source}</source></job></meta>
{tracks}</annotations>"""


def test_cvat_track_with_a_gap(tmp_path):
    """Key frames 0 and 4, out of sight from 6 to 9, again from 10 on."""
    write_video(tmp_path / "a.avi")
    boxes = box(0, 2.0) + box(4, 6.0) + box(6, 6.0, outside=1) + box(10, 30.0) + box(11, 31.0)
    (tmp_path / "a.xml").write_text(cvat(f'<track id="0" label="walk">{boxes}</track>'))
    dataset = from_cvat([tmp_path / "a.xml"], tmp_path, test=0.0)
    video = dataset.videos["a.avi"]
    assert dataset.labels == ["walk"]
    assert (video.frames, video.width, video.height, video.fps) == (20, 64, 48, 25)
    first, second = (tube.boxes for tube in video.tubes)
    # Frames count from 1, the far corners lie inside the last pixel, and the last box is held until it ends.
    assert first[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert first[:, 1].tolist() == [2, 3, 4, 5, 6, 6]
    assert first[0].tolist() == [1, 2, 10, 21, 39]
    assert second[:, :2].tolist() == [[11, 30], [12, 31]]
    assert dataset.splits == {"train1": ["a.avi"], "test1": []}


def test_cvat_attribute_names_the_action(tmp_path):
    write_video(tmp_path / "a.avi")
    parts = [(0, "sit"), (5, "sit"), (6, "stand"), (8, "stand"), (9, ""), (12, "sit"), (13, "sit")]
    boxes = "".join(box(frame, 4.0, action=action) for frame, action in parts)
    (tmp_path / "a.xml").write_text(cvat(f'<track id="0" label="person">{boxes}</track>'))
    dataset = from_cvat([tmp_path / "a.xml"], tmp_path, attribute="action")
    spans = [
        (dataset.labels[tube.label], *tube.boxes[[0, -1], 0].tolist())
        for tube in dataset.videos["a.avi"].tubes
    ]
    assert spans == [("sit", 1, 6), ("stand", 7, 9), ("sit", 13, 14)]


def test_cvat_boxes_beyond_the_image_and_the_video_are_cut(tmp_path):
    write_video(tmp_path / "a.avi", frames=5)
    boxes = box(3, 50.0) + box(9, 50.0)
    (tmp_path / "a.xml").write_text(cvat(f'<track id="0" label="walk">{boxes}</track>'))
    (tube,) = from_cvat([tmp_path / "a.xml"], tmp_path).videos["a.avi"].tubes
    assert tube.boxes.tolist() == [[4, 50, 10, 63, 39], [5, 50, 10, 63, 39]]


def test_cvat_command_writes_what_training_reads(tmp_path, capsys):
    for name in "abcde":
        write_video(tmp_path / "videos" / f"{name}.avi")
        track = (
            f'<track id="0" label="{"walk" if name < "c" else "wave"}">{box(0, 1.0)}{box(19, 1.0)}</track>'
        )
        (tmp_path / f"{name}.xml").write_text(cvat(track, f"{name}.avi"))
    files = [str(tmp_path / f"{name}.xml") for name in "abcde"]
    output = tmp_path / "annotations.json"
    command = [
        "import-dataset",
        "cvat",
        *files,
        "--videos",
        str(tmp_path / "videos"),
        "--output",
        str(output),
    ]
    assert main([*command, "--test", "0.4"]) == 0
    assert "5 videos, 5 tubes, 2 classes; train1 3, test1 2" in capsys.readouterr().out
    dataset = load_dataset(output)
    assert {video.name for video in dataset.split("all")} == {f"{name}.avi" for name in "abcde"}
    assert all(video.file.exists() for video in dataset.split("all"))
    assert json.loads(output.read_text())["videos"]["a.avi"]["file"] == "videos/a.avi"


def test_cvat_mistakes_are_named(tmp_path):
    write_video(tmp_path / "a.avi")
    file = tmp_path / "a.xml"
    for content, message in (
        ("<annotations>", r"a\.xml can't be read as XML"),
        ("<other/>", "not a dump of one video"),
        (cvat("<meta><source>b.avi</source></meta>"), "dump of 2 videos, as of a CVAT project: export each"),
        (cvat("", source="b.avi"), r"annotates b\.avi, but there is no such video"),
        (cvat('<track label="walk"><box frame="x"/></track>'), "box of track 'walk' lacks a number"),
        ('<?xml version="1.0" encoding="x"?><annotations/>', r"a\.xml can't be read as XML"),
        (cvat(f'<track label="walk">{box(-1, 1.0)}</track>'), "'walk' can't have a box .* in frame -1"),
        (cvat(f'<track label="walk">{box(10**12, 1.0)}</track>'), "can't have a box"),
        (cvat(f'<track label="walk">{box(1, math.nan)}</track>'), "can't have a box of nan, "),
        (cvat(""), r"a\.xml: there is no track within the videos; annotate each action"),
        (cvat(f'<track label="walk">{box(90, 1.0)}</track>'), "no track within the videos"),
        (
            cvat(f'<track label="walk">{box(2, 64.0)}</track>'),
            r"a\.avi: the box of frame 3 lies beside .*64x48",
        ),
        (cvat(f'<track label="walk">{box(2, -20.0)}</track>'), "lies beside the picture"),
    ):
        file.write_text(content)
        with pytest.raises(AmmaError, match=message):
            from_cvat([file], tmp_path)
    with pytest.raises(AmmaError, match="no annotations were given"):
        from_cvat([], tmp_path)
    file.write_text(cvat(f'<track label="walk">{box(0, 1.0)}</track>'))
    with pytest.raises(AmmaError, match="no track with the attribute 'action'"):
        from_cvat([file], tmp_path, attribute="action")
    again = tmp_path / "b.xml"
    again.write_text(cvat("", source="./a.avi"))
    with pytest.raises(AmmaError, match=r"a\.xml and .*b\.xml annotate the same video, a\.avi"):
        from_cvat([file, again], tmp_path)


def test_cvat_videos_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for folder in ("left", "right"):
        write_video(tmp_path / folder / "a.avi")
        track = f'<track label="{folder}">{box(0, 1.0)}</track>'
        (tmp_path / f"{folder}.xml").write_text(cvat(track, source=f"{folder}/a.avi"))
    dataset = from_cvat([tmp_path / "left.xml", tmp_path / "right.xml"], tmp_path)
    assert {name: video.file for name, video in dataset.videos.items()} == {
        f"{folder}/a.avi": tmp_path / folder / "a.avi" for folder in ("left", "right")
    }


@pytest.mark.parametrize("share", ["20", "-0.1", "nan"])
def test_the_share_of_the_test_is_checked(tmp_path, capsys, share):
    output = str(tmp_path / "annotations.json")
    assert main(["import-dataset", "cvat", "a.xml", "--output", output, f"--test={share}"]) == 2
    assert f"test on is {share}, but must be between 0 and 1" in capsys.readouterr().err


def write_puppet_mask(folder: Path, label: str, clip: str, masks: np.ndarray, frames: int = 4) -> None:
    scipy_io = pytest.importorskip("scipy.io")
    write_video(folder / "ReCompress_Videos" / label / f"{clip}.avi", frames)
    place = folder / "puppet_mask" / label / clip
    place.mkdir(parents=True)
    scipy_io.savemat(place / "puppet_mask.mat", {"part_mask": masks})


def test_puppet_masks(tmp_path):
    clips = [("catch", "one", 1), ("catch", "two", 2), ("wave", "three", 1), ("wave", "four", 0)]
    (tmp_path / "splits").mkdir()
    for label, clip, part in clips:
        masks = np.zeros((48, 64, 3), np.uint8)
        masks[10:20, 30:41, 0] = 1
        masks[11, 31, 2] = 1
        write_puppet_mask(tmp_path, label, clip, masks)
        with open(tmp_path / "splits" / f"{label}_test_split1.txt", "a") as file:
            file.write(f"{clip}.avi {part} \n")
    # What unpackers and editors leave is no split.
    (tmp_path / "splits" / "._catch_test_split1.txt").write_bytes(b"\0\x05\x16\x07\xff")
    (tmp_path / "splits" / "catch_test_split1_old.txt").write_text("one.avi 2\n")
    dataset = from_puppet_masks(tmp_path)
    assert dataset.labels == ["catch", "wave"]
    assert dataset.splits == {"train1": ["catch/one", "wave/three"], "test1": ["catch/two"]}
    video = dataset.videos["wave/three"]
    assert video.frames == 4
    # The mask of frame 2 is empty; corners are inside.
    assert video.tubes[0].boxes.tolist() == [[1, 30, 10, 40, 19], [3, 31, 11, 31, 11]]
    assert video.tubes[0].label == 1


def test_a_puppet_mask_of_one_frame_has_no_third_axis(tmp_path):
    masks = np.zeros((48, 64), np.uint8)
    masks[10:20, 30:41] = 1
    write_puppet_mask(tmp_path, "catch", "one", masks, frames=1)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "catch_test_split1.txt").write_text("one.avi 1\n")
    (tube,) = from_puppet_masks(tmp_path).videos["catch/one"].tubes
    assert tube.boxes.tolist() == [[1, 30, 10, 40, 19]]


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    write_video(tmp_path / "a.avi")
    (tmp_path / "a.xml").write_text(cvat(f'<track label="walk">{box(0, 1.0)}</track>'))
    source = ["import-dataset", "cvat", str(tmp_path / "a.xml"), "--videos", str(tmp_path)]
    assert main([*source, "--output", str(tmp_path / "none" / "annotations.json")]) == 2
    assert "annotations.json cannot be written" in capsys.readouterr().err


def test_pickle_command(tmp_path, capsys):
    boxes = np.array([[1, 2, 3, 10, 20], [2, 3, 3, 11, 20]], np.float32)
    content = {
        "labels": ["catch"],
        "train_videos": [["catch/a"]],
        "test_videos": [[]],
        "nframes": {"catch/a": 2},
        "resolution": {"catch/a": (48, 64)},
        "gttubes": {"catch/a": {0: [boxes]}},
    }
    (tmp_path / "JHMDB-GT.pkl").write_bytes(pickle.dumps(content, protocol=2))
    output = tmp_path / "annotations.json"
    assert main(["import-dataset", "pickle", str(tmp_path / "JHMDB-GT.pkl"), "--output", str(output)]) == 0
    video = load_dataset(output).videos["catch/a"]
    assert video.tubes[0].boxes.tolist() == boxes.tolist()
    assert video.file == tmp_path / "Frames/catch/a"
