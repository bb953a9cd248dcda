"""From the detector's messages to those that users read; the linker node and ``amma bag`` share this."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from amma_core.errors import AmmaError
from amma_core.linker import TubeLinker
from amma_core.types import Tube, Tubelets
from amma_ros import conversions
from amma_ros.msg import ActionTube, ActionTubeArray, TubeletArray
from amma_ros.parameters import Value


class Results:
    """Links tubelets, message by message."""

    def __init__(self, settings: Mapping[str, Value], first_id: int = 1):
        """settings: the linker node's parameters by name; first_id: the first tube's."""
        self.linker = TubeLinker(
            nms_iou=settings["nms_iou"], top=settings["top_per_class"], link_iou=settings["link_iou"]
        )
        self.linker.next_id = first_id
        self.change(settings)
        self._labels: dict[int, str] = {}
        self._newest_frame = 0
        self._image_size = (0, 0)
        self._newest_boxes: dict[int, np.ndarray] = {}
        self._header = Header()

    def change(self, settings: Mapping[str, Value]) -> None:
        """Take over the parameters that may change at any time."""
        self.linker.causal = settings["causal"]
        self.linker.min_frames = settings["min_frames"]
        self.min_score = settings["min_score"]
        self.class_min_scores = read_scores(settings["class_min_scores"])
        self.classes = read_names(settings["classes"])

    def update(self, message: TubeletArray) -> tuple[list[Detection2DArray], ActionTubeArray | None]:
        """The detections of the frames that this message settles, and what the tubes grow by.

        Raises AmmaError if the message does not fit together.
        """
        tubelets = conversions.message_to_tubelets(message)
        # Tubelets bring their labels along, so that a new model never meets an old list.
        labels = {tubelet.class_id: tubelet.label for tubelet in message.tubelets}
        ended = self._end_others(tubelets, labels)
        self._labels |= labels
        if self.classes:
            wanted = np.array([tubelet.label in self.classes for tubelet in message.tubelets], bool)
            tubelets = replace(
                tubelets,
                labels=tubelets.labels[wanted],
                scores=tubelets.scores[wanted],
                boxes=tubelets.boxes[wanted],
            )
        self.linker.min_score = self._min_scores()
        step = self.linker.update(tubelets)
        frame_id = message.header.frame_id
        frames = [conversions.detections_to_message(frame, self._labels, frame_id) for frame in step.frames]
        self._header = message.header
        if message.key_numbers:  # announcements do not tell it
            self._image_size = message.image_width, message.image_height
        if not (ended or step.tubes or message.key_numbers):
            return frames, None
        tubes = self._tubes_to_message(step.tubes)
        tubes.tubes = ended + tubes.tubes
        return frames, tubes

    def _end_others(self, tubelets: Tubelets, labels: dict[int, str]) -> list[ActionTube]:
        """The end of all tubes, under their own labels, where these tubelets are of another detector than the
        last ones, or of one that counts anew or has another model."""
        if not len(tubelets.frame_numbers):
            return []
        before, self._newest_frame = self._newest_frame, tubelets.frame_numbers[-1]
        renamed = any(self._labels.get(number, label) != label for number, label in labels.items())
        if self._newest_frame >= before and not renamed:
            return []
        ended = self._tubes_to_message(self.linker.finish().tubes).tubes
        self._labels = {}
        return ended

    def finish(self) -> ActionTubeArray | None:
        """The end of all tubes, where nothing more is to come."""
        tubes = self.linker.finish().tubes
        return self._tubes_to_message(tubes) if tubes else None

    def _tubes_to_message(self, tubes: list[Tube]) -> ActionTubeArray:
        array = conversions.tubes_to_message(tubes, self._labels, self._header)
        array.image_width, array.image_height = self._image_size
        self._remember_boxes(tubes, array)
        return array

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


def check_classes(settings: Mapping[str, Value], labels: Sequence[str]) -> None:
    """Raises AmmaError where `classes` or `class_min_scores` name a class that the model lacks.

    labels: the model's, empty while they are not known.
    """
    named = {*read_names(settings.get("classes", [])), *read_scores(settings.get("class_min_scores", []))}
    strange = sorted(named - set(labels)) if labels else []
    if strange:
        raise AmmaError(f"there is no class '{strange[0]}'; the model knows {', '.join(labels)}")


def read_names(words: list[str]) -> set[str]:
    return {word for word in words if word}


def read_scores(words: list[str]) -> dict[str, float]:
    """["fall=0.4"] -> {"fall": 0.4}; raises AmmaError for what is not of this form."""
    scores = {}
    for word in filter(None, words):
        name, _, number = word.rpartition("=")
        try:
            scores[name.strip()] = float(number)
        except ValueError:
            scores[name.strip()] = -1.0
        if not name.strip() or not 0 <= scores[name.strip()] <= 1:
            raise AmmaError(f"class_min_scores has the entry '{word}', but must hold entries like fall=0.4")
    return scores
