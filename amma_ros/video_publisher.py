"""A video, a folder of images or a camera as ``image``."""

import sys
import time
from threading import Thread

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from amma_core.errors import AmmaError
from amma_core.video import VideoReader, is_camera
from amma_ros import conversions, parameters
from amma_ros.node import Settings, run
from amma_ros.pacing import PATIENCE, Pacing, Stopped

PAUSE_BETWEEN_ROUNDS = 2_000_000_000
"""Nanoseconds: longer than the detector's max_gap, so that no clip spans the cut."""


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
        self._camera = is_camera(source)
        self._reader = VideoReader(source, self.settings["fps"] or None)
        self._publisher = self.create_publisher(Image, "image", self.settings.qos("image"))
        self._pacing = Pacing(self, self.settings)
        self._thread = Thread(target=self._run, name="video", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        self._pacing.stop()
        self._thread.join()
        super().destroy_node()

    def _run(self) -> None:
        try:
            self._pacing.wait_for_listeners([self._publisher])
            self._publish_rounds()
            self._publisher.wait_for_all_acked(Duration(seconds=PATIENCE))
            self.done.set_result(None)
        except Stopped:
            pass
        except Exception as error:
            self.done.set_exception(error)

    def _publish_rounds(self) -> None:
        begin = self.get_clock().now().nanoseconds
        while True:
            started = time.monotonic()
            for picture, offset in self._reader:
                if self._camera:
                    begin, offset = self.get_clock().now().nanoseconds, 0
                elif not self._pacing.consumed:
                    self._pacing.sleep(started + offset / 1e9 - time.monotonic())
                self._publish(picture, begin + offset)
            if not self.settings["loop"] or self._camera:
                return
            begin += offset + PAUSE_BETWEEN_ROUNDS
            if not self._pacing.consumed:
                self._pacing.sleep(PAUSE_BETWEEN_ROUNDS / 1e9)
            self._reader = VideoReader(self.settings["source"], self.settings["fps"] or None)

    def _publish(self, picture, stamp: int) -> None:
        self._pacing.sleep(0)
        header = Header(stamp=conversions.to_stamp(stamp), frame_id=self.settings["frame_id"])
        message = conversions.bgr_to_image(picture, header)
        self._pacing.wait_for_room(stamp)
        self._publisher.publish(message)


def main() -> int:
    return run(VideoPublisher)


if __name__ == "__main__":
    sys.exit(main())
