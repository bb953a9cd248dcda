"""A video, a folder of images or a camera as ``image``."""

import sys
import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Event, Thread

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from amma_core.errors import AmmaError
from amma_core.video import VideoReader
from amma_ros import conversions, parameters
from amma_ros.node import Settings, run

PAUSE_BETWEEN_ROUNDS = 2_000_000_000
"""Nanoseconds: longer than the detector's max_gap, so that no clip spans the cut."""
PATIENCE = 10.0
"""Seconds of waiting after which the log says for what."""


class VideoPublisher(Node):
    """Publishes every frame of a source once, with rising stamps, and ends with the source.

    The stamps are the time of the first frame plus the frame's time in the source; a camera's are the times
    at which the frames were read. The future ``done`` tells the end, or what went wrong.
    """

    def __init__(self, **options):
        super().__init__("video_publisher", **options)
        self.settings = Settings(self, parameters.VIDEO_PUBLISHER)
        self.done = Future()
        source = self.settings["source"]
        if not source:
            raise AmmaError(
                "video_publisher: the parameter source is empty; give a video, a folder of images or the "
                "number of a camera"
            )
        self._camera = source.isdigit()
        self._reader = VideoReader(source, self.settings["fps"] or None)
        self._publisher = self.create_publisher(Image, "image", self.settings.qos("image"))
        self._in_flight: deque[int] = deque()
        self._answer = Condition()
        self._answers = None
        if self.settings["pace"] == "consumed":
            self._answers = self.create_subscription(Detection2DArray, "detections", self._on_detections, 100)
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        self._stopped.set()
        self._thread.join()
        super().destroy_node()

    def _on_detections(self, message: Detection2DArray) -> None:
        stamp = conversions.to_nanoseconds(message.header.stamp)
        with self._answer:
            while self._in_flight and self._in_flight[0] <= stamp:
                self._in_flight.popleft()
            self._answer.notify()

    def _run(self) -> None:
        try:
            self._wait_for_listeners()
            self._publish_rounds()
            self._publisher.wait_for_all_acked(Duration(seconds=PATIENCE))
            self.done.set_result(None)
        except _Stopped:
            pass
        except Exception as error:
            self.done.set_exception(error)

    def _wait_for_listeners(self) -> None:
        wanted = self.settings["wait_for_subscribers"]
        if self._answers is not None:
            wanted = max(wanted, 1)

        def ready() -> bool:
            answering = self._answers is None or self._answers.get_publisher_count() > 0
            return answering and self._publisher.get_subscription_count() >= wanted

        self._wait(ready, f"waiting for {wanted} subscribers of {self._publisher.topic_name}")

    def _publish_rounds(self) -> None:
        begin = self.get_clock().now().nanoseconds
        while True:
            started = time.monotonic()
            for picture, offset in self._reader:
                if self._camera:
                    begin, offset = self.get_clock().now().nanoseconds, 0
                elif self._answers is None:
                    self._sleep(started + offset / 1e9 - time.monotonic())
                self._publish(picture, begin + offset)
            if not self.settings["loop"] or self._camera:
                return
            begin += offset + PAUSE_BETWEEN_ROUNDS
            if self._answers is None:
                self._sleep(PAUSE_BETWEEN_ROUNDS / 1e9)
            self._reader = VideoReader(self.settings["source"], self.settings["fps"] or None)

    def _publish(self, picture, stamp: int) -> None:
        self._sleep(0)
        header = Header(stamp=conversions.to_stamp(stamp), frame_id=self.settings["frame_id"])
        message = conversions.bgr_to_image(picture, header)
        if self._answers is not None:
            most = self.settings["max_in_flight"]
            self._wait(
                lambda: len(self._in_flight) < most,
                f"{most} frames are out and no detections come back; is max_in_flight at least a clip?",
            )
            with self._answer:
                self._in_flight.append(stamp)
        self._publisher.publish(message)

    def _wait(self, ready: Callable[[], bool], complaint: str) -> None:
        """Until `ready()`; the log says from time to time what keeps it waiting."""
        complain = time.monotonic() + PATIENCE
        with self._answer:
            while not self._answer.wait_for(ready, timeout=0.05):
                self._sleep(0)
                if time.monotonic() > complain:
                    complain += PATIENCE
                    self.get_logger().warning(complaint)

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(max(0.0, seconds)) or not self.context.ok():
            raise _Stopped


class _Stopped(Exception):
    """The node has been told to end before its source."""


def main() -> int:
    return run(VideoPublisher)


if __name__ == "__main__":
    sys.exit(main())
