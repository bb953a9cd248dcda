"""What a source of images waits for: those who look at them, and their answers."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Condition, Event

from rclpy.node import Node
from rclpy.publisher import Publisher
from vision_msgs.msg import Detection2DArray

from amma_ros import conversions
from amma_ros.node import Settings

PATIENCE = 10.0
"""Seconds of waiting after which the log says for what."""


class Stopped(Exception):
    """The node has been told to end before its source."""


class Pacing:
    """Waiting of a publishing thread, which the node ends with :meth:`stop`.

    With the parameter `pace` at ``consumed``, the source keeps step with the topic ``detections``: at most
    `max_in_flight` images are out whose detections have not come back. Where none come at all, because a clip
    spans more images than that or they could not be read, some more are let out from time to time.
    """

    def __init__(self, node: Node, settings: Settings):
        self._node, self._settings = node, settings
        self._stopped = Event()
        self._in_flight: deque[int] = deque()
        self._more = 0
        """Images that may be out besides max_in_flight, as with that many nothing came back."""
        self._answer = Condition()
        self._answers = node.resolve_topic_name("detections")
        self.consumed = settings["pace"] == "consumed"
        if self.consumed:
            node.create_subscription(Detection2DArray, "detections", self._on_detections, 100)

    def stop(self) -> None:
        """From now on every wait raises Stopped."""
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)) or not self._node.context.ok():
            raise Stopped

    def wait(self, ready: Callable[[], bool], complaint: Callable[[], str]) -> None:
        """Until `ready()`; the log says from time to time what keeps it waiting."""
        complain = time.monotonic() + PATIENCE
        with self._answer:
            while not self._answer.wait_for(ready, timeout=0.05):
                self.sleep(0)
                if time.monotonic() > complain:
                    complain += PATIENCE
                    self._node.get_logger().warning(complaint())

    def wait_for_listeners(self, publishers: Sequence[Publisher], enough: Callable = all) -> None:
        """Until each has `wait_for_subscribers` (with `enough` any: one of them).

        Where answers are waited for, until there is somebody who looks and somebody who answers, too.
        """
        answered = self.consumed or self._settings["wait_for_answers"]
        wanted = max(self._settings["wait_for_subscribers"], int(answered))

        def ready() -> bool:
            answering = not answered or self._node.count_publishers(self._answers) > 0
            return answering and enough(topic.get_subscription_count() >= wanted for topic in publishers)

        def complaint() -> str:
            lacking = [topic.topic_name for topic in publishers if topic.get_subscription_count() < wanted]
            if not lacking:
                return f"waiting for a publisher of {self._answers}: is the linker running?"
            names = (" and of " if enough is all else " or of ").join(lacking)
            asked = ("wait_for_subscribers", "wait_for_answers", "pace")
            setting = next(name for name in asked if self._settings[name])
            return f"waiting for {wanted} subscriber{'s' * (wanted > 1)} of {names} (parameter {setting})"

        self.wait(ready, complaint)

    def wait_for_room(self, stamp: int) -> None:
        """Until one more image, of this stamp in nanoseconds, may go out; counts it as out."""
        if not self.consumed:
            return
        self.wait(lambda: len(self._in_flight) < self._most(), self._let_more_out)
        with self._answer:
            self._in_flight.append(stamp)

    def _most(self) -> int:
        return self._settings["max_in_flight"] + self._more

    def _let_more_out(self) -> str:
        most = self._most()
        self._more += max(1, most // 2)
        return (
            f"{most} images are out and no detections come back, so {self._most()} may be now: set "
            "max_in_flight to the images that a clip spans, or see whether the detector can read them"
        )

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = conversions.to_nanoseconds(message.header.stamp)
        with self._answer:
            if self._in_flight and stamp != self._in_flight[0]:
                self._more = 0  # those before it were lost, not waiting for more
            # By its own stamp: when a recording starts again they jump back.
            while stamp in self._in_flight:
                self._in_flight.popleft()
            self._answer.notify()
