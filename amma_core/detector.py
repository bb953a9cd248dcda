"""The caching detector: frames in, tubelets out (section 3.4)."""

import numpy as np
from numpy.typing import NDArray

from amma_core.runtime import Runtime
from amma_core.streams import Stream, advance
from amma_core.types import Tubelets


class ActionDetector:
    """Finds tubelets in one stream of frames, with one encoder pass per clip.

    A clip is encoded as soon as its t frames are there; the head then looks at the cached features of the
    last K clips. See :class:`~amma_core.clips.ClipAssembler` for `options` (`policy`, `max_gap`,
    `target_fps`) and what ends a stream.
    `top` is how many tubelets an answer has at most; those scoring less than `min_score` are left out.
    """

    def __init__(self, runtime: Runtime, *, top: int = 100, min_score: float = 0.0, **options):
        self.runtime = runtime
        self.top, self.min_score = top, min_score
        self._stream = Stream(runtime.config, **options)

    @property
    def frames_seen(self) -> int:
        """Frames of the whole run, skipped ones too; also the number of the newest frame."""
        return self._stream.frames_seen

    @property
    def stream(self) -> int:
        """``Tubelets.stream`` of the newest frame's stream or, after a flush, of the next one."""
        return self._stream.number

    @property
    def cut(self) -> str:
        """Why the last stream ended that did not end by itself, in words."""
        return self._stream.cut

    def update(self, image: NDArray[np.uint8], stamp: int) -> list[Tubelets]:
        """Take the next frame: (H, W, 3) BGR uint8, with its stamp in nanoseconds.

        Usually returns nothing, and one answer per t frames. Where a stream was cut, its last answer
        comes first. The image must stay as it is until the next call. Raises AmmaError for an image of
        another shape or type; the stream goes on. Whatever else the network raises ends the stream.
        """
        self._stream.add(image, stamp)
        return self._answers()

    def skip(self, stamp: int) -> list[Tubelets]:
        """Count a frame that is not to be looked at (overload); best called between two clips."""
        self._stream.skip(stamp)
        return self._answers()

    def flush(self) -> list[Tubelets]:
        """End the stream: at most one answer, for the frames after the last key frame."""
        self._stream.flush()
        return self._answers()

    def reset(self) -> None:
        """End the stream without an answer. Frame numbers go on, and the next frame begins a new stream."""
        self._stream.reset()

    def _answers(self) -> list[Tubelets]:
        answers = []
        try:
            while self._stream.waiting:
                answers += [
                    answer for _, answer in advance(self.runtime, [self._stream], self.top, self.min_score)
                ]
        except Exception:  # no memory on the GPU, for instance: a clip is missing in the cache
            self._stream.reset()
            raise
        return answers
