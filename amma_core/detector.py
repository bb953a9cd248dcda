"""The caching detector: frames in, tubelets out (section 3.4)."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amma_core.clips import Clip, ClipAssembler, Step
from amma_core.decoding import decode
from amma_core.runtime import Runtime
from amma_core.types import Tubelets


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


class ActionDetector:
    """Finds tubelets in one stream of frames, with one encoder pass per clip.

    A clip is encoded as soon as its t frames are there; the head then looks at the cached features of the
    last K clips. See :class:`~amma_core.clips.ClipAssembler` for `policy`, `max_gap`, `target_fps` and what
    ends a stream.
    `top` is how many tubelets an answer has at most; those scoring less than `min_score` are left out.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        policy: str = "pad_first",
        max_gap: float = 1.0,
        target_fps: float | None = None,
        top: int = 100,
        min_score: float = 0.0,
    ):
        config = runtime.config
        self.runtime = runtime
        self.top, self.min_score = top, min_score
        self._assembler = ClipAssembler(
            config.clip_length,
            config.clips,
            config.input_size,
            policy=policy,
            max_gap=max_gap,
            target_fps=target_fps,
        )
        self._cache = FeatureCache(config.clips)

    @property
    def frames_seen(self) -> int:
        """Frames of the whole run, skipped ones too; also the number of the newest frame."""
        return self._assembler.number

    @property
    def stream(self) -> int:
        """``Tubelets.stream`` of the newest frame's stream or, after a flush, of the next one."""
        return self._assembler.stream

    @property
    def cut(self) -> str:
        """Why the last stream ended that did not end by itself, in words."""
        return self._assembler.cut

    def update(self, image: NDArray[np.uint8], stamp: int) -> list[Tubelets]:
        """Take the next frame: (H, W, 3) BGR uint8, with its stamp in nanoseconds.

        Usually returns nothing, and one answer per t frames. Where a stream was cut, its last answer
        comes first. Raises AmmaError for an image of another shape or type; the stream goes on.
        """
        return self._answer(self._assembler.add(image, stamp))

    def skip(self, stamp: int) -> list[Tubelets]:
        """Count a frame that is not to be looked at (overload); best called between two clips."""
        return self._answer(self._assembler.skip(stamp))

    def flush(self) -> list[Tubelets]:
        """End the stream: at most one answer, for the frames after the last key frame."""
        return self._answer(self._assembler.finish())

    def reset(self) -> None:
        """End the stream without an answer. Frame numbers go on, and the next frame begins a new stream."""
        self._assembler.reset()

    def _answer(self, steps: list[Step]) -> list[Tubelets]:
        answers = []
        for step in steps:
            answers += infer(self.runtime, [(self._cache, step)], self.top, self.min_score)
        return answers


def infer(
    runtime: Runtime, work: Sequence[tuple[FeatureCache, Step]], top: int = 100, min_score: float = 0.0
) -> list[Tubelets]:
    """Carry out steps of different streams, in one encoder pass and one pass of the head.

    Each cache may occur once only. Returns the answers of the steps that give one, in order.
    """
    clips = [clip for _, step in work for clip in (step.padding, step.clip) if clip is not None]
    features = iter(runtime.encode(np.stack([clip.frames for clip in clips])) if clips else ())
    for cache, step in work:
        if step.starts:
            cache.clear()
        padding = next(features) if step.padding is not None else None
        if step.clip is not None:
            cache.append(next(features), step.clip)
        if padding is not None:
            cache.pad(padding, step.padding)

    answering = [(cache, step) for cache, step in work if step.answers]
    if not answering:
        return []
    maps = runtime.head([cache.features for cache, _ in answering])
    answers = []
    for (cache, step), heat, movement, size in zip(answering, *maps, strict=True):
        labels, scores, boxes = decode(
            heat, movement, size, step.image_size, top=top, add_motion_of_key=runtime.config.add_key_movement
        )
        kept = scores >= min_score
        keys = cache.keys
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
