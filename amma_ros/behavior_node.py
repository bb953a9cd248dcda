"""Rules as a node: action tubes in, events and reactions out."""

import sys
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from vision_msgs.msg import LabelInfo

from amma_core.behavior import BehaviorEngine, Event, Rule, read_rules
from amma_core.errors import AmmaError
from amma_ros import conversions, parameters, reactions
from amma_ros.meter import no_publisher, status
from amma_ros.msg import ActionEvent, ActionTubeArray
from amma_ros.node import LATCHED, ManagedNode, run
from amma_ros.qos import publisher_events, subscriber_events
from amma_ros.reactions import Reaction

PERIOD = 1.0


class BehaviorNode(ManagedNode):
    """Publishes what begins and ends by the rules as ``action_events``, and does what the rules say then.

    Deactivating it does nothing to what has begun: a robot that was stopped stays so.
    """

    def __init__(self, **options):
        super().__init__("behavior", parameters.BEHAVIOR, **options)

    def prepare(self) -> None:
        self._rules: list[Rule] = []
        self._reactions: dict[str, list[Reaction]] = {}
        self._engine: BehaviorEngine | None = None
        self._events = self._subscription = self._label_subscription = self._timer = None
        self._counts: dict[str, int] = {}
        self._failed = 0
        """Reactions that had failed by the last report."""
        self._going_on: set[str] = set()

    def open(self) -> None:
        path = self.settings["rules_file"]
        if not path:
            raise AmmaError(
                "behavior: rules_file is empty: give the path of a file of rules (docs/behaviors.md)"
            )
        self._rules = read_rules(Path(path).expanduser())
        qos = self.settings.qos("action_events")
        watch = publisher_events(self, "action_events", "action_events", qos)
        self._events = self.create_publisher(ActionEvent, "action_events", qos, event_callbacks=watch)
        for rule in self._rules:
            self._reactions[rule.name] = []
            for entry in rule.do:
                self._reactions[rule.name].append(self._make(entry, f"{path}: rule '{rule.name}'"))
        self._label_subscription = self.create_subscription(LabelInfo, "label_info", self._on_labels, LATCHED)
        self._timer = self.create_timer(PERIOD, self._give_up, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def close(self) -> None:
        if self._events is not None:
            self.destroy_publisher(self._events)
        for rule_reactions in self._reactions.values():
            for reaction in rule_reactions:
                reaction.close()
        if self._label_subscription is not None:
            self.destroy_subscription(self._label_subscription)
        if self._timer is not None:
            self.destroy_timer(self._timer)
        self.prepare()

    def start(self) -> None:
        self._engine = BehaviorEngine(self._rules, self.settings["max_gap"])
        self._counts = {rule.name: 0 for rule in self._rules}
        self._going_on = set()
        qos = self.settings.qos("action_tubes")
        watch = subscriber_events(self, "action_tubes", "action_tubes", qos)
        self._subscription = self.create_subscription(
            ActionTubeArray, "action_tubes", self._on_tubes, qos, event_callbacks=watch
        )

    def stop(self) -> None:
        if self._subscription is not None:
            self.destroy_subscription(self._subscription)
            self._subscription = None
        self._engine = None

    def _make(self, entry: dict, where: str) -> Reaction:
        try:
            return reactions.make(self, entry)
        except AmmaError as error:
            raise AmmaError(f"{where}: {error}") from None

    def _on_tubes(self, message: ActionTubeArray) -> None:
        if (
            message.tubes
            and not message.image_width
            and any(rule.region != Rule.region for rule in self._rules)
        ):
            self.get_logger().warning(
                "action_tubes comes without the image's size, so nobody is inside a region: set image_width "
                "and image_height where it is published",
                throttle_duration_sec=30.0,
            )
        for event in self._engine.update(conversions.message_to_sightings(message)):
            self._announce(event, message.header.frame_id)
            for reaction in self._reactions[event.rule]:
                reaction.perform(event.begins)

    def _announce(self, event: Event, frame_id: str) -> None:
        self._events.publish(conversions.event_to_message(event, frame_id))
        if event.begins:
            self._counts[event.rule] += 1
            self._going_on.add(event.rule)
            who = f"{event.label} {event.score:.2f}, tube {event.tube}, {event.people} in all"
            self.get_logger().info(f"'{event.rule}' begins: {who}")
        else:
            self._going_on.discard(event.rule)
            self.get_logger().info(f"'{event.rule}' ends")

    def _on_labels(self, message: LabelInfo) -> None:
        known = {label.class_name for label in message.class_map}
        for rule in self._rules:
            strange = [label for label in rule.labels if label not in known]
            if strange:
                self.get_logger().warning(
                    f"rule '{rule.name}' waits for '{strange[0]}', which the model never reports; it knows "
                    f"{', '.join(sorted(known))}"
                )

    def _give_up(self) -> None:
        """Wait no longer for answers that do not come."""
        for several in self._reactions.values():
            for reaction in several:
                reaction.expire(time.monotonic())

    def diagnose(self) -> list[DiagnosticStatus]:
        values, failed = {}, 0
        for rule, count in self._counts.items():
            values[f"{rule}: events"] = f"{count}, going on" if rule in self._going_on else count
        for rule, several in self._reactions.items():
            for reaction in several:
                counts = reaction.counts
                failed += counts["failed"]
                values[f"{rule}: {reaction.name}"] = f"{counts['done']} done, {counts['failed']} failed"
        lately, self._failed = failed - self._failed, failed
        return [status(self.get_fully_qualified_name(), "", self._fault(lately), values)]

    def _fault(self, failed: int) -> str:
        if failed:
            return f"{failed} reactions failed"
        if not self.active:
            return "not active"
        return no_publisher(self, self._subscription.topic_name, "linker")


def main() -> int:
    return run(BehaviorNode)


if __name__ == "__main__":
    sys.exit(main())
