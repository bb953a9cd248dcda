"""Annotated videos: the project's own format and the benchmarks' ground-truth pickles.

The native format is one JSON beside a folder of videos::

    {"labels": ["catch", ...],
     "videos": {name: {"file": "videos/a.avi", "frames": 40, "width": 320, "height": 240, "fps": 30.0,
                       "tubes": [{"label": "catch", "boxes": [[frame, x1, y1, x2, y2], ...]}, ...]}, ...},
     "splits": {"train1": [names], "test1": [names], ...}}

``file`` is relative to the JSON and may be left out where it is the video's name. Frames are 1-based,
boxes are pixels, 0-based, with both corners inside the box.
"""

import hashlib
import json
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amma_core.data.plain_objects import plain_object
from amma_core.errors import AmmaError
from amma_core.files import write_text_whole


@dataclass(frozen=True, eq=False)
class ActionTube:
    """One action of one person in a video, as annotated."""

    label: int
    """Index into :attr:`Dataset.labels`."""
    boxes: NDArray[np.float64]
    """(n, 5) rows of frame, x1, y1, x2, y2; frames are whole numbers that increase."""


@dataclass(frozen=True, eq=False)
class Video:
    name: str
    file: Path
    """The video, or a folder with its frames as images in the order of their names."""
    frames: int
    width: int
    height: int
    fps: float
    tubes: list[ActionTube] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Dataset:
    labels: list[str]
    videos: dict[str, Video]
    splits: dict[str, list[str]]

    def split(self, name: str) -> list[Video]:
        """The videos of a split, in its order. ``all`` is every video in the file's order, and a name
        without its number (``test``) is the first of that name (``test1``)."""
        for candidate in (name, f"{name}1"):
            if candidate in self.splits:
                return [self.videos[video] for video in self.splits[candidate]]
        if name == "all":
            return list(self.videos.values())
        raise AmmaError(f"there is no split {name!r}: choose one of {', '.join([*self.splits, 'all'])}")


def load_dataset(path: str | Path) -> Dataset:
    """Read and check a data set: a native ``.json``, a folder with ``annotations.json``, or a ``.pkl``.

    The pickles are those of the JHMDB-21 and UCF101-24 benchmarks (``JHMDB-GT.pkl``,
    ``UCF101v2-GT.pkl``); nothing but plain containers and numeric arrays is unpickled from them.

    Raises:
        AmmaError: the file is missing or does not follow its format; the message says where.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "annotations.json"
    if not path.is_file():
        raise AmmaError(f"{path}: no such data set; give a .json, a folder with annotations.json, or a .pkl")
    return _load_pickle(path) if path.suffix == ".pkl" else _load_json(path)


def save_dataset(dataset: Dataset, path: str | Path) -> None:
    """Write the native format. Video files below the JSON's folder are named relative to it."""
    path = Path(path)

    def entry(video: Video) -> dict:
        folder, file = path.parent.absolute(), video.file.absolute()
        return {
            "file": str(file.relative_to(folder) if file.is_relative_to(folder) else file),
            "frames": video.frames,
            "width": video.width,
            "height": video.height,
            "fps": video.fps,
            "tubes": [
                {
                    "label": dataset.labels[tube.label],
                    "boxes": [[int(row[0]), *(round(x, 3) for x in row[1:])] for row in tube.boxes.tolist()],
                }
                for tube in video.tubes
            ],
        }

    videos = {name: entry(video) for name, video in dataset.videos.items()}
    content = {"labels": dataset.labels, "videos": videos, "splits": dataset.splits}
    write_text_whole(path, json.dumps(content, separators=(",", ":")) + "\n")


def fingerprint(labels: list[str], videos: list[Video]) -> str:
    """Hexadecimal digits that change with labels, videos and tubes, but not with where the videos lie."""
    digest = hashlib.sha256(json.dumps(labels).encode())
    for video in videos:
        size = (video.frames, video.width, video.height, float(video.fps))
        tubes = [(tube.label, tube.boxes.tolist()) for tube in video.tubes]
        digest.update(json.dumps([video.name, size, tubes]).encode())
    return digest.hexdigest()


def _load_json(path: Path) -> Dataset:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        labels, entries, splits = content["labels"], content["videos"], content["splits"]
    except ValueError as error:  # besides faults of JSON and of Unicode, whole numbers that never end
        raise AmmaError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError) as error:
        raise AmmaError(f"{path} is not a data set: it needs labels, videos and splits") from error
    if not isinstance(labels, list) or not isinstance(entries, dict) or not isinstance(splits, dict):
        raise AmmaError(f"{path}: labels must be a list [...], videos and splits must be {{name: ...}}")
    for where, names in {"labels": labels, **{f"split {name!r}": splits[name] for name in splits}}.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AmmaError(f"{path}: {where} must be a list of names")
    index = {label: i for i, label in enumerate(labels)}
    videos = {}
    for name, entry in entries.items():
        try:
            for tube in entry["tubes"]:
                if tube["label"] not in index:
                    raise ValueError(f"label {tube['label']!r} is not among the labels")
            videos[name] = Video(
                name,
                path.parent / entry.get("file", name),
                int(entry["frames"]),
                int(entry["width"]),
                int(entry["height"]),
                float(entry["fps"]),
                [ActionTube(index[tube["label"]], _boxes(tube["boxes"])) for tube in entry["tubes"]],
            )
            for tube in videos[name].tubes:  # the benchmarks' pickles are taken as they are
                refuse_beside(tube.boxes, videos[name].width, videos[name].height)
        except KeyError as error:
            raise AmmaError(f"{path}: video {name!r}: there is no key {error}") from error
        except (AttributeError, OverflowError, TypeError, ValueError) as error:
            raise AmmaError(f"{path}: video {name!r}: {error}") from error
    return _checked(path, Dataset(labels, videos, splits))


def _load_pickle(path: Path) -> Dataset:
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file, encoding="iso-8859-1").load()
        labels, sizes, tubes = content["labels"], content["resolution"], content["gttubes"]
        splits = {
            f"{part}{number}": list(names)
            for part in ("train", "test")
            for number, names in enumerate(content[f"{part}_videos"], 1)
        }
        # The pickles do not say where their frames lie and how fast they were taken.
        jhmdb = "JHMDB" in path.name
        folder, fps = ("Frames", 30.0) if jhmdb else ("rgb-images", 25.0)
        videos = {}
        for name, frames in content["nframes"].items():
            height, width = (int(length) for length in sizes[name])
            annotated = [
                ActionTube(int(label), _boxes(boxes))
                for label, group in tubes[name].items()
                for boxes in group
            ]
            file = path.parent / folder / name
            videos[name] = Video(name, file, int(frames), width, height, fps, annotated)
        return _checked(path, Dataset(list(labels), videos, splits))
    except AmmaError:
        raise
    except KeyError as error:
        raise AmmaError(f"{path}: there is no {error.args[0]!r} in this ground-truth pickle") from error
    # A broken pickle can raise nearly anything while it is read.
    except Exception as error:
        raise AmmaError(f"{path} cannot be read as a ground-truth pickle: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Rebuilds containers and numpy arrays and refuses everything else, so that no file can run code."""

    def find_class(self, module: str, name: str):
        known = plain_object(module, name)
        if known is None:
            raise AmmaError(
                f"the pickle asks for {module}.{name}, which no ground truth needs: not loading it"
            )
        return known


def refuse_beside(boxes: NDArray[np.float64], width: int, height: int) -> None:
    """ValueError if one of a tube's boxes, (n, 5), has no pixel in the picture."""
    beside = (boxes[:, 1:3] >= [width, height]).any(1) | (boxes[:, 3:] <= -1).any(1)
    if beside.any():
        raise ValueError(
            f"the box of frame {boxes[beside.argmax(), 0]:.0f} lies beside the picture of {width}x{height}; "
            "mend the annotation, or give the video that was annotated"
        )


def _boxes(rows) -> NDArray[np.float64]:
    boxes = np.asarray(rows, np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 5 or not len(boxes):
        raise ValueError("a tube needs rows of frame, x1, y1, x2, y2")
    if not np.isfinite(boxes).all():
        raise ValueError("a tube holds a number that is not finite")
    if (boxes[:, 0] % 1).any() or (np.diff(boxes[:, 0]) <= 0).any():
        raise ValueError("the frames of a tube must be whole numbers that increase")
    return boxes


def _checked(path: Path, dataset: Dataset) -> Dataset:
    labels = dataset.labels
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise AmmaError(f"{path}: label {twice!r} stands twice among the labels; give each class one name")
    for video in dataset.videos.values():
        try:
            _check_video(video, len(labels))
        except ValueError as error:
            raise AmmaError(f"{path}: video {video.name!r}: {error}") from error
    for split, names in dataset.splits.items():
        unknown = [name for name in names if name not in dataset.videos]
        if unknown:
            raise AmmaError(f"{path}: split {split!r} names {unknown[0]!r}, which is not among the videos")
        if len(set(names)) < len(names):
            raise AmmaError(f"{path}: split {split!r} names a video twice")
    return dataset


def _check_video(video: Video, labels: int) -> None:
    if min(video.frames, video.width, video.height) < 1 or not 0 < video.fps < math.inf:
        raise ValueError("frames, width, height and fps must be positive and finite")
    for tube in video.tubes:
        if not 0 <= tube.label < labels:
            raise ValueError(f"a tube has the label {tube.label}, but the labels are 0 to {labels - 1}")
        first, last = tube.boxes[[0, -1], 0]
        if first < 1 or last > video.frames:
            raise ValueError(f"a tube lasts from frame {first:.0f} to {last:.0f} of {video.frames}")
        wrong = (tube.boxes[:, 3:] < tube.boxes[:, 1:3]).any(1)
        if wrong.any():
            raise ValueError(f"the box of frame {tube.boxes[wrong.argmax(), 0]:.0f} has x2 < x1 or y2 < y1")
