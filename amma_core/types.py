"""What flows through the pipeline: frozen records of parallel numpy arrays.

Conventions, everywhere in this package:

- boxes are ``x1, y1, x2, y2`` in pixels of the source image, 0-based, both corners inside the box;
- frame numbers are 1-based and count up over a whole run, across resets;
- stamps are integer nanoseconds;
- arrays over time run from the oldest to the newest.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def _no_ints() -> Ints:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Tubelets:
    """The detector's answer at one key frame: N tubelets over the same K key frames (section 3.3).

    ``frame_numbers`` and ``frame_stamps`` list the frames that this answer settles: those after the
    previous key frame of the stream, up to and including the newest one (before the first answer,
    all since the start of the stream).
    """

    image_size: tuple[int, int]
    """Width and height of the source image in pixels."""
    key_numbers: Ints
    """(K,) frame numbers of the key frames. Repeats at the start of a stream, where the oldest clips
    are copies of the first frame; not evenly spaced after a flush or skipped frames."""
    key_stamps: Ints
    """(K,) stamps of the key frames."""
    frame_numbers: Ints
    """(M,) numbers of the frames since the previous key frame; the last one is ``key_numbers[-1]``."""
    frame_stamps: Ints
    """(M,) stamps of those frames."""
    labels: Ints
    """(N,) class indices."""
    scores: Floats
    """(N,) scores in 0..1, multiplied by the share of the window's clips that are no copies."""
    boxes: Floats
    """(N, K, 4) one box per key frame."""
    stream: int = 0
    """Counts the resets of the detector: tubelets of different streams never belong to one tube."""

    def __len__(self) -> int:
        return len(self.scores)


def announcement(number: int, stamp: int, stream: int) -> Tubelets:
    """Says that a frame has come, before anything is known of it: no key frames, no tubelets."""
    return Tubelets(
        image_size=(0, 0),
        key_numbers=_no_ints(),
        key_stamps=_no_ints(),
        frame_numbers=np.array([number]),
        frame_stamps=np.array([stamp]),
        labels=_no_ints(),
        scores=np.zeros(0, np.float32),
        boxes=np.zeros((0, 0, 4), np.float32),
        stream=stream,
    )


@dataclass(frozen=True, eq=False)
class FrameDetections:
    """What is known of one camera frame: D detections, each part of an action tube."""

    number: int
    stamp: int
    labels: Ints
    """(D,) class indices."""
    scores: Floats
    """(D,) mean score of the tube so far, in 0..1."""
    boxes: Floats
    """(D, 4)"""
    tubes: Ints
    """(D,) tube ids."""
    extrapolated: bool = False
    """True where the boxes were carried on from the last key frame (causal mode)."""

    def __len__(self) -> int:
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Tube:
    """An action tube: one action of one person, with a box for every frame it lasts (section 3.5).

    In :attr:`LinkStep.tubes` the frames are those that are new since the tube was last reported; in
    an offline result they are all of them.
    """

    id: int
    """Positive, never reused within a run."""
    label: int
    score: float
    """Mean score of the tubelets in the tube, in 0..1; :class:`TubeLinker` says which count."""
    ended: bool
    start_stamp: int
    end_stamp: int
    """Stamps of the first and the newest box of the whole tube."""
    numbers: Ints = field(default_factory=_no_ints)
    """(n,) frame numbers."""
    stamps: Ints = field(default_factory=_no_ints)
    """(n,) stamps."""
    boxes: Floats = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """(n, 4)"""

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, eq=False)
class LinkStep:
    """What one step of linking settled."""

    frames: list[FrameDetections] = field(default_factory=list)
    """One record per frame, in order; every frame of a stream appears in one step and one only."""
    tubes: list[Tube] = field(default_factory=list)
    """The tubes that grew or ended in this step."""
