import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from amma_core.data.dataset import ActionTube, Dataset, Video, load_dataset, save_dataset
from amma_core.errors import AmmaError


def native(**changes):
    video = {
        "frames": 4,
        "width": 32,
        "height": 24,
        "fps": 30.0,
        "tubes": [{"label": "wave", "boxes": [[2, 1, 2, 11, 12], [3, 1.5, 2, 11, 12]]}],
    }
    return {
        "labels": ["run", "wave"],
        "videos": {"a.avi": {**video, **changes}, "b": {**video, "file": "videos/b.mp4", "tubes": []}},
        "splits": {"train1": ["b"], "test1": ["b", "a.avi"]},
    }


def written(folder: Path, content) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


def test_the_format_in_the_documentation_is_the_native_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (tmp_path / "annotations.json").write_text(re.search(r"```json\n(.*?)```", page, re.DOTALL)[1])
    (tube,) = load_dataset(tmp_path).split("train")[0].tubes
    assert tube.boxes.tolist() == [[1, 210, 80, 330, 400], [2, 211, 80, 331, 400]]


def test_reads_the_native_format(tmp_path):
    written(tmp_path, native())
    dataset = load_dataset(tmp_path)
    assert dataset.labels == ["run", "wave"]
    video = dataset.videos["a.avi"]
    assert (video.frames, video.width, video.height, video.fps) == (4, 32, 24, 30.0)
    assert video.file == tmp_path / "a.avi"
    assert dataset.videos["b"].file == tmp_path / "videos/b.mp4"
    assert video.tubes[0].label == 1
    np.testing.assert_array_equal(video.tubes[0].boxes, [[2, 1, 2, 11, 12], [3, 1.5, 2, 11, 12]])


def test_splits_keep_their_order_and_have_short_names(tmp_path):
    dataset = load_dataset(written(tmp_path, native()))
    assert [video.name for video in dataset.split("test1")] == ["b", "a.avi"]
    assert dataset.split("test") == dataset.split("test1")
    assert [video.name for video in dataset.split("all")] == ["a.avi", "b"]
    with pytest.raises(AmmaError, match=r"no split 'test2'.*train1, test1, all"):
        dataset.split("test2")


def test_what_is_saved_is_read_again(tmp_path):
    dataset = load_dataset(written(tmp_path, native()))
    save_dataset(dataset, tmp_path / "again.json")
    again = load_dataset(tmp_path / "again.json")
    assert (again.labels, again.splits) == (dataset.labels, dataset.splits)
    assert again.videos["b"].file == tmp_path / "videos/b.mp4"
    np.testing.assert_array_equal(
        again.videos["a.avi"].tubes[0].boxes, dataset.videos["a.avi"].tubes[0].boxes
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tubes": [{"label": "jump", "boxes": [[1, 0, 0, 1, 1]]}]}, "label 'jump' is not among the labels"),
        ({"tubes": [{"label": "run", "boxes": [[1, 0, 0, 1]]}]}, "frame, x1, y1, x2, y2"),
        ({"tubes": [{"label": "run", "boxes": []}]}, "frame, x1, y1, x2, y2"),
        ({"tubes": [{"label": "run", "boxes": [[1, 0, 0, float("nan"), 1]]}]}, "not finite"),
        ({"tubes": [{"label": "run", "boxes": [[2, 0, 0, 1, 1], [1, 0, 0, 1, 1]]}]}, "increase"),
        ({"tubes": [{"label": "run", "boxes": [[1.5, 0, 0, 1, 1]]}]}, "whole numbers"),
        ({"tubes": [{"label": "run", "boxes": [[0, 0, 0, 1, 1]]}]}, "frame 0 to 0 of 4"),
        ({"tubes": [{"label": "run", "boxes": [[5, 0, 0, 1, 1]]}]}, "frame 5 to 5 of 4"),
        ({"tubes": [{"label": "run", "boxes": [[1, 5, 0, 4, 1]]}]}, "box of frame 1 has x2 < x1"),
        ({"tubes": [{"label": "run", "boxes": [[1, 90, 0, 99, 1]]}]}, "frame 1 lies beside the picture"),
        ({"tubes": [{"label": "run"}]}, "no key 'boxes'"),
        ({"tubes": [{"label": "run", "boxes": [[1, 0, 0, 10**400, 1]]}]}, "too large"),
        ({"frames": 0}, "must be positive"),
        ({"frames": float("inf")}, "infinity"),
        ({"fps": float("inf")}, "must be positive and finite"),
        ({"fps": "fast"}, "could not convert"),
    ],
)
def test_faults_are_named_with_their_video(tmp_path, changes, message):
    with pytest.raises(AmmaError, match=f"video 'a.avi': .*{message}"):
        load_dataset(written(tmp_path, native(**changes)))


def test_faults_of_the_whole_file_are_named(tmp_path):
    with pytest.raises(AmmaError, match="no such data set"):
        load_dataset(tmp_path / "nothing.json")
    with pytest.raises(AmmaError, match="needs labels, videos and splits"):
        load_dataset(written(tmp_path, {"labels": []}))
    with pytest.raises(AmmaError, match=r"videos and splits must be {name: ...}"):
        load_dataset(written(tmp_path, {**native(), "videos": []}))
    with pytest.raises(AmmaError, match=r"videos and splits must be {name: ...}"):
        load_dataset(written(tmp_path, {**native(), "splits": ["test1"]}))
    with pytest.raises(AmmaError, match="split 'test1' must be a list of names"):
        load_dataset(written(tmp_path, {**native(), "splits": {"test1": "b"}}))
    with pytest.raises(AmmaError, match="labels must be a list of names"):
        load_dataset(written(tmp_path, {**native(), "labels": [["run"]]}))
    with pytest.raises(AmmaError, match="label 'run' stands twice"):
        load_dataset(written(tmp_path, {**native(), "labels": ["run", "wave", "run"]}))
    with pytest.raises(AmmaError, match="'test1' names 'c', which is not among the videos"):
        load_dataset(written(tmp_path, {**native(), "splits": {"test1": ["c"]}}))
    with pytest.raises(AmmaError, match="'test1' names a video twice"):
        load_dataset(written(tmp_path, {**native(), "splits": {"test1": ["b", "b"]}}))
    for content in ("{", "9" * 5000):
        (tmp_path / "annotations.json").write_text(content)
        with pytest.raises(AmmaError, match="is not JSON"):
            load_dataset(tmp_path)


def ground_truth_pickle(splits):
    boxes = np.array([[1, 0, 0, 9, 9], [2, 0, 0, 9, 10]], np.float32)
    return {
        "labels": ["run", "wave"],
        "train_videos": [["run/a"]] * splits,
        "test_videos": [["wave/b"]] * splits,
        "nframes": {"run/a": 2, "wave/b": 3},
        "resolution": {"run/a": (24, 32), "wave/b": (24, 32)},
        "gttubes": {"run/a": {0: [boxes]}, "wave/b": {1: [boxes, boxes + 1]}},
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_reads_the_benchmarks_pickles(tmp_path, protocol):
    path = tmp_path / "JHMDB-GT.pkl"
    path.write_bytes(pickle.dumps(ground_truth_pickle(3), protocol))
    dataset = load_dataset(path)
    assert list(dataset.splits) == ["train1", "train2", "train3", "test1", "test2", "test3"]
    video = dataset.split("test1")[0]
    assert (video.name, video.frames, video.width, video.height) == ("wave/b", 3, 32, 24)
    assert video.file == tmp_path / "Frames/wave/b"
    assert [tube.label for tube in video.tubes] == [1, 1]
    np.testing.assert_array_equal(video.tubes[1].boxes, [[2, 1, 1, 10, 10], [3, 1, 1, 10, 11]])


def test_reads_a_pickle_of_python_2(tmp_path):
    """Written out by hand as Python 2's protocol 0 does: byte strings, and numpy's module of that time."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\nI5\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00A\\x00\\x00\\x10A'\ntb"
    )
    path = tmp_path / "UCF101v2-GT.pkl"
    path.write_bytes(
        b"(dS'labels'\n(lS'Surfing'\nasS'train_videos'\n(l(lasS'test_videos'\n(l(lS'v'\naas"
        b"S'nframes'\n(dS'v'\nI7\nssS'resolution'\n(dS'v'\n(I240\nI320\ntss"
        b"S'gttubes'\n(dS'v'\n(dI0\n(l" + array + b"asss."
    )
    video = load_dataset(path).split("test")[0]
    assert (video.frames, video.width, video.height) == (7, 320, 240)
    assert video.file == tmp_path / "rgb-images/v"
    np.testing.assert_array_equal(video.tubes[0].boxes, [[1, 0, 0, 8, 9]])


class Intruder:
    def __reduce__(self):
        return (Path.touch, (Path("intruded"),))


def test_no_pickle_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gt.pkl").write_bytes(pickle.dumps({**ground_truth_pickle(1), "labels": Intruder()}))
    with pytest.raises(AmmaError, match="which no ground truth needs"):
        load_dataset(tmp_path / "gt.pkl")
    assert not (tmp_path / "intruded").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1]), pickle.dumps({"labels": []})])
def test_broken_pickles_are_named(tmp_path, content):
    (tmp_path / "gt.pkl").write_bytes(content)
    with pytest.raises(AmmaError, match=r"gt\.pkl.*pickle"):
        load_dataset(tmp_path / "gt.pkl")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["wave", "wave"]}, "label 'wave' stands twice"),
        ({"gttubes": {"run/a": {2: [[[1, 0, 0, 9, 9]]]}}}, "'run/a': a tube has the label 2, but .* 0 to 1"),
        ({"gttubes": {"run/a": {-1: [[[1, 0, 0, 9, 9]]]}}}, "'run/a': a tube has the label -1"),
        ({"gttubes": {"run/a": {0: [[[3, 0, 0, 9, 9]]]}}}, "'run/a': a tube lasts from frame 3 to 3 of 2"),
        ({"gttubes": {"run/a": {0: [[[1, 9, 0, 0, 9]]]}}}, "'run/a': the box of frame 1 has x2 < x1"),
        ({"test_videos": [[["wave/b"]]]}, "cannot be read as a ground-truth pickle"),
    ],
)
def test_faults_in_pickles_are_named(tmp_path, changes, message):
    content = ground_truth_pickle(1)
    tubes = {**content["gttubes"], **changes.get("gttubes", {})}
    (tmp_path / "gt.pkl").write_bytes(pickle.dumps({**content, **changes, "gttubes": tubes}))
    with pytest.raises(AmmaError, match=rf"gt\.pkl.*{message}"):
        load_dataset(tmp_path / "gt.pkl")


def test_a_data_set_made_in_memory_is_saved_with_its_labels(tmp_path):
    tube = ActionTube(0, np.array([[1, 0.12345, 0, 3, 3]]))
    dataset = Dataset(["run"], {"v": Video("v", Path("/far/v.avi"), 1, 4, 4, 25.0, [tube])}, {})
    save_dataset(dataset, tmp_path / "d.json")
    video = load_dataset(tmp_path / "d.json").split("all")[0]
    assert video.file == Path("/far/v.avi")
    np.testing.assert_array_equal(video.tubes[0].boxes, [[1, 0.123, 0, 3, 3]])
