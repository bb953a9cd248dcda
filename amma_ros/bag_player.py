"""Plays a recording where there is no rosbag2: its messages, as they are, on their topics."""

import math
import struct
import sys
import time
from threading import Thread

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from rosgraph_msgs.msg import Clock

from amma_core.errors import AmmaError
from amma_ros import conversions, parameters
from amma_ros.bag_reader import IMAGES, BagReader, Topic
from amma_ros.from_yaml import interface
from amma_ros.node import Settings, run
from amma_ros.pacing import PATIENCE, Pacing, Stopped

DEPTH = 10
"""Messages of a topic that may wait for subscribers to take them; then playing waits."""
CLOCK = "/clock"
LATE = 0.5
"""Seconds behind the recording's clock that are worth a warning."""


class BagPlayer(Node):
    """Publishes every message of the recording, in the order of reception, and ends with it.

    The topics are reliable, so that nothing gets lost on the way to those who ask for that: where a
    subscriber does not keep up, playing waits. The future ``done`` tells the end, or what went wrong.
    """

    def __init__(self, **options):
        super().__init__("bag_player", **options)
        self.settings = Settings(self, parameters.BAG_PLAYER)
        self.done = Future()
        if not self.settings["bag"]:
            raise AmmaError("bag_player: the parameter bag is empty; give a recording's folder or file")
        self._bag = BagReader(self.settings["bag"])
        self._players = {topic.name: self._offer(topic) for topic in self._choose_topics()}
        self._images = [name for name in self._players if self._bag.topics[name].type in IMAGES]
        self._time = self.create_publisher(Clock, CLOCK, 10) if self.settings["clock"] else None
        self._told = -math.inf
        """What /clock said last, in nanoseconds of the recording."""
        self._waiting = dict.fromkeys(self._players, 0)
        if self.settings["pace"] == "consumed" and len(self._images) != 1:
            raise AmmaError(
                "bag_player: with pace consumed, one topic of images must be played, but there are "
                f"{len(self._images)} {self._images}; choose with the parameter topics"
            )
        self._pacing = Pacing(self, self.settings)
        self._thread = Thread(target=self._run, name="bag", daemon=True)
        self._thread.start()

    def destroy_node(self) -> None:
        self._pacing.stop()
        self._thread.join()
        self._bag.close()
        super().destroy_node()

    def _choose_topics(self) -> list[Topic]:
        """Those that the parameter names, or all whose type is there; one clock at most."""
        known = self._bag.topics
        wanted = [name for name in self.settings["topics"] if name]
        strange = next((name for name in wanted if name not in known), None)
        if strange:
            raise AmmaError(f"{self._bag.path} has no topic {strange}; it has {', '.join(known)}")
        own_clock = self.settings["clock"] > 0
        if own_clock and CLOCK in wanted:
            raise AmmaError(f"bag_player: topics names {CLOCK}: set clock to 0, or leave the topic out")
        chosen = []
        for topic in [known[name] for name in wanted] or known.values():
            if own_clock and topic.name == CLOCK:
                self.get_logger().info(f"{CLOCK} is left out: this node publishes its own (parameter clock)")
                continue
            try:
                interface(topic.type, "msg")
                chosen.append(topic)
            except AmmaError as error:
                if wanted:
                    raise
                self.get_logger().warning(f"{topic.name} is left out: {error}")
        if not chosen:
            raise AmmaError(f"{self._bag.path}: the messages of none of its topics are installed")
        return chosen

    def _offer(self, topic: Topic) -> Publisher:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
        return self.create_publisher(
            interface(topic.type, "msg"), topic.name, QoSProfile(depth=DEPTH, durability=durability)
        )

    def _run(self) -> None:
        try:
            watched = [self._players[name] for name in self._images or self._players]
            # Of all images in a recording, depths and compressed ones too, few have listeners.
            all_chosen = any(self.settings["topics"]) or not self._images
            self._pacing.wait_for_listeners(watched, all if all_chosen else any)
            played = late = 0
            while True:
                count, worst = self._play()
                played, late = played + count, max(late, worst)
                if not self.settings["loop"] or self._bag.fault:
                    break
            for name in self._players:
                self._wait_until_taken(name)
            if self._bag.fault:
                raise AmmaError(f"{self._bag.fault}; {played} messages lie before that and were played")
            self.get_logger().info(f"{played} messages played, {late:.2f} s late at most")
            self.done.set_result(None)
        except Stopped:
            pass
        except Exception as error:
            self.done.set_exception(error)

    def _play(self) -> tuple[int, float]:
        """The recording once; returns the number of messages and by how many seconds the latest was late."""
        begin, first, late, played = time.monotonic(), None, 0.0, 0
        for message in self._bag.messages(set(self._players)):
            first = message.time if first is None else first
            if not self._pacing.consumed:
                late = max(late, self._sleep(begin, first, message.time))
                if late > LATE:
                    self.get_logger().warning(
                        f"messages are up to {late:.1f} s late: playing is slower than asked for",
                        throttle_duration_sec=PATIENCE,
                    )
            else:
                self._tell_time(message.time)
                if message.topic in self._images:
                    self._pacing.wait_for_room(_stamp(message.data))
            self._publish(message.topic, message.data)
            played += 1
        if played:
            self._tell_time(message.time, at_once=True)
        return played, late

    def _sleep(self, begin: float, first: int, until: int) -> float:
        """Until this time of the recording; /clock goes on meanwhile. Returns the seconds it was late."""
        rate = self.settings["rate"]
        due = begin + (until - first) / 1e9 / rate
        tick = 1 / self.settings["clock"] if self._time else math.inf
        while (left := due - time.monotonic()) > 0:
            self._tell_time(until - int(left * 1e9 * rate))
            self._pacing.sleep(min(left, tick))
        self._tell_time(until)
        return -left

    def _tell_time(self, nanoseconds: int, at_once: bool = False) -> None:
        """As often as `clock` says. The time jumps back where the recording starts again."""
        if self._time is None:
            return
        tick = int(1e9 * self.settings["rate"] / self.settings["clock"])
        if at_once or not 0 <= nanoseconds - self._told < tick:
            self._time.publish(Clock(clock=conversions.to_stamp(nanoseconds)))
            self._told = nanoseconds

    def _publish(self, name: str, data: bytes) -> None:
        self._pacing.sleep(0)
        if self._waiting[name] == DEPTH:
            self._wait_until_taken(name)
        self._players[name].publish(data)
        self._waiting[name] += 1

    def _wait_until_taken(self, name: str) -> None:
        def taken() -> bool:
            return self._players[name].wait_for_all_acked(Duration(seconds=0.05))

        self._pacing.wait(taken, lambda: f"a subscriber of {name} does not take its messages")
        self._waiting[name] = 0


def _stamp(data: bytes) -> int:
    """Of a serialised message that begins with a header."""
    seconds, rest = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return conversions.to_nanoseconds(Time(sec=seconds, nanosec=rest))


def main() -> int:
    return run(BagPlayer)


if __name__ == "__main__":
    sys.exit(main())
