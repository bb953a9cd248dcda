"""Draws what was found onto the images, while somebody looks."""

import sys

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from vision_msgs.msg import Detection2DArray

from amma_core.drawing import Annotator
from amma_core.errors import AmmaError
from amma_ros import conversions, parameters
from amma_ros.node import Settings, run

DETECTIONS_KEPT = 1000


class VisualizerNode(Node):
    """Publishes ``annotated_image``: each image whose detections are known, with the image's own header."""

    def __init__(self, **options):
        super().__init__("visualizer", **options)
        self.settings = Settings(self, parameters.VISUALIZER, check=_check, apply=self._apply)
        _check({"caption": self.settings["caption"]})
        self._subscriptions_made = []
        self._publisher = self.create_publisher(
            Image,
            "annotated_image",
            self.settings.qos("annotated_image"),
            event_callbacks=PublisherEventCallbacks(matched=self._on_listeners),
        )

    def _apply(self, values: dict) -> None:
        if self._subscriptions_made and {"trail", "caption"} & set(values):
            self._annotator = self._make_annotator()

    def _make_annotator(self) -> Annotator:
        return Annotator(trail=self.settings["trail"], caption=self.settings["caption"])

    def _on_listeners(self, status) -> None:
        if status.current_count and not self._subscriptions_made:
            self._subscribe()
        elif not status.current_count:
            self._unsubscribe()

    def _subscribe(self) -> None:
        self._annotator = self._make_annotator()
        self._images: dict[int, Image | CompressedImage] = {}
        self._detections: dict[int, Detection2DArray] = {}
        compressed = self.settings["image_transport"] == "compressed"
        self._subscriptions_made = [
            self.create_subscription(
                CompressedImage if compressed else Image,
                self.resolve_topic_name("image") + "/compressed" if compressed else "image",
                lambda message: self._match(message, self._images, self.settings["max_waiting"]),
                self.settings.qos("image"),
            ),
            self.create_subscription(
                Detection2DArray,
                "detections",
                lambda message: self._match(message, self._detections, DETECTIONS_KEPT),
                self.settings.qos("detections"),
            ),
        ]

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions_made:
            self.destroy_subscription(subscription)
        self._subscriptions_made = []
        self._images, self._detections = {}, {}

    def _match(self, message, waiting: dict, most: int) -> None:
        """Keep a message until its other half is there: the image and the detections of one stamp."""
        stamp = conversions.to_nanoseconds(message.header.stamp)
        waiting[stamp] = message
        if stamp in self._images and stamp in self._detections:
            image, detections = self._images[stamp], self._detections[stamp]
            _forget_until(stamp, self._images)
            _forget_until(stamp, self._detections)
            self._draw(image, detections)
        while len(waiting) > most:
            del waiting[next(iter(waiting))]

    def _draw(self, message: Image | CompressedImage, detections: Detection2DArray) -> None:
        try:
            image = conversions.image_to_bgr(message)
        except AmmaError as error:
            self.get_logger().warn(f"{error} (image left out)", throttle_duration_sec=30.0)
            return
        boxes, labels, scores, tubes = conversions.detections_from_message(
            detections, self.settings["min_drawn_score"]
        )
        annotated = self._annotator.draw(image, boxes, labels, scores, tubes)
        self._publisher.publish(conversions.bgr_to_image(annotated, message.header))


def _check(values: dict) -> None:
    caption = values.get("caption", "")
    try:
        caption.format(label="fall", score=0.5, tube=1)
    except (LookupError, ValueError, AttributeError):
        raise AmmaError(
            f"caption is '{caption}', but its fields must be of {{label}}, {{score}} and {{tube}}"
        ) from None


def _forget_until(stamp: int, waiting: dict) -> None:
    """Drop the message of this stamp and those that came before it: their other half will not come."""
    while (oldest := next(iter(waiting))) != stamp:
        del waiting[oldest]
    del waiting[stamp]


def main() -> int:
    return run(VisualizerNode)


if __name__ == "__main__":
    sys.exit(main())
