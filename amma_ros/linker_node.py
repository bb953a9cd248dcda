"""The linker as a node: tubelets in, detections per camera frame and action tubes out."""

import sys

from rclpy.event_handler import PublisherEventCallbacks
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core.errors import AmmaError
from amma_ros import conversions, parameters
from amma_ros.msg import ActionTubeArray, TubeletArray
from amma_ros.node import LATCHED, ManagedNode, run
from amma_ros.results import Results, read_names, read_scores


class LinkerNode(ManagedNode):
    """Publishes one Detection2DArray per camera frame, under its own header, and what the tubes grow by."""

    def __init__(self, **options):
        super().__init__("linker", parameters.LINKER, **options)

    def prepare(self) -> None:
        self._publishers = []
        self._label_subscription = self._subscription = self._results = None
        self._label_names: list[str] = []
        self.check({name: self.settings[name] for name in ("classes", "class_min_scores")})

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
        self._results = Results(self.settings)
        if not self.settings["lazy"] or self._count_listeners():
            self._subscribe()

    def stop(self) -> None:
        self._unsubscribe()
        self._results = None

    def check(self, values: dict) -> None:
        classes = [*read_names(values.get("classes", [])), *read_scores(values.get("class_min_scores", []))]
        strange = sorted(set(classes) - set(self._label_names)) if self._label_names else []
        if strange:
            known = ", ".join(self._label_names)
            raise AmmaError(f"there is no class '{strange[0]}'; the model knows {known}")

    def apply(self, values: dict) -> None:
        if self._results is not None:
            self._results.change(self.settings)
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
        try:
            self.check({name: self.settings[name] for name in ("classes", "class_min_scores")})
        except AmmaError as error:
            self.get_logger().warn(str(error))
        self._publish_labels()

    def _publish_labels(self) -> None:
        if self._label_names:
            now = self.get_clock().now().to_msg()
            self._label_info.publish(
                conversions.label_info(self._label_names, self.settings["min_score"], now)
            )

    def _on_tubelets(self, message: TubeletArray) -> None:
        try:
            frames, tubes = self._results.update(message)
        except AmmaError as error:
            self.get_logger().warn(f"{error} (message left out)", throttle_duration_sec=30.0)
            return
        for frame in frames:
            self._detections.publish(frame)
        if tubes is not None:
            self._tubes.publish(tubes)


def main() -> int:
    return run(LinkerNode)


if __name__ == "__main__":
    sys.exit(main())
