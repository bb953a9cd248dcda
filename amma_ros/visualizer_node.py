"""Shows what was found, while somebody looks: drawn onto the images, or as markers for viewers that draw."""

import sys

from geometry_msgs.msg import Point
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import ColorRGBA
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import ImageMarker

from amma_core.drawing import Annotator, colour
from amma_core.errors import AmmaError
from amma_ros import conversions, parameters
from amma_ros.node import Settings, run
from amma_ros.qos import publisher_events, subscriber_events

DETECTIONS_KEPT = 1000


class VisualizerNode(Node):
    """Publishes ``annotated_image``, each image whose detections are known, with the image's own header, and
    ``image_markers``, the boxes alone."""

    def __init__(self, **options):
        super().__init__("visualizer", **options)
        self.settings = Settings(self, parameters.VISUALIZER, check=_check, apply=self._apply)
        _check({"caption": self.settings["caption"]})
        self._image_subscription = self._detection_subscription = None
        self._annotator = self._make_annotator()
        self._images: dict[int, Image | CompressedImage] = {}
        self._detections: dict[int, Detection2DArray] = {}
        qos = self.settings.qos("annotated_image")
        events = publisher_events(self, "annotated_image", "annotated_image", qos, self._on_listeners)
        self._pictures = self.create_publisher(Image, "annotated_image", qos, event_callbacks=events)
        events = publisher_events(self, "image_markers", "annotated_image", qos, self._on_listeners)
        self._markers = self.create_publisher(ImageMarker, "image_markers", qos, event_callbacks=events)

    def _apply(self, values: dict) -> None:
        if {"trail", "caption"} & set(values):
            self._annotator = self._make_annotator()

    def _make_annotator(self) -> Annotator:
        return Annotator(trail=self.settings["trail"], caption=self.settings["caption"])

    def _on_listeners(self, event) -> None:
        """Subscribe to what those who look need."""
        pictures = self._pictures.get_subscription_count() > 0
        detections = pictures or self._markers.get_subscription_count() > 0
        if pictures and self._image_subscription is None:
            self._annotator = self._make_annotator()
            self._image_subscription = self._subscribe_images()
        if detections and self._detection_subscription is None:
            qos = self.settings.qos("detections")
            self._detection_subscription = self.create_subscription(
                Detection2DArray,
                "detections",
                self._on_detections,
                qos,
                event_callbacks=subscriber_events(self, "detections", "detections", qos),
            )
        if not pictures and self._image_subscription is not None:
            self.destroy_subscription(self._image_subscription)
            self._image_subscription = None
            self._images, self._detections = {}, {}
        if not detections and self._detection_subscription is not None:
            self.destroy_subscription(self._detection_subscription)
            self._detection_subscription = None

    def _subscribe_images(self):
        compressed = self.settings["image_transport"] == "compressed"
        topic = self.resolve_topic_name("image") + "/compressed" if compressed else "image"
        qos = self.settings.qos("image")
        return self.create_subscription(
            CompressedImage if compressed else Image,
            topic,
            lambda message: self._match(message, self._images, self.settings["max_waiting"]),
            qos,
            event_callbacks=subscriber_events(self, topic, "image", qos),
        )

    def _on_detections(self, message: Detection2DArray) -> None:
        if self._markers.get_subscription_count():
            self._markers.publish(self._mark(message))
        if self._image_subscription is not None:
            self._match(message, self._detections, DETECTIONS_KEPT)

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
            self.get_logger().warning(f"{error} (image left out)", throttle_duration_sec=30.0)
            return
        boxes, labels, scores, tubes = conversions.detections_from_message(
            detections, self.settings["min_drawn_score"]
        )
        annotated = self._annotator.draw(image, boxes, labels, scores, tubes)
        self._pictures.publish(conversions.bgr_to_image(annotated, message.header))

    def _mark(self, message: Detection2DArray) -> ImageMarker:
        """All boxes as the lines of one marker, which takes the place of the frame's before."""
        boxes, _, _, tubes = conversions.detections_from_message(message, self.settings["min_drawn_score"])
        marker = ImageMarker(
            header=message.header, ns="actions", type=ImageMarker.LINE_LIST, action=ImageMarker.ADD, scale=3.0
        )
        for (x1, y1, x2, y2), tube in zip(boxes.tolist(), tubes, strict=True):
            corners = [Point(x=x, y=y) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
            for side in range(4):
                marker.points += [corners[side], corners[(side + 1) % 4]]
            blue, green, red = (value / 255 for value in colour(tube))
            marker.outline_colors += [ColorRGBA(r=red, g=green, b=blue, a=1.0)] * 4
        return marker


def _check(values: dict) -> None:
    caption = values.get("caption", "")
    try:
        caption.format(label="fall", score=0.5, tube=1)
    except (LookupError, ValueError, AttributeError, TypeError):
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
