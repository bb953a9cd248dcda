"""Detector and linker in a row: frames in, action tubes and per-frame detections out."""

import numpy as np
from numpy.typing import NDArray

from amma_core.detector import ActionDetector
from amma_core.linker import TubeLinker
from amma_core.types import LinkStep, Tubelets, announcement


class ActionPipeline:
    """Online action detection in one stream (section 3.5 after section 3.4).

    As the paper does it, a frame's detections are known when the next key frame has been looked at, up to
    t - 1 frames later. If the linker is causal, every frame is answered at once, the tubes being carried
    on from the last key frame in between.

    `tubelets` holds the detector's answers of the last call, for those who evaluate them.
    """

    def __init__(self, detector: ActionDetector, linker: TubeLinker):
        self.detector = detector
        self.linker = linker
        self.tubelets: list[Tubelets] = []

    def update(self, image: NDArray[np.uint8], stamp: int) -> LinkStep:
        """Take the next frame: (H, W, 3) BGR uint8, stamp in nanoseconds. Returns what it settled.

        Raises AmmaError for an image of another shape or type; the stream goes on.
        """
        step = self._link(self.detector.update(image, stamp))
        number = self.detector.frames_seen
        answered = bool(step.frames) and step.frames[-1].number == number
        if self.linker.causal and not answered:
            step = _join(step, self.linker.update(announcement(number, stamp, self.detector.stream)))
        return step

    def flush(self) -> LinkStep:
        """End the stream: the last frames are answered, all tubes end."""
        step = self._link(self.detector.flush())
        return _join(step, self.linker.finish())

    def _link(self, answers: list[Tubelets]) -> LinkStep:
        self.tubelets = answers
        step = LinkStep()
        for tubelets in answers:
            step = _join(step, self.linker.update(tubelets))
        return step


def _join(first: LinkStep, second: LinkStep) -> LinkStep:
    return LinkStep(first.frames + second.frames, first.tubes + second.tubes)
