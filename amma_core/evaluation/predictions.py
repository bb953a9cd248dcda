"""Files of predictions: scored boxes of single frames and action tubes, in ``.npz`` or ``.json``.

``.npz`` arrays:

- ``frames`` (N, 8): video (its index in the split), frame (1-based), label index, score, x1, y1, x2, y2;
- optional, T tubes: ``tube_videos`` (T,), ``tube_labels`` (T,), ``tube_scores`` (T,), ``tube_boxes`` (n, 5)
  or (n, 6) rows of frame, x1, y1, x2, y2 (and score, not used), and ``tube_offsets`` (T + 1,): tube i has
  the rows ``tube_offsets[i]`` to ``tube_offsets[i + 1]``;
- optional ``videos``: the names of the split's videos, as a check that it is the same split;
- optional ``labels``: the names of the classes that the label indices count, where these need not be the data
  set's. They are found there by name; what is predicted of classes that it lacks is left out, with a warning.

``.json``, where a tube's video and label may be an index or a name, and all but one part may be left out::

    {"frames": [[video, frame, label, score, x1, y1, x2, y2], ...],
     "tubes": [{"video": 0, "label": "wave", "score": 0.9, "boxes": [[frame, x1, y1, x2, y2], ...]}, ...],
     "videos": ["a", ...]}

Either file may hold frames, tubes or both.
"""

import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amma_core.config import NetworkConfig
from amma_core.data.dataset import Video
from amma_core.errors import AmmaError
from amma_core.evaluation.tubelets import frame_detections
from amma_core.evaluation.tubes import Tubes
from amma_core.files import written_whole
from amma_core.linker import link
from amma_core.types import Tubelets


@dataclass(frozen=True, eq=False)
class Predictions:
    frames: NDArray | None
    """(N, 8), or None where the file has none."""
    tubes: Tubes | None
    videos: list[str] | None = None
    labels: list[str] | None = None
    """The names of the classes, or None where they are the data set's."""


def predict(found: list[Tubelets], network: NetworkConfig, video: int = 0) -> tuple[NDArray, Tubes]:
    """What is evaluated of one video: its frame detections and its linked tubes, of at least K * t frames.

    `found` are the detector's answers for the whole video, whose first frame has the number 1.
    """
    tubes = link(found, min_frames=network.clips * network.clip_length)
    rows = ((video, tube.label, tube.score, np.column_stack([tube.numbers, tube.boxes])) for tube in tubes)
    return frame_detections(found, video), Tubes.of(rows)


def save_predictions(
    path: str | Path,
    frames: ArrayLike,
    tubes: Tubes | None = None,
    videos: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Write the ``.npz`` format; frames in single precision. The file appears when it is whole."""
    arrays = {"frames": np.asarray(frames, np.float32).reshape(-1, 8)}
    if tubes is not None:
        arrays |= tube_arrays(tubes)
    for name, names in (("videos", videos), ("labels", labels)):
        if names is not None:
            arrays[name] = np.array(names, np.str_)
    with written_whole(Path(path)) as file:
        np.savez(file, **arrays)


def tube_arrays(tubes: Tubes) -> dict[str, NDArray]:
    """Tubes as named arrays of an ``.npz`` file."""
    return {f"tube_{field.name}": getattr(tubes, field.name) for field in fields(tubes)}


def tubes_of(arrays: dict[str, NDArray]) -> Tubes:
    """Tubes from the named arrays of an ``.npz`` file; ValueError for arrays of another kind."""
    return Tubes(
        _whole_numbers(arrays["tube_videos"]),
        _whole_numbers(arrays["tube_labels"]),
        _numbers(arrays["tube_scores"]),
        _whole_numbers(arrays["tube_offsets"]),
        _tube_boxes(arrays["tube_boxes"]),
    )


def load_predictions(path: str | Path, videos: list[Video], labels: list[str]) -> Predictions:
    """Read and check predictions for the videos of a split; their labels are the data set's, ``labels``.

    Raises:
        AmmaError: the file cannot be read, is for other videos or none of these labels, or a row is not
            finite, names an unknown video, frame or label, or its box is inside out or leaves the image by
            more than a pixel; the message names the row (counted from 0).
    """
    path = Path(path)
    if not path.is_file():
        raise AmmaError(f"{path}: no such file of predictions")
    try:
        found = _read_json(path, videos, labels) if path.suffix == ".json" else _read_npz(path)
    except KeyError as error:
        raise AmmaError(f"{path} does not hold predictions as documented: there is no {error}") from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        OSError,
        EOFError,
        RuntimeError,  # zipfile's for what it cannot unpack
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise AmmaError(f"{path} does not hold predictions as documented: {error}") from error
    names = [video.name for video in videos]
    if found.videos is not None and found.videos != names:
        other = next((name for name in found.videos if name not in names), None)
        detail = f"{other!r} is not among them" if other else "they are not the same or in another order"
        raise AmmaError(f"{path} is for other videos than this split: {detail}")
    if found.tubes is None and found.frames is not None and not len(found.frames):
        found = replace(found, tubes=Tubes.of([]))  # nothing found: no tubes either
    if found.frames is None and found.tubes is None:
        raise AmmaError(f"{path} holds neither frames nor tubes")
    known = labels if found.labels is None else found.labels
    if found.frames is not None:
        check_rows(found.frames, videos, known, lambda row: f"{path}: row {row}")
    if found.tubes is not None:
        _check_tubes(found.tubes, videos, known, path)
    return found if found.labels is None else _with_labels(found, labels, path)


def _with_labels(found: Predictions, labels: list[str], path: Path) -> Predictions:
    """Predictions of the classes ``found.labels`` as those of the data set's classes."""
    unknown = [label for label in found.labels if label not in labels]
    if len(unknown) == len(found.labels):
        raise AmmaError(f"{path} predicts none of the data set's labels, but {', '.join(unknown)}")
    if unknown:
        print(
            f"{path}: the data set has no label {' and no '.join(unknown)}: what is predicted of that is "
            "left out.",
            file=sys.stderr,
        )
    place = np.array([labels.index(label) if label in labels else -1 for label in found.labels])
    frames, tubes = found.frames, found.tubes
    if frames is not None:
        frames = frames.copy()
        frames[:, 2] = place[frames[:, 2].astype(np.int64)]
        frames = frames[frames[:, 2] >= 0]
    if tubes is not None:
        tubes = replace(tubes, labels=place[tubes.labels])
        tubes = tubes.take(np.flatnonzero(tubes.labels >= 0))
    return Predictions(frames, tubes, found.videos)


def check_rows(rows: NDArray, videos: list[Video], labels: list[str], name: Callable[[int], str]) -> None:
    """Refuse (N, 8) rows that cannot be detections, by the first such row, called ``name(its index)``."""
    video, frame, label = rows[:, :3].T
    x1, y1, x2, y2 = rows[:, 4:].T

    def refuse(wrong: NDArray, why: Callable[[int], str]) -> None:
        if wrong.any():
            row = int(wrong.argmax())
            raise AmmaError(f"{name(row)}: {why(row)}")

    refuse(~np.isfinite(rows).all(1), lambda row: f"not all numbers are finite: {rows[row].tolist()}")
    refuse(
        (video % 1 != 0) | (video < 0) | (video >= len(videos)),
        lambda row: f"there is no video {video[row]:g}: the split has the videos 0 to {len(videos) - 1}",
    )
    index = video.astype(np.int64)
    frames, width, height = np.array([(v.frames, v.width, v.height) for v in videos]).reshape(-1, 3)[index].T
    refuse(
        (frame % 1 != 0) | (frame < 1) | (frame > frames),
        lambda row: f"video {index[row]} has the frames 1 to {frames[row]}, not {frame[row]:g}",
    )
    refuse(
        (label % 1 != 0) | (label < 0) | (label >= len(labels)),
        lambda row: f"there is no label {label[row]:g}: the labels are 0 to {len(labels) - 1}",
    )
    refuse((x2 < x1) | (y2 < y1), lambda row: f"the box {rows[row, 4:].tolist()} has x2 < x1 or y2 < y1")
    # Conventions of the last pixel differ by one; more than that is another image size or a bug.
    refuse(
        (x1 < -1) | (y1 < -1) | (x2 > width) | (y2 > height),
        lambda row: f"the box {rows[row, 4:].tolist()} leaves the image of {width[row]} x {height[row]}",
    )


def _check_tubes(tubes: Tubes, videos: list[Video], labels: list[str], path: Path) -> None:
    starts, stops = tubes.offsets[:-1], tubes.offsets[1:]
    counts = len(tubes.videos), len(tubes.labels), len(tubes.scores), len(starts)
    whole = len(tubes.offsets) and tubes.offsets[0] == 0 and tubes.offsets[-1] == len(tubes.boxes)
    if len(set(counts)) > 1 or not whole:
        raise AmmaError(
            f"{path}: tube_videos, tube_labels, tube_scores, tube_offsets, tube_boxes do not fit together"
        )
    if (stops <= starts).any():
        raise AmmaError(f"{path}: tube {(stops <= starts).argmax()} has no boxes")

    def name(row: int) -> str:
        tube = int(np.searchsorted(stops, row, "right"))
        return f"{path}: tube {tube}, row {row - starts[tube]}"

    check_rows(tubes.frames(), videos, labels, name)
    back = np.diff(tubes.boxes[:, 0]) <= 0
    back[stops[:-1] - 1] = False
    if back.any():
        raise AmmaError(f"{name(int(back.argmax()) + 1)}: its frame does not come after the one before")


def _read_npz(path: Path) -> Predictions:
    with np.load(path) as file:
        arrays = dict(file)
    frames = _table(arrays["frames"], 8) if "frames" in arrays else None
    tubes = tubes_of(arrays) if "tube_boxes" in arrays else None
    videos, labels = (
        _names(arrays[name].tolist()) if name in arrays else None for name in ("videos", "labels")
    )
    return Predictions(frames, tubes, videos, labels)


def _read_json(path: Path, videos: list[Video], labels: list[str]) -> Predictions:
    content = json.loads(path.read_text(encoding="utf-8"))
    frames = _table(np.array(content["frames"], np.float64), 8) if "frames" in content else None
    split = _names(content["videos"]) if "videos" in content else None
    if "tubes" not in content:
        return Predictions(frames, None, split)
    video_index = {video.name: i for i, video in enumerate(videos)}
    label_index = {label: i for i, label in enumerate(labels)}

    def number(of: dict[str, int], value: object, tube: int) -> object:
        if isinstance(value, str) and value not in of:
            raise AmmaError(f"{path}: tube {tube}: {value!r} is unknown to the ground truth")
        return of[value] if isinstance(value, str) else value

    tubes = content["tubes"]
    in_video = np.array([number(video_index, tube["video"], i) for i, tube in enumerate(tubes)])
    label = np.array([number(label_index, tube["label"], i) for i, tube in enumerate(tubes)])
    score = np.array([tube["score"] for tube in tubes])
    boxes = [_tube_boxes(np.array(tube["boxes"])) for tube in tubes]
    rows = zip(_whole_numbers(in_video), _whole_numbers(label), _numbers(score), boxes, strict=True)
    return Predictions(frames, Tubes.of(rows), split)


def _names(values: object) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"names expected, not {values!r}")
    return values


def _numbers(array: NDArray) -> NDArray[np.float64]:
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise ValueError(f"one number for each tube expected, not shape {array.shape} of {array.dtype}")
    return array.astype(np.float64)


def _whole_numbers(array: NDArray) -> NDArray[np.int64]:
    numbers = _numbers(array)
    if (wrong := (numbers % 1 != 0) | (abs(numbers) > 2**53)).any():
        raise ValueError(f"a whole number expected, not {numbers[wrong][0]:g}")
    return numbers.astype(np.int64)


def _tube_boxes(array: NDArray) -> NDArray[np.float64]:
    """The first five columns of (n, 5) or (n, 6) rows."""
    scored = array.ndim == 2 and array.shape[1] == 6
    return _table(array, 6 if scored else 5)[:, :5].astype(np.float64)


def _table(array: NDArray, columns: int) -> NDArray:
    if not array.size:
        return np.zeros((0, columns))
    if array.ndim != 2 or array.shape[1] != columns or array.dtype.kind not in "iuf":
        raise ValueError(f"rows of {columns} numbers expected, not shape {array.shape} of {array.dtype}")
    return array
