"""Reading and writing videos: files, folders of images, cameras."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

# The decoder reports every damaged block on its own; one sentence of ours says it better.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")

import cv2
import numpy as np
from numpy.typing import NDArray

from amma_core.errors import AmmaError

IMAGES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
USUAL_FPS = 30.0


def is_camera(source: str | Path | int) -> bool:
    """Whether a source of frames is a camera's number, not a file or folder whose name is a number."""
    return isinstance(source, int) or (str(source).isdecimal() and not Path(source).exists())


class VideoReader:
    """Frames of a video file, of a folder of images in the order of their names, or of a camera: its number,
    also as text where no file or folder has that name.

    Iterating gives (H, W, 3) BGR uint8 images with their stamps in nanoseconds from the start: a camera's by
    the clock, others' by the frame rate, which for a file of variable rate is its mean. `fps` counts instead
    of what the source says. Raises AmmaError for what is not there or holds no frame that can be read; a
    folder's damaged image is named.
    """

    def __init__(self, source: str | Path | int, fps: float | None = None):
        if fps is not None and not 0 < fps <= 1000:
            raise AmmaError(
                f"the frames per second of {source} are {fps}, but must be above 0 and at most 1000"
            )
        self.source = source
        self._camera = is_camera(source)
        self._images = sorted(_images(source)) if not self._camera and Path(source).is_dir() else None
        if self._images is not None:
            self.frame_count = len(self._images)
            found = None
            if not self._images:
                raise AmmaError(
                    f"{source} is a folder without images; put {', '.join(sorted(IMAGES))} files in it"
                )
        else:
            self._capture = self._open()
            found = self._capture.get(cv2.CAP_PROP_FPS)
            count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            # Containers may lie: this is good for a progress bar alone.
            self.frame_count = int(count) if not self._camera and 0 < count < 1e9 else None
        self.fps = fps or (found if found and 0 < found <= 1000 else USUAL_FPS)
        frames = self._decode()
        self._head = next(frames, None)
        self._rest = frames
        if self._head is None:
            raise AmmaError(f"{source} holds no frame that can be read: it is empty, damaged, or no video")
        self.size = (self._head.shape[1], self._head.shape[0])

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        image, number = self._head, 0
        start = time.monotonic_ns()
        while image is not None:
            yield image, time.monotonic_ns() - start if self._camera else round(number * 1e9 / self.fps)
            image, number = next(self._rest, None), number + 1

    def _open(self) -> cv2.VideoCapture:
        if not self._camera and not Path(self.source).exists():
            raise AmmaError(f"{self.source} does not exist")
        capture = cv2.VideoCapture(int(self.source) if self._camera else os.path.abspath(self.source))
        if not capture.isOpened():
            if self._camera:
                raise AmmaError(f"camera {self.source} cannot be opened; is it plugged in, and free?")
            raise AmmaError(f"{self.source} cannot be read as a video: it is empty, damaged, or no video")
        return capture

    def _decode(self) -> Iterator[NDArray[np.uint8]]:
        if self._images is not None:
            for path in self._images:
                image = cv2.imread(str(path), cv2.IMREAD_COLOR)
                if image is None:
                    raise AmmaError(f"{path} is not an image that can be read; mend or remove it")
                yield image
            return
        while True:
            there, image = self._capture.read()
            if not there:
                self._capture.release()
                return
            yield image


def _images(folder: str | Path) -> list[Path]:
    return [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGES]


class VideoWriter:
    """Writes BGR images to a video file; a context manager.

    The file appears when all is written: after an exception there is none. Raises AmmaError where the
    file cannot be written.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float):
        self.path = Path(path)
        if not self.path.suffix:
            raise AmmaError(
                f"{path} needs an ending that says which kind of video to write, .mp4 for instance"
            )
        self.size = size
        # Coders want even sides; at most one row and column of border is added.
        self._padding = (size[1] % 2, size[0] % 2)
        self._partial = self.path.with_name(f".partial-{self.path.name}")
        code = cv2.VideoWriter_fourcc(*("MJPG" if self.path.suffix.lower() == ".avi" else "mp4v"))
        even = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        # MPEG-4 counts time in at most 65535 parts of a second, so 119.8765 would not do.
        self._writer = cv2.VideoWriter(os.path.abspath(self._partial), code, round(fps, 2), even)
        if not self._writer.isOpened():
            raise AmmaError(
                f"{path} cannot be written at {fps:g} frames per second; is the folder there, and the ending "
                ".mp4 or .avi?"
            )

    def write(self, image: NDArray[np.uint8]) -> None:
        """Add a (H, W, 3) BGR image. Raises AmmaError for one of another size: OpenCV would drop it."""
        width, height = self.size
        if image.shape != (height, width, 3):
            raise AmmaError(
                f"{self.path} takes images of {width}x{height}, but one of shape {image.shape} came"
            )
        bottom, right = self._padding
        if bottom or right:
            image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        self._writer.write(image)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._writer.release()
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)
