"""The linker as a node: tubelets in, detections per camera frame and action tubes out."""

import sys

from diagnostic_msgs.msg import DiagnosticStatus
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core.errors import AmmaError
from amma_ros import conversions, parameters
from amma_ros.meter import Meter, latency_ms, memory, no_publisher, percentiles, status
from amma_ros.msg import ActionTubeArray, TubeletArray
from amma_ros.naming import below
from amma_ros.node import LATCHED, ManagedNode, camera_names, run
from amma_ros.qos import publisher_events, subscriber_events
from amma_ros.results import Results, check_classes


class LinkerNode(ManagedNode):
    """Publishes one Detection2DArray per camera frame, under its own header, and what the tubes grow by."""

    def __init__(self, **options):
        super().__init__("linker", parameters.LINKER, **options)

    def prepare(self) -> None:
        self._channels: list[Channel] = []
        self._label_subscription = None
        self._label_names: list[str] = []
        self.next_ids: dict[str, int] = {}
        """By camera: the id of its next tube, for ids are never used again."""
        self.check({name: self.settings[name] for name in ("classes", "class_min_scores")})

    def open(self) -> None:
        self._channels = [Channel(self, name) for name in camera_names(self.settings)]
        # The detector says which labels its model has: no second `model` parameter that could differ.
        self._label_subscription = self.create_subscription(
            LabelInfo, "model_labels", self._on_labels, LATCHED
        )

    def close(self) -> None:
        for channel in self._channels:
            channel.close()
        self._channels = []
        if self._label_subscription is not None:
            self.destroy_subscription(self._label_subscription)
            self._label_subscription = None

    def start(self) -> None:
        for channel in self._channels:
            channel.start()

    def stop(self) -> None:
        for channel in self._channels:
            channel.stop()

    def check(self, values: dict) -> None:
        if "cameras" in values:
            camera_names(values)
        check_classes(values, self._label_names)

    def apply(self, values: dict) -> None:
        for channel in self._channels:
            if channel.results is not None:
                channel.results.change(self.settings)
        if "min_score" in values:
            self._publish_labels()

    def diagnose(self) -> list[DiagnosticStatus]:
        fault = "" if self.active else "not active"
        node = status(self.get_fully_qualified_name(), "", fault, memory())
        return [node, *(channel.report() for channel in self._channels if self.active)]

    def _on_labels(self, message: LabelInfo) -> None:
        self._label_names = [label.class_name for label in message.class_map]
        try:
            self.check({name: self.settings[name] for name in ("classes", "class_min_scores")})
        except AmmaError as error:
            self.get_logger().warning(str(error))
        self._publish_labels()

    def _publish_labels(self) -> None:
        if self._label_names:
            now = self.get_clock().now().to_msg()
            info = conversions.label_info(self._label_names, self.settings["min_score"], now)
            for channel in self._channels:
                channel.label_info.publish(info)


class Channel:
    """One camera's tubelets and what comes of them; topics lie below its name if it has one."""

    def __init__(self, node: LinkerNode, name: str):
        self.node, self.name = node, name
        self.results: Results | None = None
        self._meter = Meter()
        self._subscription = None
        self._detections = self._create_publisher(Detection2DArray, "detections")
        self._tubes = self._create_publisher(ActionTubeArray, "action_tubes")
        self.label_info = node.create_publisher(LabelInfo, below(self.name, "label_info"), LATCHED)

    def _create_publisher(self, kind: type, word: str):
        topic, qos = below(self.name, word), self.node.settings.qos(word)
        events = publisher_events(self.node, topic, word, qos, self._on_listeners)
        return self.node.create_publisher(kind, topic, qos, event_callbacks=events)

    def close(self) -> None:
        for publisher in (self._detections, self._tubes, self.label_info):
            self.node.destroy_publisher(publisher)

    def start(self) -> None:
        self.results = Results(self.node.settings, self.node.next_ids.get(self.name, 1))
        self._meter = Meter()
        if not self.node.settings["lazy"] or self._count_listeners():
            self._subscribe()

    def stop(self) -> None:
        self._unsubscribe()
        if self.results is not None:
            ended = self.results.finish()
            if ended is not None and self.node.context.ok():
                self._tubes.publish(ended)
            self.node.next_ids[self.name] = self.results.linker.next_id
            self.results = None

    def report(self) -> DiagnosticStatus:
        rates, values = self._meter.report()
        faults = [
            "messages of tubelets left out; the log says why" if rates.get("bad") else "",
            no_publisher(self.node, self._subscription.topic_name, "detector") if self._subscription else "",
        ]
        return status(
            f"{self.node.get_fully_qualified_name()}: {self.name or 'camera'}",
            "",
            "; ".join(filter(None, faults)),
            {
                "output rate [Hz]": rates.get("frames", 0.0),
                "frames published": self._meter.totals["frames"],
                "bad messages": self._meter.totals["bad"],
                **percentiles("latency [ms]", values.get("latency")),
            },
        )

    def _subscribe(self) -> None:
        topic, qos = below(self.name, "tubelets"), self.node.settings.qos("tubelets")
        events = subscriber_events(self.node, topic, "tubelets", qos)
        self._subscription = self.node.create_subscription(
            TubeletArray, topic, self._on_tubelets, qos, event_callbacks=events
        )

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_listeners(self, event) -> None:
        """With the parameter lazy: work only while somebody wants to know."""
        if self.results is None or not self.node.settings["lazy"]:
            return
        if self._count_listeners() and self._subscription is None:
            self._subscribe()
        elif not self._count_listeners():
            self._unsubscribe()

    def _count_listeners(self) -> int:
        return self._detections.get_subscription_count() + self._tubes.get_subscription_count()

    def _on_tubelets(self, message: TubeletArray) -> None:
        try:
            frames, tubes = self.results.update(message)
        except AmmaError as error:
            self._meter.count("bad")
            self.node.get_logger().warning(f"{error} (message left out)", throttle_duration_sec=30.0)
            return
        for frame in frames:
            self._detections.publish(frame)
        if tubes is not None:
            self._tubes.publish(tubes)
        now = self.node.get_clock().now().nanoseconds
        self._meter.count("frames", len(frames))
        for frame in frames:
            latency = latency_ms(now, conversions.to_nanoseconds(frame.header.stamp))
            if latency is not None:
                self._meter.measure("latency", latency)


def main() -> int:
    return run(LinkerNode)


if __name__ == "__main__":
    sys.exit(main())
