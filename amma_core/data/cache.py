"""Videos decoded once, into one file of raw frames that training maps into memory."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from amma_core.errors import AmmaError
from amma_core.files import written_whole
from amma_core.video import VideoReader

Frames = NDArray[np.uint8]

FRAMES_FILE = "frames.u8"
INDEX_FILE = "index.json"


class FrameCache:
    """The decoded frames of many videos: ``cache[name]`` is a read-only (n, H, W, 3) uint8 BGR array.

    Nothing is read until it is looked at, and what was looked at stays in the page cache for every
    process that maps the same file.
    """

    def __init__(self, folder: Path):
        index = Path(folder) / INDEX_FILE
        if not index.exists():
            raise AmmaError(f"no frame cache in {folder}: build it first")
        self._shapes: dict[str, tuple[int, list[int]]] = {
            name: (offset, shape)
            for name, (offset, *shape) in json.loads(index.read_text())["videos"].items()
        }
        self._bytes = np.memmap(Path(folder) / FRAMES_FILE, np.uint8, mode="r")

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __len__(self) -> int:
        return len(self._shapes)

    def __getitem__(self, name: str) -> Frames:
        offset, (count, height, width) = self._shapes[name]
        end = offset + count * height * width * 3
        return self._bytes[offset:end].reshape(count, height, width, 3)


def open_or_build(folder: Path, videos: Mapping[str, Path], max_side: int | None = None) -> FrameCache:
    """The cache in `folder`, built now unless it already holds every one of `videos` (name -> file).

    `max_side` shrinks larger frames to that many pixels on their longer side; None keeps them as they are.
    The file takes 3 bytes per pixel: JHMDB-21 7.3 GB, or 1.2 GB with a `max_side` of 128.
    Raises AmmaError where a video can't be read.
    """
    folder = Path(folder)
    index_path = folder / INDEX_FILE
    if index_path.exists():
        index = json.loads(index_path.read_text())
        if index["max_side"] == max_side and set(videos) <= set(index["videos"]):
            return FrameCache(folder)
        index_path.unlink()

    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, list[int]] = {}
    offset = 0
    # The index is written last: a build that was cut short leaves none and starts again.
    with open(folder / FRAMES_FILE, "wb") as file:
        for name, frames in tqdm(
            _decode_all(videos, max_side), total=len(videos), desc="decoding", unit="video"
        ):
            file.write(frames.tobytes())
            shapes[name] = [offset, *frames.shape[:3]]
            offset += frames.nbytes
    with written_whole(index_path) as file:
        file.write(json.dumps({"max_side": max_side, "videos": shapes}).encode())
    return FrameCache(folder)


def read_frames(path: Path, max_side: int | None = None) -> Frames:
    """Every frame of a video, or of a folder of images, (n, H, W, 3) BGR.

    Raises AmmaError where there is none to read.
    """
    return np.stack([_shrunk(frame, max_side) for frame, _ in VideoReader(path)])


def _decode_all(videos: Mapping[str, Path], max_side: int | None) -> Iterator[tuple[str, Frames]]:
    # OpenCV decodes outside Python's lock, so threads do; a few at a time bounds the memory.
    items = iter(videos.items())
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(items, 16)):
            names, paths = zip(*batch, strict=True)
            yield from zip(names, pool.map(lambda path: read_frames(path, max_side), paths), strict=True)


def _shrunk(frame: Frames, max_side: int | None) -> Frames:
    height, width = frame.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        return frame
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
