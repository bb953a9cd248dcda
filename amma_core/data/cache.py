"""Videos decoded once, into files of raw frames that training maps into memory."""

import fcntl
import json
import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from amma_core.errors import AmmaError
from amma_core.files import files_of, make_folder, write_text_whole, written_whole
from amma_core.video import VideoReader

Frames = NDArray[np.uint8]

INDEX_FILE = "index.json"
LOCK_FILE = "index.lock"
OLD_FRAMES_FILE = "frames.u8"
"""All frames, in caches of older versions."""
SECONDS_AT_WORK = 3600.0
"""Who writes frames has added some within this time."""


class FrameCache:
    """The decoded frames of many videos: ``cache[name]`` is a read-only (n, H, W, 3) uint8 BGR array.

    Nothing is read until it is looked at, and what was looked at stays in the page cache for every
    process that maps the same file.
    """

    def __init__(self, folder: Path):
        self._entries = _read_index(Path(folder))
        if not self._entries:
            raise AmmaError(f"no frame cache in {folder}: build it first")
        ends: dict[str, int] = {}
        for entry in self._entries.values():
            end = entry["start"] + math.prod(entry["shape"])
            ends[entry["frames"]] = max(end, ends.get(entry["frames"], 0))
        self._bytes = {file: _mapped(Path(folder) / file, end) for file, end in ends.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, name: str) -> Frames:
        entry = self._entries[name]
        start, shape = entry["start"], entry["shape"]
        return self._bytes[entry["frames"]][start : start + np.prod(shape)].reshape(shape)


def open_or_build(folder: Path, videos: Mapping[str, Path], max_side: int | None = None) -> FrameCache:
    """The cache in `folder`, after adding those of `videos` (name -> file) that it doesn't hold yet.

    A video counts as held if its file, or its folder of images, has the size and the time of change that it
    (or the newest image) had then. What runs have mapped never changes: new frames go into a file of their
    own.

    `max_side` shrinks larger frames to that many pixels on their longer side; None keeps them as they are.
    The files take 3 bytes per pixel.
    Raises AmmaError where a video can't be read, or has images of different sizes.
    """
    folder = Path(folder)
    origins = {name: _origin(file, max_side) for name, file in videos.items()}
    held = {name: entry["origin"] for name, entry in _read_index(folder).items()}
    missing = [name for name in videos if held.get(name) != origins[name]]
    if missing:
        make_folder(folder)
        entries = _write_frames(folder, {name: videos[name] for name in missing}, max_side)
        _add_to_index(folder, {name: {"origin": origins[name], **entries[name]} for name in missing})
    return FrameCache(folder)


def _mapped(path: Path, size: int) -> Frames:
    try:
        return np.memmap(path, np.uint8, mode="r", shape=(size,))
    except (OSError, ValueError):  # there is no such file, or it is shorter
        raise AmmaError(
            f"{path} is missing or damaged; delete the folder {path.parent}, and it is made anew"
        ) from None


def _origin(file: Path, max_side: int | None) -> list[int | None]:
    """What a video's frames are made from, as the index holds it."""
    found = files_of(file)  # images that are written over leave their folder as it was
    newest = max((each.st_mtime_ns for each in found), default=0)
    return [sum(each.st_size for each in found), newest, max_side]


def _read_index(folder: Path) -> dict[str, dict]:
    """The videos of the cache; none where there is no cache, or one of an older version."""
    try:
        return json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["entries"]
    except (FileNotFoundError, KeyError):
        return {}
    except ValueError as error:
        raise AmmaError(
            f"{folder / INDEX_FILE} is damaged ({error}); delete the folder {folder}, and it is made anew"
        ) from None


def _write_frames(folder: Path, videos: Mapping[str, Path], max_side: int | None) -> dict[str, dict]:
    """Decode videos into a new file; returns where each one lies.

    Each frame is written as it comes: a video may be longer than the memory. OpenCV decodes with all cores.
    """
    path = folder / f"frames-{uuid4().hex}.u8"
    entries = {}
    with written_whole(path) as file:
        for name, source in tqdm(videos.items(), desc="decoding", unit="video"):
            start, shapes = file.tell(), Counter()
            for image, _ in VideoReader(source):
                image = _shrunk(image, max_side)
                file.write(image.tobytes())
                shapes[image.shape] += 1
            if len(shapes) > 1:
                raise AmmaError(f"{source} has images of different sizes; give all of them one size")
            ((shape, count),) = shapes.items()
            entries[name] = {"frames": path.name, "start": start, "shape": (count, *shape)}
    return entries


def _add_to_index(folder: Path, added: Mapping[str, dict]) -> None:
    """Last of all: a build that was cut short leaves the cache as it was."""
    with (folder / LOCK_FILE).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may add videos, too, and neither shall lose its own
        before = _read_index(folder)
        entries = {**before, **added}
        write_text_whole(folder / INDEX_FILE, json.dumps({"entries": entries}))
    used, replaced = ({entry["frames"] for entry in each.values()} for each in (entries, before))
    for path in folder.glob("frames*"):
        # A file of no index is one that another run still writes, or that one which was killed has left.
        if path.name not in used and (path.name in {OLD_FRAMES_FILE, *replaced} or _is_left(path)):
            path.unlink(missing_ok=True)  # who has mapped it keeps it


def _is_left(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > SECONDS_AT_WORK
    except FileNotFoundError:
        return False  # it has just got its name from the run that wrote it


def _shrunk(frame: Frames, max_side: int | None) -> Frames:
    height, width = frame.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return frame
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
