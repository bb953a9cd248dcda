"""Annotations of other tools, brought into the native format (:mod:`amma_core.data.dataset`).

The benchmarks' pickles need no importer of their own: `load_dataset` reads them.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amma_core.data.dataset import ActionTube, Dataset, Video, refuse_beside
from amma_core.errors import AmmaError, packages_for
from amma_core.video import VideoReader

CLIP_ENDINGS = (".avi", ".mp4", ".mkv", ".mov", ".webm")
MOST_FRAMES = 10_000_000
"""Days of video: what lies beyond is a mistake, and boxes between key frames would fill the memory."""


def from_cvat(
    files: Iterable[Path], videos: Path, attribute: str | None = None, test: float = 0.2, seed: int = 0
) -> Dataset:
    """Dumps of CVAT, "CVAT for video 1.1", one XML per video, whose videos lie in the folder `videos`.

    Every track is an action tube, named by its label or, if `attribute` is given, by that attribute of its
    boxes: a person who sits and then walks is two tubes. A track that leaves the image and comes back is two
    tubes as well. Boxes between key frames are on straight lines. The share `test` of the videos, drawn by
    `seed`, becomes the split ``test1``, the rest ``train1``.

    Raises AmmaError, naming the file, for what is not such a dump, names a video that is not there or has a
    box beside the picture; for two files that annotate one video; and where there is no tube in any file.
    """
    if not 0 <= test <= 1:
        raise AmmaError(f"the share of the videos to test on is {test:g}, but must be between 0 and 1")
    sources: dict[str, Path] = {}
    found: dict[str, list[tuple[str, NDArray]]] = {}
    for file in files:
        name, tubes = _read_cvat(Path(file), Path(videos), attribute)
        if name in found:
            raise AmmaError(f"{sources[name]} and {file} annotate the same video, {name}: give one of them")
        sources[name], found[name] = Path(file), tubes
    if not found:
        raise AmmaError("no annotations were given: export them from CVAT as 'CVAT for video 1.1'")
    labels = sorted({label for tubes in found.values() for label, _ in tubes})
    entries = {
        name: _video(
            name, Path(videos) / name, [ActionTube(labels.index(label), boxes) for label, boxes in tubes]
        )
        for name, tubes in found.items()
    }
    if not any(video.tubes for video in entries.values()):
        where, *more = sources.values()
        named = "" if attribute is None else f" with the attribute {attribute!r}"
        raise AmmaError(
            f"{where}{f' and {len(more)} more files' if more else ''}: there is no track{named} within the "
            "videos; annotate each action as a track in CVAT"
        )
    names = sorted(entries)
    drawn = np.random.default_rng(seed).permutation(len(names))[: round(test * len(names))]
    testing = [names[i] for i in sorted(drawn)]
    splits = {"train1": [name for name in names if name not in testing], "test1": testing}
    return Dataset(labels, entries, splits)


def _read_cvat(file: Path, videos: Path, attribute: str | None) -> tuple[str, list[tuple[str, NDArray]]]:
    """The video's path in the folder `videos`, and its labels and boxes."""
    try:
        root = ElementTree.parse(file).getroot()
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # of encodings, too
        raise AmmaError(f"{file} can't be read as XML: {error}") from None
    sources = list(root.iter("source"))
    if len(sources) > 1:
        raise AmmaError(
            f"{file} is a dump of {len(sources)} videos, as of a CVAT project: export each task alone"
        )
    name = sources[0].text if sources else None
    if root.tag != "annotations" or not name:
        raise AmmaError(f"{file} is not a dump of one video in the format 'CVAT for video 1.1'")
    if not (videos / name).exists():
        raise AmmaError(f"{file} annotates {name}, but there is no such video in {videos}")
    tubes = []
    for track in root.iter("track"):
        boxes = [_box(box, track.get("label", ""), attribute, file) for box in track.iter("box")]
        for label, rows in _runs(sorted(boxes, key=lambda box: box[1][0])):
            tubes.append((label, _interpolated(np.array(rows))))
    return Path(name).as_posix(), tubes


def _box(box: ElementTree.Element, label: str, attribute: str | None, file: Path) -> tuple[str | None, list]:
    """The label (None where the track is out of sight) and frame, x1, y1, x2, y2 of one <box>."""
    try:
        frame = int(box.attrib["frame"])
        x1, y1, x2, y2 = (float(box.attrib[side]) for side in ("xtl", "ytl", "xbr", "ybr"))
    except (KeyError, ValueError) as error:
        raise AmmaError(f"{file}: a box of track {label!r} lacks a number: {error}") from None
    if not 0 <= frame < MOST_FRAMES or not all(map(math.isfinite, (x1, y1, x2, y2))):
        corners = f"{x1:g}, {y1:g}, {x2:g}, {y2:g}"
        raise AmmaError(
            f"{file}: track {label!r} can't have a box of {corners} in frame {frame}: mend the file"
        )
    if attribute is not None:
        texts = [item.text for item in box.iter("attribute") if item.get("name") == attribute]
        label = (texts[0] or "").strip() if texts else ""
    if box.get("outside") == "1":
        label = None
    # Frames count from 1 here. CVAT's corners lie on the edges of pixels, ours in the last pixels themselves.
    return label or None, [frame + 1, x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)]


def _runs(boxes: list[tuple[str | None, list]]) -> Iterator[tuple[str, list[list]]]:
    """Parts of a track with one label; boxes without one belong to none."""
    current, rows = None, []
    for label, row in boxes:
        if label != current:
            if current is not None:
                yield current, _until(rows, row)
            current, rows = label, []
        rows.append(row)
    if current is not None:
        yield current, rows


def _until(rows: list[list], following: list) -> list[list]:
    """In a dump of key frames alone, the next part's first frame tells where this one ends: hold it."""
    gap = following[0] - 1
    return rows if rows[-1][0] >= gap else [*rows, [gap, *rows[-1][1:]]]


def _interpolated(rows: NDArray) -> NDArray[np.float64]:
    frames = np.arange(rows[0, 0], rows[-1, 0] + 1)
    return np.column_stack([frames, *(np.interp(frames, rows[:, 0], column) for column in rows[:, 1:].T)])


def from_puppet_masks(folder: Path) -> Dataset:
    """JHMDB as its authors give it: `folder` holds ``puppet_mask``, ``splits`` and ``ReCompress_Videos``.

    Boxes are the tight boxes of the masks; frames whose mask is empty have none.
    Raises AmmaError, naming what is missing or lies beside the picture. Needs scipy, for MATLAB's files.
    """
    with packages_for("reading puppet masks, which are MATLAB's files,", "scipy"):
        from scipy.io import loadmat
    folder = Path(folder)
    masks = sorted((folder / "puppet_mask").glob("*/*/puppet_mask.mat"))
    if not masks:
        raise AmmaError(f"there is no puppet_mask/CLASS/CLIP/puppet_mask.mat in {folder}")
    labels = sorted({mask.parts[-3] for mask in masks})
    videos = {}
    for mask in masks:
        label, clip = mask.parts[-3:-1]
        name = f"{label}/{clip}"
        candidates = [folder / "ReCompress_Videos" / label / (clip + ending) for ending in CLIP_ENDINGS]
        path = next((path for path in candidates if path.exists()), None)
        if path is None:
            raise AmmaError(f"there is no video ReCompress_Videos/{name} in {folder}")
        tube = ActionTube(labels.index(label), _mask_boxes(loadmat(mask)["part_mask"]))
        videos[name] = _video(name, path, [tube])
    return Dataset(labels, videos, _jhmdb_splits(folder / "splits", videos))


def _mask_boxes(masks: NDArray) -> NDArray[np.float64]:
    """(H, W, n) masks, or the (H, W) of one frame -> (m, 5) frame and tight box of those not empty."""
    rows = []
    for number, mask in enumerate(np.moveaxis(np.atleast_3d(masks) > 0, -1, 0), 1):
        y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(y):
            rows.append([number, x[0], y[0], x[-1], y[-1]])
    return np.array(rows, np.float64).reshape(-1, 5)


def _jhmdb_splits(folder: Path, videos: dict[str, Video]) -> dict[str, list[str]]:
    """Files CLASS_test_splitN.txt of lines "CLIP.avi M": M is 1 in training and 2 in test, 0 in neither."""
    splits: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*_test_split*.txt")):
        named = re.fullmatch(r"([^.].*)_test_split(\d+)", file.stem)
        if named is None:  # CLASS_test_split1_old.txt, or an unpacker's ._CLASS_test_split1.txt
            continue
        label, number = named.groups()
        for line in file.read_text(encoding="utf-8").split("\n"):
            clip, _, part = line.strip().rpartition(" ")
            name = f"{label}/{Path(clip.strip()).stem}"
            if part in ("1", "2") and name in videos:
                splits.setdefault(("train", "test")[int(part) - 1] + number, []).append(name)
    if not splits:
        raise AmmaError(f"there is no CLASS_test_splitN.txt with known clips in {folder}")
    return dict(sorted(splits.items(), key=lambda item: (item[0][-1], item[0].startswith("test"))))


def _video(name: str, path: Path, tubes: list[ActionTube]) -> Video:
    """Look at the file itself, and keep to the frames and the pixels that it has."""
    reader = VideoReader(path)
    width, height = reader.size
    frames = sum(1 for _ in reader)  # containers may lie about their length
    kept = []
    for tube in tubes:
        boxes = tube.boxes[tube.boxes[:, 0] <= frames]
        try:
            refuse_beside(boxes, width, height)
        except ValueError as error:
            raise AmmaError(f"{path}: {error}") from None
        boxes = np.column_stack([boxes[:, 0], np.clip(boxes[:, 1:], 0, [width - 1, height - 1] * 2)])
        if len(boxes):
            kept.append(ActionTube(tube.label, boxes))
    return Video(name, path, frames, width, height, reader.fps, kept)
