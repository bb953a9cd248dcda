"""From the detector's messages to those that users read; the linker node and ``amma bag`` share this."""

from dataclasses import replace

import numpy as np
from vision_msgs.msg import Detection2DArray

from amma_core.linker import TubeLinker
from amma_core.types import LinkStep, Tube
from amma_ros import conversions
from amma_ros.msg import ActionTubeArray, TubeletArray


class Results:
    """Links tubelets, message by message.

    Attributes may change at any time:

    classes: names of the classes to look at; empty means all.
    class_min_scores: least mean score of a tube by class name, where that is not the linker's own.
    """

    def __init__(self, linker: TubeLinker):
        self.linker = linker
        self.min_score = linker.min_score
        self.classes: set[str] = set()
        self.class_min_scores: dict[str, float] = {}
        self._labels: dict[int, str] = {}
        self._newest_frame = 0
        self._image_size = (0, 0)
        self._newest_boxes: dict[int, np.ndarray] = {}

    def update(self, message: TubeletArray) -> tuple[list[Detection2DArray], ActionTubeArray | None]:
        """The detections of the frames that this message settles, and what the tubes grow by.

        Raises AmmaError if the message does not fit together.
        """
        tubelets = conversions.message_to_tubelets(message)
        # Tubelets bring their labels along, so that a new model never meets an old list.
        self._labels |= {tubelet.class_id: tubelet.label for tubelet in message.tubelets}
        if self.classes:
            wanted = np.array([tubelet.label in self.classes for tubelet in message.tubelets], bool)
            tubelets = replace(
                tubelets,
                labels=tubelets.labels[wanted],
                scores=tubelets.scores[wanted],
                boxes=tubelets.boxes[wanted],
            )
        self.linker.min_score = self._min_scores()
        step = LinkStep()
        if len(tubelets.frame_numbers):
            if tubelets.frame_numbers[-1] < self._newest_frame:  # another detector, or one that counts anew
                step = self.linker.finish()
            self._newest_frame = tubelets.frame_numbers[-1]
        ended, step = step.tubes, self.linker.update(tubelets)
        tubes = ended + step.tubes

        frame_id = message.header.frame_id
        frames = [conversions.detections_to_message(frame, self._labels, frame_id) for frame in step.frames]
        if not tubes and not message.key_numbers:
            return frames, None
        if message.key_numbers:  # announcements do not tell it
            self._image_size = message.image_width, message.image_height
        array = conversions.tubes_to_message(tubes, self._labels, message.header)
        array.image_width, array.image_height = self._image_size
        self._remember_boxes(tubes, array)
        return frames, array

    def _min_scores(self) -> float | np.ndarray:
        if not self.class_min_scores:
            return self.min_score
        scores = np.full(1 + max(self._labels, default=0), self.min_score)
        for number, label in self._labels.items():
            scores[number] = self.class_min_scores.get(label, self.min_score)
        return scores

    def _remember_boxes(self, tubes: list[Tube], message: ActionTubeArray) -> None:
        """A tube that ends brings no new box: its last message repeats the newest one."""
        for tube, out in zip(tubes, message.tubes, strict=True):
            if len(tube):
                self._newest_boxes[tube.id] = tube.boxes[-1]
            elif tube.id in self._newest_boxes:
                out.box = self._newest_boxes[tube.id]
            if tube.ended:
                self._newest_boxes.pop(tube.id, None)
