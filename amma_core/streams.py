"""Several cameras through one network: each has its own cache, and clips that are ready go in one batch."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from amma_core.clips import ClipAssembler, Step
from amma_core.config import NetworkConfig
from amma_core.detector import FeatureCache, infer
from amma_core.runtime import Runtime
from amma_core.types import Tubelets


class Stream:
    """One camera's frames, cut into clips that wait for the network in :attr:`waiting`.

    `options` are those of :class:`~amma_core.clips.ClipAssembler`. An
    :class:`~amma_core.detector.ActionDetector` is one of these that has the network to itself.
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
