"""One camera's way through the detector node: its topics, the frames that wait, its stream."""

import time
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, Header

from amma_core.errors import AmmaError
from amma_core.streams import Stream
from amma_core.types import Tubelets
from amma_ros import conversions
from amma_ros.handover import Frame, FrameQueue
from amma_ros.meter import Meter, latency_ms, percentiles, status
from amma_ros.msg import TubeletArray
from amma_ros.naming import below
from amma_ros.node import Settings
from amma_ros.qos import publisher_events, subscriber_events

SETTLING = 0.2
"""Seconds without an image after which the stream of a publisher that has left is over."""
HOLES = 0.1
"""Share of images lost on the way from which on a warning is due."""
BURST = 0.1
"""Gaps so much shorter than the mean are no camera's period: its images are stamped in bursts."""
QUIET = 30.0
"""Seconds between two lines of the same kind in the log."""
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


class Camera:
    """Topics are ``image`` and ``tubelets``, below the camera's name if it has one.

    The first half of the methods is for the thread of ROS calls, the second half for that of inference.
    """

    def __init__(self, node: Node, settings: Settings, name: str):
        self.node, self.settings, self.name = node, settings, name
        self.queue: FrameQueue | None = None
        self.meter = Meter()
        self._subscription = self._ending = None
        self._said: dict[str, float] = {}
        qos = settings.qos("tubelets")
        topic = below(self.name, "tubelets")
        events = publisher_events(node, topic, "tubelets", qos, self._on_listeners)
        self.publisher = node.create_publisher(TubeletArray, topic, qos, event_callbacks=events)
        self._debug = {
            what: node.create_publisher(Float64, f"~/{below(name, 'debug')}/{what}_ms", 10)
            for what in ("latency", "processing")
        }

    # The thread of ROS calls

    def close(self) -> None:
        for publisher in (self.publisher, *self._debug.values()):
            self.node.destroy_publisher(publisher)

    def start(self, queue: FrameQueue) -> None:
        self.queue = queue
        self.meter = Meter()
        self._skipped = self._failed = self._cuts = 0
        self._cut = ""
        self._silent = False
        self._stamps: list[int] = []
        self._last_image = time.monotonic()
        if not self.settings["lazy"] or self.publisher.get_subscription_count():
            self._subscribe()

    def stop(self) -> None:
        """Take no more images. The queue goes on until inference has ended."""
        self._unsubscribe()

    def forget_queue(self) -> None:
        if self.queue is None:
            return
        waiting = self.frames_skipped - self._skipped
        if waiting:
            self.node.get_logger().info(f"{waiting} images of {below(self.name, 'image')} were not looked at")
        self.queue = None

    def _subscribe(self) -> None:
        compressed = self.settings["image_transport"] == "compressed"
        topic = below(self.name, "image")
        # The transport's topic lies below wherever the image's name leads
        topic = self.node.resolve_topic_name(topic) + "/compressed" if compressed else topic
        qos = self.settings.qos("image")
        self._subscription = self.node.create_subscription(
            CompressedImage if compressed else Image,
            topic,
            self._on_image,
            qos,
            event_callbacks=subscriber_events(self.node, topic, "image", qos, self._on_publishers),
        )
        self._last_image = time.monotonic()

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self.node.destroy_subscription(self._subscription)
            self._subscription = None
            self.queue.call(self.end_stream)
        self._forget_ending()

    def _on_image(self, message: Image | CompressedImage) -> None:
        self.meter.count("received")
        self._last_image, self._silent = time.monotonic(), False
        stamp = conversions.to_nanoseconds(message.header.stamp)
        self._stamps.append(stamp)
        if stamp == 0:
            self._warn(
                "stamp",
                f"images of {below(self.name, 'image')} have no stamp: nothing can be told of their time",
            )
        if self.queue is not None:
            self.queue.put(message)
        if self._ending is not None:
            self._ending.reset()

    def _on_listeners(self, event) -> None:
        """With the parameter lazy: look at images only while somebody wants to know."""
        if self.queue is None or not self.settings["lazy"]:
            return
        if event.current_count and self._subscription is None:
            self._subscribe()
        elif not event.current_count:
            self._unsubscribe()

    def _on_publishers(self, event) -> None:
        """When the last publisher of images leaves, the stream ends as soon as its images have been read."""
        self._forget_ending()
        if event.current_count == 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._ending = self.node.create_timer(SETTLING, self._on_ending, clock=steady)

    def _on_ending(self) -> None:
        self._forget_ending()
        if self.queue is not None:
            self.queue.call(lambda: self.end_stream("the images' last publisher has left"))

    def _forget_ending(self) -> None:
        if self._ending is not None:
            self.node.destroy_timer(self._ending)
            self._ending = None

    def report(self, model: str) -> DiagnosticStatus:
        """How it goes since the last report; warns in the log where something is wrong with the images."""
        rates, values = self.meter.report()
        skipped, self._skipped = self.frames_skipped - self._skipped, self.frames_skipped
        failed, self._failed = self.meter.totals["failed"] - self._failed, self.meter.totals["failed"]
        cuts, self._cuts = self.meter.totals["cuts"] - self._cuts, self.meter.totals["cuts"]
        faults = [
            self._silence(),
            self._holes(),
            self._pieces(cuts),
            f"{skipped} frames skipped: too slow" if skipped else "",
            f"looking at images failed {failed} times; the log says why" if failed else "",
            "images that cannot be read; the log says why" if rates.get("bad") else "",
        ]
        return status(
            f"{self.node.get_fully_qualified_name()}: {self.name or 'camera'}",
            model,
            "; ".join(filter(None, faults)),
            {
                "input rate [Hz]": rates.get("received", 0.0),
                "output rate [Hz]": rates.get("answered", 0.0),
                **percentiles("processing time [ms]", values.get("processing")),
                **percentiles("latency [ms]", values.get("latency")),
                "frames received": self.meter.totals["received"],
                "frames answered": self.meter.totals["answered"],
                "frames skipped": self.frames_skipped,
                "streams begun": self.meter.totals["streams"],
                "bad images": self.meter.totals["bad"],
                "failures": self.meter.totals["failed"],
                "images waiting": len(self.queue),
            },
        )

    @property
    def frames_skipped(self) -> int:
        return self.queue.skipped + self.meter.totals["torn"]

    def _silence(self) -> str:
        patience = self.settings["image_timeout"]
        silent = time.monotonic() - self._last_image
        if self._subscription is None or not 0 < patience < silent:
            return ""
        if not self._silent:
            # A camera that hangs does not leave, and who was seen shall not stay for ever.
            self._silent = True
            self.queue.call(lambda: self.end_stream(f"no image for {silent:.0f} s"))
        topic = self._subscription.topic_name
        others = sorted(
            f"{name} ({kind.rpartition('/')[2]})"
            for name, kinds in self.node.get_topic_names_and_types()
            for kind in kinds
            if kind in IMAGE_TYPES
            and name != topic
            and not name.endswith("/annotated_image")
            and self.node.count_publishers(name)
        )
        text = f"no image on {topic} for {silent:.0f} s"
        if not self.node.count_publishers(topic):
            text += "; nobody publishes it"
        hint = f"images are on {', '.join(others)}" if others else "no topic has images"
        self._warn("silence", f"{text}; {hint}")
        return text

    def _holes(self) -> str:
        """Images that got lost on the way, by the holes that they leave in the stamps."""
        stamps, self._stamps = np.array(self._stamps, np.int64), self._stamps[-1:]
        gaps = np.diff(stamps)
        gaps = gaps[(gaps > 0) & (gaps < self.settings["max_gap"] * 1e9)]
        if len(gaps) < 5:
            return ""
        # Where many get lost, most gaps are holes; three quarters of a period may be the camera's jitter.
        period = np.percentile(gaps, 20)
        lost = (np.rint(gaps / period - 0.25) - 1).clip(0).sum()
        if lost < HOLES * len(gaps) or period < BURST * gaps.mean():
            return ""
        text = f"{lost:.0f} of {len(gaps) + lost:.0f} images got lost on the way"
        self._warn(
            "holes",
            f"{text} ({below(self.name, 'image')}): large images do not fit the middleware's defaults; see "
            "docs/middleware.md",
        )
        return text

    def _pieces(self, cuts: int) -> str:
        """A stream that is cut again and again, in whose pieces nobody can be followed."""
        if self._subscription is None or cuts < 2:
            return ""
        topic = self._subscription.topic_name
        text = f"the stream of {topic} was cut {cuts} times, last: {self._cut}"
        publishers = self.node.count_publishers(topic)
        if publishers > 1:
            text += f"; {publishers} publishers send it: leave one"
        self._warn("cuts", text)
        return text

    def _warn(self, kind: str, text: str) -> None:
        if self._may_say(kind):
            self.node.get_logger().warning(text)

    def _may_say(self, kind: str) -> bool:
        """Whether it is not too soon to say something of this kind again; each camera for itself."""
        now = time.monotonic()
        if now - self._said.get(kind, -QUIET) < QUIET:
            return False
        self._said[kind] = now
        return True

    # The thread of inference

    def begin(self, stream: Stream, labels: tuple[str, ...], run: Callable[[list["Camera"]], None]) -> None:
        """Go on with this stream, which is new; `run` carries out what waits in cameras' streams."""
        self.stream, self.labels, self._run = stream, labels, run
        self._kind: tuple | None = None
        self._begun: int | None = None  # number of the newest stream
        self._header = Header()
        self._announcement: Header | None = None

    def take(self, frame: Frame) -> None:
        """Cut a frame into the stream; afterwards the stream may wait for the network."""
        before = self.stream.number
        if frame.message is None:
            torn = self.stream.frames_torn
            self.stream.skip(conversions.to_nanoseconds(frame.header.stamp))
            self.meter.count("torn", self.stream.frames_torn - torn)
            answered = False
        else:
            try:
                image = conversions.image_to_bgr(frame.message)
            except AmmaError as error:
                self.meter.count("bad")
                self._warn("bad", f"{error} (left out, {self.meter.totals['bad']} so far)")
                return
            kind = (frame.header.frame_id, getattr(frame.message, "encoding", "compressed"))
            if self._kind not in (None, kind):
                self._count_cut(f"{self._kind} became {kind} (frame_id, encoding)")
                self.end_stream()
                before = self.stream.number
            self._kind = kind
            answered = self.stream.add(image, conversions.to_nanoseconds(frame.header.stamp))
        if self.stream.number != before:
            self._count_cut(self.stream.cut)
        if self.stream.number != self._begun:
            self._begun = self.stream.number
            self.meter.count("streams")
        self.queue.expect(self.stream.lacking, self.stream.span)
        self._header = frame.header
        if self.settings["causal"] and not answered:
            self._announcement = frame.header
        if not self.stream.waiting:
            self.settle()

    def _count_cut(self, why: str) -> None:
        self._cut = why
        self.meter.count("cuts")
        if self._may_say("cut"):
            self.node.get_logger().info(f"a new stream: {why}")

    def end_stream(self, why: str = "") -> None:
        """Answer what is left of the stream, and say that its tubes are over; `why` is for the log."""
        if self._kind is None:
            return
        if why:
            self.node.get_logger().info(f"the stream is over: {why}")
        self.stream.flush()
        while self.stream.waiting:
            self._run([self])
        header = Header(stamp=self._header.stamp, frame_id=self._kind[0])
        self.publisher.publish(TubeletArray(header=header, stream=self.stream.number))
        self._kind = None

    def fail(self, error: str) -> None:
        """The images at hand could not be looked at; with the next one a new stream begins."""
        self.meter.count("failed")
        self._warn("failed", f"looking at images of {below(self.name, 'image')} failed:\n{error}")
        self.stream.reset()

    def publish(self, tubelets: Tubelets, processing_ms: float) -> None:
        message = conversions.tubelets_to_message(tubelets, self.labels, self._kind[0])
        self.publisher.publish(message)
        self.meter.count("answered", len(tubelets.frame_numbers))
        latency = latency_ms(self.node.get_clock().now().nanoseconds, int(tubelets.key_stamps[-1]))
        for name, value in (("latency", latency), ("processing", processing_ms)):
            if value is not None:
                self.meter.measure(name, value)
                self._debug[name].publish(Float64(data=value))

    def settle(self) -> None:
        """Once nothing waits: say that the newest frame has arrived, if it has had no answer."""
        if self._announcement is not None:
            number, stream = self.stream.frames_seen, self.stream.number
            self.publisher.publish(conversions.announcement(number, self._announcement, stream))
            self._announcement = None
