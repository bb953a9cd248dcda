"""From a stream of frames to the clips that are worth encoding (section 3.4)."""

from collections import deque
from dataclasses import dataclass
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from amma_core.errors import AmmaError
from amma_core.types import Ints

POLICIES = ("pad_first", "full")


@dataclass(frozen=True, eq=False)
class Clip:
    """The t frames that end at a key frame."""

    frames: NDArray[np.uint8]
    """(t, S, S, 3) BGR."""
    number: int
    stamp: int
    """Frame number and stamp of the key frame."""


@dataclass(frozen=True, eq=False)
class Step:
    """Something to do for a stream: encode `clip`, then, if `answers`, run the head over the last K."""

    stream: int
    starts: bool
    """True if nothing cached before belongs to this stream."""
    image_size: tuple[int, int]
    clip: Clip | None
    """None where the stream ended right after a key frame whose answer was held back."""
    padding: Clip | None
    """What stands for the clips that are missing to K, before the oldest."""
    answers: bool
    settled_numbers: Ints
    settled_stamps: Ints
    """The frames that the answer settles; empty where there is none."""


class ClipAssembler:
    """Cuts a stream of frames into clips of t frames that do not overlap.

    A stream ends, and a new one begins, where a clip would otherwise straddle a cut: the clock jumps back,
    more than `max_gap` seconds pass between two frames, or the image size changes. The frames of the
    old stream that are not yet part of a clip are not lost: its last t frames make one more clip.

    Policies: with ``pad_first`` the first clip gets an answer at once, copies of the first frame standing
    for the K - 1 clips before it; with ``full`` the first K - 1 clips get none, and the frames until then are
    settled by the K-th.

    With `target_fps` clips have about that rate, whatever the camera's: frames that come sooner are passed
    over. They are settled like the others, but no clip holds them (unless the stream ends with one).
    Frames whose stamps do not move are all taken.
    """

    def __init__(
        self,
        length: int,
        clips: int,
        size: int,
        policy: str = "pad_first",
        max_gap: float = 1.0,
        target_fps: float | None = None,
    ):
        if policy not in POLICIES:
            raise AmmaError(f"policy is {policy!r}, but must be one of {', '.join(POLICIES)}")
        if not max_gap > 0:
            raise AmmaError(f"max_gap is {max_gap}, but must be more than 0 seconds")
        self.length, self.clips, self.size, self.policy = length, clips, size, policy
        if target_fps is not None and not target_fps > 0:
            raise AmmaError(f"target_fps is {target_fps}, but must be more than 0")
        self.max_gap = max_gap * 1e9
        self.period = int(1e9 / target_fps) if target_fps else 0
        self.number = 0
        """Frames seen in the whole run, so also the newest frame's number."""
        self.stream = 0
        self.torn = 0
        """Frames of the whole run that had been added, but were dropped with a skipped one."""
        self.cut = ""
        """Why the last stream ended that did not end by itself."""
        self._stride = 1.0  # frames for one of a clip, those passed over too
        self._begin()

    def _begin(self) -> None:
        self._recent: deque = deque(maxlen=self.length)  # (resized frame, number, stamp)
        self._first: tuple | None = None
        self._last_stamp: int | None = None
        self._image_size: tuple[int, int] | None = None
        self._fresh = 0  # frames of the clip being assembled
        self._since_key = 0  # frames without an answer that came after the last clip
        self._due: int | None = None  # stamp around which the next frame is wanted
        self._passed_over: tuple | None = None  # image, number, stamp of the newest frame, if nobody wants it
        self._made = 0  # clips of this stream
        self._answered = False
        self._settled: list[tuple[int, int]] = []  # number, stamp of the frames without an answer

    def add(self, image: NDArray[np.uint8], stamp: int) -> list[Step]:
        """Take a (H, W, 3) BGR frame with its stamp in nanoseconds; at most two steps come of it.

        Raises AmmaError, and forgets the frame, if the image is not (H, W, 3) uint8 or is empty.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
            raise AmmaError(
                f"a frame has shape {image.shape}, type {image.dtype}, but must be height x width x 3, uint8"
            )
        size = (image.shape[1], image.shape[0])
        steps = self._end_at_cut(stamp, size)
        # A clock that stands still says nothing of the camera's rate.
        stands_still = stamp == self._last_stamp
        self._image_size = size
        self._last_stamp = stamp
        self.number += 1
        self._settled.append((self.number, stamp))
        self._since_key += 1
        self._passed_over = (image, self.number, stamp)
        due = stamp if self._due is None else self._due
        # A quarter of a period is what a camera's clock may be out; a slow camera must not save up frames.
        if stands_still or stamp >= due - self.period // 4:
            # ... and what a clock saved up that stood still is forgotten once it moves.
            soonest, latest = stamp + self.period // 2, stamp + 2 * self.period
            self._due = min(max(due + self.period, soonest), latest)
            self._take_newest()
        if self._fresh == self.length:
            steps.append(self._step())
        return steps

    def _take_newest(self) -> None:
        image, *when = self._passed_over
        frame = (cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_LINEAR), *when)
        self._passed_over = None
        self._first = self._first or frame
        self._recent.append(frame)
        self._fresh += 1

    @property
    def lacking(self) -> int:
        """Frames until the clip begun is whole, if they come as for the last one; 0 if none is begun."""
        if not self._since_key:
            return 0
        since_taken = self.number - self._recent[-1][1]
        return max(1, ceil((self.length - self._fresh) * self._stride) - since_taken)

    @property
    def span(self) -> int:
        """Frames that a clip takes from one to the next, if they come as for the last one."""
        return ceil(self.length * self._stride)

    def skip(self, stamp: int) -> list[Step]:
        """Count a frame that nobody will look at. The clip begun is dropped with it: no clip has holes."""
        steps = self._end_at_cut(stamp, self._image_size)
        self._last_stamp = stamp
        self.number += 1
        del self._settled[len(self._settled) - self._since_key :]
        self.torn += self._since_key
        self._fresh = self._since_key = 0
        self._passed_over = self._due = None
        self._recent.clear()
        if self._made == 0:
            self._first = None  # no answer settles it, so none shall be padded with it
        return steps

    def finish(self) -> list[Step]:
        """End the stream: one last step if frames are left that have had no answer."""
        if self._passed_over is not None:
            self._take_newest()
        steps = [self._step(last=True)] if self._settled else []
        if self._last_stamp is not None:
            self.stream += 1
        self._begin()
        return steps

    def reset(self) -> None:
        """End the stream and forget the frames that have had no answer."""
        self._settled = []
        self._passed_over = None
        self.finish()

    def _end_at_cut(self, stamp: int, size: tuple[int, int] | None) -> list[Step]:
        """End the stream if a frame of this stamp and size does not belong to it."""
        if self._last_stamp is not None:
            gap = stamp - self._last_stamp
            if gap < 0:
                return self._end(f"the stamps jumped back by {-gap / 1e9:.3f} s")
            if gap > self.max_gap:
                return self._end(f"no frame for {gap / 1e9:.3f} s")
            if self._image_size not in (None, size):
                old, new = (f"{width}x{height}" for width, height in (self._image_size, size))
                return self._end(f"the image size changed from {old} to {new}")
        return []

    def _end(self, cut: str) -> list[Step]:
        self.cut = cut
        return self.finish()

    def _step(self, last: bool = False) -> Step:
        starts = self._made == 0
        clip = None
        if self._fresh:
            clip = self._clip(list(self._recent))
            self._made += 1
            if self._fresh == self.length > 1:
                self._stride = (self._recent[-1][1] - self._recent[0][1]) / (self.length - 1)
            self._fresh = self._since_key = 0
        answers = last or self.policy == "pad_first" or self._made >= self.clips
        settled = np.array(self._settled if answers else [], np.int64).reshape(-1, 2)
        padding = None
        if answers and not self._answered:
            padding = self._clip([self._first]) if self._made < self.clips else None
            self._answered = True
        if answers:
            self._settled = []
        return Step(
            stream=self.stream,
            starts=starts,
            image_size=self._image_size,
            clip=clip,
            padding=padding,
            answers=answers,
            settled_numbers=settled[:, 0],
            settled_stamps=settled[:, 1],
        )

    def _clip(self, frames: list[tuple]) -> Clip:
        # Right after the start or a hole there are too few: the oldest one stands for those missing.
        frames = [frames[0]] * (self.length - len(frames)) + frames
        return Clip(np.stack([frame[0] for frame in frames]), *frames[-1][1:])
