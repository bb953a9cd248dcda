"""Several streams through one network: each has its own cache, and clips that are ready go in one batch."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amma_core.clips import Clip, ClipAssembler, Step
from amma_core.config import NetworkConfig
from amma_core.decoding import decode, discount_copies
from amma_core.runtime import Runtime
from amma_core.types import Tubelets


class Stream:
    """One camera's frames, cut into clips that wait for the network in :attr:`waiting`.

    `options` are those of :class:`~amma_core.clips.ClipAssembler`.
    """

    def __init__(self, config: NetworkConfig, **options):
        self._assembler = ClipAssembler(config.clip_length, config.clips, config.input_size, **options)
        self.cache = FeatureCache(config.clips)
        self.waiting: deque[Step] = deque()

    @property
    def frames_seen(self) -> int:
        """Frames so far, skipped ones too; also the number of the newest frame."""
        return self._assembler.number

    @property
    def frames_torn(self) -> int:
        """Frames so far that were dropped with a skipped one, having been added before it."""
        return self._assembler.torn

    @property
    def lacking(self) -> int:
        """Frames until the clip begun is whole, about; 0 if none is begun."""
        return self._assembler.lacking

    @property
    def span(self) -> int:
        """Frames that a clip takes, about, those counted that come too soon for it."""
        return self._assembler.span

    @property
    def number(self) -> int:
        """``Tubelets.stream`` of the newest frame, or, after a flush, of the next one."""
        return self._assembler.stream

    @property
    def cut(self) -> str:
        """Why the last stream ended that did not end by itself, in words."""
        return self._assembler.cut

    def add(self, image: NDArray[np.uint8], stamp: int) -> bool:
        """Take the next frame, (H, W, 3) BGR uint8, with its stamp in nanoseconds.

        Returns whether what waits for the network will answer it. Raises AmmaError, and forgets the frame,
        if the image is none.
        """
        self.waiting += self._assembler.add(image, stamp)
        return any(step.answers and step.settled_numbers[-1] == self.frames_seen for step in self.waiting)

    def skip(self, stamp: int) -> None:
        """Count a frame that nobody looks at; the clip begun is dropped with it."""
        self.waiting += self._assembler.skip(stamp)

    def flush(self) -> None:
        """End the stream; what is left of it is answered."""
        self.waiting += self._assembler.finish()

    def reset(self) -> None:
        """End the stream without an answer."""
        self._assembler.reset()
        self.waiting.clear()


class FeatureCache:
    """The encoded last K clips of one stream, first in, first out, with their key frames."""

    def __init__(self, clips: int):
        self._entries: deque = deque(maxlen=clips)  # (feature, frame number, stamp)

    def clear(self) -> None:
        self._entries.clear()

    def append(self, feature: Any, clip: Clip) -> None:
        self._entries.append((feature, clip.number, clip.stamp))

    def pad(self, feature: Any, clip: Clip) -> None:
        """Put copies of a feature before the oldest until there are K."""
        while len(self._entries) < self._entries.maxlen:
            self._entries.appendleft((feature, clip.number, clip.stamp))

    @property
    def features(self) -> list[Any]:
        return [entry[0] for entry in self._entries]

    @property
    def keys(self) -> NDArray[np.int64]:
        """(K, 2) frame number and stamp of each key frame, oldest first."""
        return np.array([entry[1:] for entry in self._entries], np.int64)


def advance(
    runtime: Runtime, streams: Sequence[Stream], top: int = 100, min_score: float = 0.0
) -> list[tuple[Stream, Tubelets]]:
    """Carry out the oldest step that waits in each of these streams, all in one batch.

    Returns the answers; a step need not give one.
    """
    work = [(stream, stream.waiting.popleft()) for stream in streams if stream.waiting]
    answering = [stream for stream, step in work if step.answers]
    answers = infer(runtime, [(stream.cache, step) for stream, step in work], top, min_score)
    return list(zip(answering, answers, strict=True))


def infer(
    runtime: Runtime, work: Sequence[tuple[FeatureCache, Step]], top: int = 100, min_score: float = 0.0
) -> list[Tubelets]:
    """Carry out steps of different streams, in one encoder pass and one pass of the head.

    Each cache may occur once only. Returns the answers of the steps that give one, in order.
    """
    for cache, step in work:
        if step.starts:  # first of all: should the encoder fail, no old feature may be left
            cache.clear()
    clips = [clip for _, step in work for clip in (step.padding, step.clip) if clip is not None]
    features = iter(runtime.encode(np.stack([clip.frames for clip in clips])) if clips else ())
    for cache, step in work:
        padding = next(features) if step.padding is not None else None
        if step.clip is not None:
            cache.append(next(features), step.clip)
        if padding is not None:
            cache.pad(padding, step.padding)

    answering = [(cache, step) for cache, step in work if step.answers]
    if not answering:
        return []
    maps = runtime.head([cache.features for cache, _ in answering], top)
    answers = []
    for (cache, step), heat, movement, size in zip(answering, *maps, strict=True):
        labels, scores, boxes = decode(
            heat, movement, size, step.image_size, top=top, add_motion_of_key=runtime.config.add_key_movement
        )
        keys = cache.keys
        scores = discount_copies(scores, keys[:, 0])
        kept = scores >= min_score
        answers.append(
            Tubelets(
                image_size=step.image_size,
                key_numbers=keys[:, 0],
                key_stamps=keys[:, 1],
                frame_numbers=step.settled_numbers,
                frame_stamps=step.settled_stamps,
                labels=labels[kept],
                scores=scores[kept],
                boxes=boxes[kept],
                stream=step.stream,
            )
        )
    return answers
