"""The linker as a node: tubelets in, detections per camera frame and action tubes out."""

import sys

from rclpy.event_handler import PublisherEventCallbacks
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core.errors import AmmaError
from amma_core.linker import TubeLinker
from amma_ros import conversions, parameters
from amma_ros.msg import ActionTubeArray, TubeletArray
from amma_ros.node import LATCHED, ManagedNode, run


class LinkerNode(ManagedNode):
    """Publishes one Detection2DArray per camera frame, under its own header, and what the tubes grow by."""

    def __init__(self, **options):
        super().__init__("linker", parameters.LINKER, **options)

    def prepare(self) -> None:
        self._publishers = []
        self._label_subscription = self._subscription = self._linker = None

    def open(self) -> None:
        watch = PublisherEventCallbacks(matched=self._on_listeners)
        self._detections = self.create_publisher(
            Detection2DArray, "detections", self.settings.qos("detections"), event_callbacks=watch
        )
        self._tubes = self.create_publisher(
            ActionTubeArray, "action_tubes", self.settings.qos("action_tubes"), event_callbacks=watch
        )
        self._label_info = self.create_publisher(LabelInfo, "label_info", LATCHED)
        self._publishers = [self._detections, self._tubes, self._label_info]
        # The detector says which labels its model has: no second `model` parameter that could differ.
        self._label_names: list[str] = []
        self._label_subscription = self.create_subscription(
            LabelInfo, "model_labels", self._on_labels, LATCHED
        )

    def close(self) -> None:
        for publisher in self._publishers:
            self.destroy_publisher(publisher)
        self._publishers = []
        if self._label_subscription is not None:
            self.destroy_subscription(self._label_subscription)
            self._label_subscription = None

    def start(self) -> None:
        self._linker = TubeLinker(
            nms_iou=self.settings["nms_iou"],
            top=self.settings["top_per_class"],
            link_iou=self.settings["link_iou"],
        )
        self.apply({})
        self._labels: dict[int, str] = {}
        self._newest_frame = 0
        self._newest_boxes: dict[int, list[float]] = {}
        if not self.settings["lazy"] or self._count_listeners():
            self._subscribe()

    def stop(self) -> None:
        self._unsubscribe()
        self._linker = None

    def apply(self, values: dict) -> None:
        if self._linker is not None:
            self._linker.causal = self.settings["causal"]
            self._linker.min_score = self.settings["min_score"]
            self._linker.min_frames = self.settings["min_frames"]
        if "min_score" in values and self._publishers:
            self._publish_labels()

    def _subscribe(self) -> None:
        self._subscription = self.create_subscription(
            TubeletArray, "tubelets", self._on_tubelets, self.settings.qos("tubelets")
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_listeners(self, status) -> None:
        """With the parameter lazy: work only while somebody wants to know."""
        if not self.active or not self.settings["lazy"]:
            return
        if self._count_listeners() and self._subscription is None:
            self._subscribe()
        elif not self._count_listeners():
            self._unsubscribe()

    def _count_listeners(self) -> int:
        return self._detections.get_subscription_count() + self._tubes.get_subscription_count()

    def _on_labels(self, message: LabelInfo) -> None:
        self._label_names = [label.class_name for label in message.class_map]
        self._publish_labels()

    def _publish_labels(self) -> None:
        if self._label_names:
            now = self.get_clock().now().to_msg()
            self._label_info.publish(
                conversions.label_info(self._label_names, self.settings["min_score"], now)
            )

    def _on_tubelets(self, message: TubeletArray) -> None:
        try:
            detections, tubes = self._results.update(message)
        except AmmaError as error:
            self.get_logger().warn(f"{error} (message left out)", throttle_duration_sec=30.0)
            return
        for frame in detections:
            self._detections.publish(frame)
        if tubes is not None:
            self._tubes.publish(tubes)


def main() -> int:
    return run(LinkerNode)


if __name__ == "__main__":
    sys.exit(main())
