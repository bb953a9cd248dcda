"""Rules on the real graph: tubes in over DDS, events out, and a robot's side that does as it is told."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from amma_ros.msg import ActionEvent, ActionTube, ActionTubeArray, Tubelet, TubeletArray
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, Twist
from lifecycle_msgs.msg import Transition
from rcl_interfaces.msg import Log
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from ros_graph import LABELS, Camera, Graph
from std_msgs.msg import Header, String
from std_srvs.srv import SetBool, Trigger
from test_lifecycle import RELIABLE, transit
from test_parameters import change
from vision_msgs.msg import LabelInfo, VisionClass

from amma_core.behavior import read_rules
from amma_core.errors import AmmaError
from amma_ros import behavior_node, conversions, reactions
from amma_ros.behavior_node import BehaviorNode
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.node import LATCHED

ROOT = Path(__file__).resolve().parents[2]
TENTH = 100_000_000
IMAGE = (200, 100)
BOX = (10, 10, 30, 50)


class Eyes:
    """Publishes what a linker would."""

    def __init__(self, graph):
        self.graph = graph
        self.publisher = graph.observer.create_publisher(ActionTubeArray, "action_tubes", 100)

    def see(self, tenths: int, *people, image_size=IMAGE, state=ActionTube.ACTIVE) -> None:
        """A person is (label, score), or with a box too; the n-th one has the tube n."""
        self.graph.wait(self.publisher.get_subscription_count, "a listener of action_tubes")
        header = Header(stamp=conversions.to_stamp(tenths * TENTH), frame_id="eye")
        people = [person if len(person) == 3 else (*person, BOX) for person in people]
        tubes = [
            ActionTube(
                header=header,
                id=str(number),
                state=state,
                label=label,
                score=score,
                box=np.array(box, np.float32),
            )
            for number, (label, score, box) in enumerate(people, 1)
        ]
        width, height = image_size
        message = ActionTubeArray(header=header, image_width=width, image_height=height, tubes=tubes)
        self.publisher.publish(message)

    def watch(self, tenths: range, *people, **options) -> None:
        for time in tenths:
            self.see(time, *people, **options)


@pytest.fixture
def eyes(graph) -> Eyes:
    return Eyes(graph)


@pytest.fixture
def robot(graph):
    """The robot's side, spun by a thread of its own."""
    robot = Graph(graph.namespace)
    yield robot
    robot.close()


@pytest.fixture
def start(graph, tmp_path):
    """Start the node with rules: {name: fields}, at once and without patience unless they say otherwise."""

    def start(rules: dict | str | Path, **parameters) -> BehaviorNode:
        if isinstance(rules, dict):
            prompt = {"labels": ["push"], "hold": 0.0, "gap": 0.0, "cooldown": 0.0}
            rules = yaml.safe_dump({"rules": {name: prompt | fields for name, fields in rules.items()}})
        if isinstance(rules, str):
            path = tmp_path / "rules.yaml"
            path.write_text(rules)
            rules = path
        listeners = graph.observer.count_subscribers("action_events")
        node = graph.add(BehaviorNode, rules_file=str(rules), **parameters)
        if node.active:
            graph.wait(lambda: node._events.get_subscription_count() == listeners, "those who listen")
        return node

    return start


def ready(graph, node: BehaviorNode) -> None:
    """Wait until the node knows the servers that it needs."""
    for several in node._reactions.values():
        for reaction in several:
            client = reaction._client
            goal = isinstance(reaction, reactions.Goal)
            known = client.server_is_ready if goal else client.service_is_ready
            graph.wait(known, reaction.name)


def counts(node: BehaviorNode) -> dict[str, tuple[int, int]]:
    """What was done and what failed."""
    return {
        reaction.name: (reaction.counts["done"], reaction.counts["failed"])
        for several in node._reactions.values()
        for reaction in several
    }


def complaints(graph) -> list[Log]:
    durable = QoSProfile(depth=1000, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    return graph.listen(Log, "/rosout", durable)


def said(logs: list[Log], graph, text: str) -> bool:
    return any(text in log.msg for log in logs if graph.namespace.strip("/") in log.name)


# Events ----------------------------------------------------------------------------------------------


def test_events_are_published_with_who_and_when(graph, eyes, start):
    events = graph.listen(ActionEvent, "action_events")
    start({"danger": {"labels": ["push", "fall"]}})
    eyes.see(11, ("walk", 0.9))
    eyes.see(12, ("push", 0.5), ("fall", 0.75, (50, 10, 70, 60)))
    eyes.see(13, ("push", 0.875))
    eyes.see(14)
    graph.wait(lambda: len(events) == 2, "an event's begin and end")
    begin, end = events
    assert (begin.rule, begin.active, begin.people) == ("danger", True, 2)
    assert (begin.tube_id, begin.label, begin.score) == ("2", "fall", 0.75)
    assert begin.box.tolist() == [50, 10, 70, 60]
    assert begin.header == Header(stamp=conversions.to_stamp(12 * TENTH), frame_id="eye")
    assert (end.rule, end.active, end.people) == ("danger", False, 1)
    assert (end.tube_id, end.label, end.score) == ("1", "push", 0.875)
    assert end.header.stamp == conversions.to_stamp(14 * TENTH)


def test_a_tube_that_has_ended_is_not_seen(graph, eyes, start):
    events = graph.listen(ActionEvent, "action_events")
    start({"danger": {}})
    eyes.see(0, ("push", 0.9), state=ActionTube.ENDED)
    eyes.see(1, ("push", 0.9))
    eyes.see(2, ("push", 0.9), state=ActionTube.ENDED)
    graph.wait(lambda: len(events) == 2, "two events")
    assert [conversions.to_nanoseconds(event.header.stamp) // TENTH for event in events] == [1, 2]


def test_a_bag_that_begins_again_gives_the_same_events_again(graph, eyes, start):
    events = graph.listen(ActionEvent, "action_events")
    start({"danger": {"hold": 0.2, "gap": 5.0, "cooldown": 60.0}})
    for _ in range(2):
        eyes.watch(range(1000, 1005), ("push", 0.9))
    graph.wait(lambda: len(events) == 3, "three events")
    times = [(event.active, conversions.to_nanoseconds(event.header.stamp) // TENTH) for event in events]
    assert times == [(True, 1002), (False, 1004), (True, 1002)]


def test_the_linker_tells_the_size_of_the_image_that_regions_need(graph, start):
    events = graph.listen(ActionEvent, "action_events")
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    publisher = graph.observer.create_publisher(TubeletArray, "tubelets", 100)
    graph.add(LinkerNode)
    start({"left": {"region": [0, 0, 0.5, 1]}, "right": {"region": [0.5, 0, 1, 1]}})
    graph.wait(lambda: graph.observer.count_subscribers("action_tubes") == 2, "the behavior node to listen")
    graph.wait(publisher.get_subscription_count, "the linker to listen")
    header = Header(stamp=conversions.to_stamp(TENTH), frame_id="eye")
    message = TubeletArray(
        header=header,
        image_width=IMAGE[0],
        image_height=IMAGE[1],
        key_numbers=[1],
        key_stamps=[header.stamp],
        frame_numbers=[1],
        frame_stamps=[header.stamp],
        tubelets=[Tubelet(label="push", score=0.9, boxes=[120.0, 10.0, 160.0, 50.0])],
    )
    publisher.publish(message)
    # a new stream is announced: the tube ends, and only the key frame has told the size
    later = conversions.to_stamp(2 * TENTH)
    announced = {"frame_numbers": [2], "frame_stamps": [later]}
    publisher.publish(TubeletArray(header=Header(stamp=later), stream=1, **announced))
    graph.wait(lambda: len(tubes) == 2 and len(events) == 2, "tubes and events")
    assert [(array.image_width, array.image_height) for array in tubes] == [IMAGE, IMAGE]
    assert [(event.rule, event.active) for event in events] == [("right", True), ("right", False)]


def test_from_images_to_events_and_to_their_end_when_the_camera_leaves(graph, tiny_model, start):
    events = graph.listen(ActionEvent, "action_events")
    camera = Camera(graph)
    start({"any": {"labels": LABELS, "min_score": 0.0, "region": [0, 0, 1, 0.9999]}})
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, min_tubelet_score=0.0, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(12)
    camera.leave()
    graph.wait(lambda: len(events) == 2, "an event's begin and end")
    begin, end = events
    assert (begin.active, end.active) == (True, False)
    assert begin.header in camera.sent
    assert begin.label in LABELS


def test_tubes_without_an_image_size_are_in_no_region_and_that_is_said(graph, eyes, start):
    logs = complaints(graph)
    events = graph.listen(ActionEvent, "action_events")
    start({"left": {"region": [0, 0, 0.5, 1]}, "anywhere": {}})
    eyes.see(0, ("push", 0.9), image_size=(0, 0))
    graph.wait(lambda: said(logs, graph, "comes without the image's size"), "a warning")
    graph.wait(lambda: events, "an event")
    assert [event.rule for event in events] == ["anywhere"]


def test_tubes_offered_with_another_quality_of_service_are_not_missed_in_silence(graph, start):
    logs = complaints(graph)
    best_effort = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    graph.observer.create_publisher(ActionTubeArray, "action_tubes", best_effort)
    start({"danger": {}})
    graph.wait(lambda: said(logs, graph, "change the parameter qos.action_tubes.reliability"), "a warning")


def test_labels_that_the_model_does_not_have_are_named(graph, start):
    logs = complaints(graph)
    start({"danger": {"labels": ["push", "fall"]}, "called": {"labels": ["wave"]}})
    publisher = graph.observer.create_publisher(LabelInfo, "label_info", LATCHED)
    publisher.publish(LabelInfo(class_map=[VisionClass(class_name=name) for name in ("wave", "push")]))
    graph.wait(lambda: said(logs, graph, "rule 'danger' waits for 'fall'"), "a warning")
    assert said(logs, graph, "it knows push, wave")
    assert not said(logs, graph, "rule 'called'")


# Reactions -------------------------------------------------------------------------------------------


def test_a_message_is_published_at_the_begin_and_another_at_the_end(graph, eyes, start):
    words = graph.listen(String, "words")
    word = {"topic": "words", "type": "std_msgs/msg/String", "begin": {"data": "on"}, "end": {"data": "off"}}
    node = start({"danger": {"do": [word]}})
    graph.wait(node._reactions["danger"][0]._publisher.get_subscription_count, "the topic")
    eyes.see(0, ("push", 0.9))
    eyes.see(1, ("push", 0.9))
    eyes.see(2)
    graph.wait(lambda: len(words) == 2, "two words")
    assert [word.data for word in words] == ["on", "off"]


def test_a_message_that_nobody_hears_is_counted_as_failed(graph, eyes, start):
    logs = complaints(graph)
    word = {"topic": "words", "type": "std_msgs/msg/String", "begin": {"data": "on"}, "end": {"data": "off"}}
    node = start({"danger": {"do": [word]}})
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "topic words was published, but nobody heard it"), "a warning")
    assert counts(node) == {"topic words": (0, 1)}
    words = graph.listen(String, "words")
    graph.wait(node._reactions["danger"][0]._publisher.get_subscription_count, "a listener")
    eyes.see(1)
    graph.wait(lambda: words == [String(data="off")], "the word")
    assert counts(node) == {"topic words": (1, 1)}


def test_a_service_is_called_once_although_the_detection_flickers(graph, eyes, start):
    calls = []

    def answer(request, response):
        calls.append(request)
        response.success = True
        return response

    events = graph.listen(ActionEvent, "action_events")
    graph.observer.create_service(Trigger, "alarm", answer)
    node = start({"danger": {"gap": 0.5, "do": [{"service": "alarm", "begin": None}]}})
    ready(graph, node)
    for time in range(20):
        eyes.see(time, *[("push", 0.9)] * (time % 3 == 0))
    eyes.watch(range(20, 30))
    graph.wait(lambda: len(events) == 2, "the event's end")
    graph.wait(lambda: counts(node) == {"service alarm": (1, 0)}, "the answer")
    assert calls == [Trigger.Request()]


def test_a_service_that_is_not_there_is_counted_and_the_node_lives_on(graph, eyes, start):
    logs, reports = complaints(graph), graph.listen(DiagnosticArray, "/diagnostics")
    events = graph.listen(ActionEvent, "action_events")
    node = start({"danger": {"do": [{"service": "alarm", "begin": {}}]}})
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "service alarm is not available"), "a warning")
    values = lambda: {  # noqa: E731
        value.key: value.value
        for report in reports
        for status in report.status
        if status.name == f"{graph.namespace}/behavior"
        for value in status.values
        if value.key != "state"
    }
    expected = {"danger: events": "1, going on", "danger: service alarm": "0 done, 1 failed"}
    graph.wait(lambda: values() == expected, "diagnostics")

    def answer(request, response):
        response.success = True
        return response

    graph.observer.create_service(Trigger, "alarm", answer)
    ready(graph, node)
    eyes.see(1)
    eyes.see(2, ("push", 0.9))
    graph.wait(lambda: counts(node) == {"service alarm": (1, 1)}, "the answer")
    assert len(events) == 3


def test_diagnostics_complain_of_what_is_wrong_now(graph, eyes, start):
    reports = graph.listen(DiagnosticArray, "/diagnostics")

    def hears(text: str) -> None:
        del reports[:]
        graph.wait(lambda: any(text in status.message for r in reports for status in r.status), text)

    start({"danger": {"do": [{"service": "alarm", "begin": {}}]}}, diagnostics_period=0.1)
    hears("OK")
    eyes.see(0, ("push", 0.9))
    hears("1 reactions failed")
    hears("OK")
    graph.executor.create_task(graph.observer.destroy_publisher, eyes.publisher)
    hears("nobody publishes")


def test_a_service_that_refuses_is_counted_with_its_reason(graph, eyes, start):
    def refuse(request, response):
        response.message = "not now"
        return response

    logs = complaints(graph)
    graph.observer.create_service(Trigger, "alarm", refuse)
    node = start({"danger": {"do": [{"service": "alarm", "begin": {}}]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "service alarm was refused: not now"), "a warning")
    assert counts(node) == {"service alarm": (0, 1)}


def test_an_answer_that_never_comes_holds_nothing_up(graph, eyes, start, monkeypatch):
    monkeypatch.setattr(reactions, "PATIENCE", 0.2)
    monkeypatch.setattr(behavior_node, "PERIOD", 0.1)
    logs, events = complaints(graph), graph.listen(ActionEvent, "action_events")
    asleep = Node("asleep", namespace=graph.namespace)  # nobody spins it
    asleep.create_service(Trigger, "alarm", lambda request, response: response)
    node = start({"danger": {"do": [{"service": "alarm", "begin": {}, "end": {}}]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    eyes.see(1)
    graph.wait(lambda: len(events) == 2, "both events, no answer to the first call")
    graph.wait(lambda: counts(node) == {"service alarm": (0, 2)}, "the answers to be given up")
    graph.wait(lambda: said(logs, graph, "service alarm gave no answer within 0.2 seconds"), "a warning")
    asleep.destroy_node()


def test_parameters_of_another_node_are_set_and_set_back(graph, eyes, start):
    linker = graph.add(LinkerNode)
    score = lambda: linker.get_parameter("min_score").value  # noqa: E731
    reaction = {"parameters": "linker", "begin": {"min_score": 0.5}, "end": {"min_score": 0.25}}
    node = start({"danger": {"do": [reaction]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: score() == 0.5, "the parameter")
    eyes.see(1)
    graph.wait(lambda: score() == 0.25, "the parameter")
    graph.wait(lambda: counts(node) == {"parameters linker": (2, 0)}, "the answers")


def test_a_refused_parameter_is_counted_with_its_reason(graph, eyes, start):
    logs = complaints(graph)
    graph.add(LinkerNode)
    node = start({"danger": {"do": [{"parameters": "linker", "begin": {"link_iou": 0.1}}]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: counts(node) == {"parameters linker": (0, 1)}, "the answer")
    graph.wait(lambda: said(logs, graph, "was refused: link_iou may change while inactive only"), "a warning")


class FibonacciRobot:
    """An action server that takes goals and leaves them undone."""

    def __init__(self, robot: Graph, think: float = 0.0):
        self.take = GoalResponse.ACCEPT
        self.goals: list[ServerGoalHandle] = []
        self.cancelled: list[int] = []
        test_msgs = pytest.importorskip("test_msgs.action", reason="test_msgs is not installed")

        def on_goal(request) -> GoalResponse:
            robot.stay(think)
            return self.take

        def on_cancel(handle) -> CancelResponse:
            self.cancelled.append(handle.request.order)
            return CancelResponse.ACCEPT

        def abort(handle):
            handle.abort()
            return test_msgs.Fibonacci.Result()

        self.server = ActionServer(
            robot.observer,
            test_msgs.Fibonacci,
            "count",
            execute_callback=abort,
            goal_callback=on_goal,
            handle_accepted_callback=self.goals.append,
            cancel_callback=on_cancel,
        )


COUNT = {"action": "count", "type": "test_msgs/action/Fibonacci", "begin": {"order": 7}}


def test_a_goal_is_sent_and_cancelled(graph, robot, eyes, start):
    server = FibonacciRobot(robot)
    node = start({"called": {"do": [COUNT | {"end": "cancel"}]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: counts(node) == {"action count": (1, 0)}, "the goal to be accepted")
    assert [goal.request.order for goal in server.goals] == [7]
    eyes.see(1)
    graph.wait(lambda: counts(node) == {"action count": (2, 0)}, "the goal to be cancelled")
    assert server.cancelled == [7]


def test_a_goal_still_on_its_way_is_cancelled_once_it_is_accepted(graph, robot, eyes, start):
    server = FibonacciRobot(robot, think=0.5)
    node = start({"called": {"do": [COUNT | {"end": "cancel"}]}})
    ready(graph, node)
    events = graph.listen(ActionEvent, "action_events")
    eyes.see(0, ("push", 0.9))
    eyes.see(1)
    graph.wait(lambda: len(events) == 2, "both events")
    assert server.goals == [], "the server still thinks"
    graph.wait(lambda: counts(node) == {"action count": (2, 0)}, "the goal to be cancelled")
    assert server.cancelled == [7]


def test_a_goal_that_is_accepted_late_can_be_cancelled(graph, robot, eyes, start, monkeypatch):
    monkeypatch.setattr(reactions, "PATIENCE", 0.2)
    monkeypatch.setattr(behavior_node, "PERIOD", 0.1)
    logs = complaints(graph)
    server = FibonacciRobot(robot, think=1.0)
    node = start({"called": {"do": [COUNT | {"end": "cancel"}]}})
    ready(graph, node)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "it may still take the goal"), "a warning")
    eyes.see(1)
    graph.wait(lambda: server.cancelled == [7], "the goal to be cancelled")


def test_goals_that_are_rejected_given_up_or_sent_to_nobody_are_counted(graph, robot, eyes, start):
    logs = complaints(graph)
    node = start({"called": {"do": [COUNT]}})
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "action count is not available"), "a warning")
    server = FibonacciRobot(robot)
    server.take = GoalResponse.REJECT
    ready(graph, node)
    eyes.see(1)
    eyes.see(2, ("push", 0.9))
    graph.wait(lambda: said(logs, graph, "action count rejected the goal"), "a warning")
    server.take = GoalResponse.ACCEPT
    eyes.see(3)
    eyes.see(4, ("push", 0.9))
    graph.wait(lambda: server.goals, "the goal")
    server.goals[0].execute()
    graph.wait(lambda: counts(node) == {"action count": (1, 3)}, "the goal to be given up")
    graph.wait(lambda: said(logs, graph, "action count gave the goal up"), "a warning")


# Start and lifecycle ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "complaint"),
    [
        ({"begin": {}}, r"exactly one of topic, service, action, parameters, and this has \['begin'\]"),
        ({"topic": "a", "service": "b"}, "exactly one of topic"),
        ({"service": "stop"}, "service stop: it has neither begin nor end"),
        ({"service": "stop", "begins": {}}, "service stop: there is no field 'begins'; did you mean 'begin'"),
        ({"service": "stop it", "begin": {}}, "service stop it: the name 'stop it' is not valid in ROS"),
        ({"topic": "not this", "type": "std_msgs/msg/Bool", "begin": {}}, "'not this' is not valid in ROS"),
        ({"service": 7, "begin": {}}, "service is 7, but must be a name"),
        ({"topic": "a", "begin": {}}, "type is None, but must be of the form package/msg/Name"),
        ({"topic": "a", "type": "std_msgs/String", "begin": {}}, "must be of the form package/msg/Name"),
        ({"topic": "a", "type": "my_msgs/msg/A", "begin": {}}, "install the package my_msgs"),
        ({"topic": "a", "type": "std_msgs/msg/A", "begin": {}}, "std_msgs has no msg of that name"),
        (
            {"service": "a", "type": "std_srvs/srv/SetBool", "begin": {"dta": True}},
            "std_srvs/srv/SetBool_Request has no field 'dta'; it has data",
        ),
        ({"topic": "a", "type": "std_msgs/msg/Bool", "begin": {"data": 1}}, "data is 1: .* of type 'bool'"),
        ({"service": "a", "begin": {"data": 1}}, "Trigger_Request has no field 'data'; it has no fields"),
        ({"service": "a", "begin": 3}, "a message is 3, but must be a mapping"),
        (
            {"topic": "a", "type": "geometry_msgs/msg/Polygon", "begin": {"points": [{"x": 1}, {"x": "b"}]}},
            r"points\[1\]\.x is 'b': .* of type 'float'",
        ),
        (
            {"parameters": "linker", "begin": {}},
            "linker: the values are {}, but must be a mapping",
        ),
        ({"parameters": "linker", "begin": {"a": {}}}, "the value of a is {}, but must be a bool, a number"),
        ({"parameters": "linker", "begin": {"a": None}}, "the value of a is None, but must be a bool"),
        ({"parameters": "linker", "begin": {"a": 2**63}}, "the value of a is 9223372036854775808, but must"),
        ({"parameters": "linker", "begin": {"a": []}}, r"the value of a is \[\], but must be a bool"),
        ({"topic": "a", "type": "/msg/Bool", "begin": {}}, "must be of the form package/msg/Name"),
        ({"topic": "a", "type": "std_msgs/msg/_bool", "begin": {}}, "must be of the form package/msg/Name"),
        ({"topic": "action_events", "type": "std_msgs/msg/Bool", "begin": {}}, "topic action_events: "),
        ({"parameters": "linker", "type": "x", "begin": {"a": 1}}, "no field 'type'; it has begin, end"),
    ],
)
def test_a_mistake_in_a_reaction_is_one_sentence_with_file_and_rule(graph, start, entry, complaint):
    with pytest.raises(AmmaError, match=complaint) as caught:
        start({"danger": {"do": [entry]}})
    assert re.match(r".*rules\.yaml: rule 'danger': ", str(caught.value))
    assert "\n" not in str(caught.value)


def test_without_a_file_of_rules_the_process_ends_with_one_sentence(tmp_path):
    command = [sys.executable, "-m", "amma_ros.behavior_node"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert "rules_file is empty: give the path of a file of rules" in run.stderr
    assert "Traceback" not in run.stderr


def test_only_an_active_node_reacts_and_rules_change_while_it_is_inactive(graph, eyes, start, tmp_path):
    events = graph.listen(ActionEvent, "action_events")
    node = start({"danger": {}}, autostart=False)
    assert transit(graph, "behavior", Transition.TRANSITION_CONFIGURE)
    graph.wait(node._events.get_subscription_count, "those who listen")
    assert eyes.publisher.get_subscription_count() == 0
    assert transit(graph, "behavior", Transition.TRANSITION_ACTIVATE)
    eyes.see(0, ("push", 0.9))
    graph.wait(lambda: len(events) == 1, "an event")

    other = tmp_path / "other.yaml"
    other.write_text("rules: {called: {labels: wave, hold: 0.0}}")
    (refused,) = change(graph, "behavior", rules_file=str(other))
    assert "while inactive only" in refused.reason
    assert transit(graph, "behavior", Transition.TRANSITION_DEACTIVATE)
    graph.wait(lambda: not eyes.publisher.get_subscription_count(), "the node to stop listening")
    assert len(events) == 1, "what has begun stays as it is"
    assert change(graph, "behavior", rules_file=str(other))[0].successful
    assert transit(graph, "behavior", Transition.TRANSITION_ACTIVATE)
    graph.wait(node._events.get_subscription_count, "those who listen")
    eyes.see(2, ("wave", 0.9), ("push", 0.9))
    graph.wait(lambda: len(events) == 2, "an event")
    assert events[-1].rule == "called"

    other.write_text("rules: {called: {labels: wave, hold: -1}}")
    assert transit(graph, "behavior", Transition.TRANSITION_DEACTIVATE)
    assert transit(graph, "behavior", Transition.TRANSITION_CLEANUP)
    assert not transit(graph, "behavior", Transition.TRANSITION_CONFIGURE)
    other.write_text("rules: {called: {labels: wave}}")
    assert transit(graph, "behavior", Transition.TRANSITION_CONFIGURE)


# The worked examples ---------------------------------------------------------------------------------


class StoppableRobot(Node):
    """Drives on, unless it was told to stop."""

    def __init__(self, **options):
        super().__init__("robot", **options)
        self.stopped = False
        self.create_service(SetBool, "stop", self._on_stop)
        self._velocity = self.create_publisher(Twist, "cmd_vel", 10)
        self.create_timer(0.02, self._drive)

    def _on_stop(self, request, response):
        self.stopped = request.data
        response.success = True
        return response

    def _drive(self) -> None:
        command = Twist()
        command.linear.x = 0.0 if self.stopped else 0.3
        self._velocity.publish(command)


@pytest.mark.parametrize("action", ["push", "fall"])
def test_example_the_robot_stops_and_goes_on(graph, robot, eyes, start, action):
    robot.add(StoppableRobot)
    speeds = graph.listen(Twist, "cmd_vel")
    moving = lambda: speeds and speeds[-1].linear.x == 0.3  # noqa: E731
    node = start(ROOT / "examples" / "stop_robot" / "rules.yaml")
    ready(graph, node)
    graph.wait(moving, "the robot to drive")
    eyes.watch(range(10), ("walk", 0.9))
    eyes.see(10, (action, 0.9))
    eyes.watch(range(11, 20), ("walk", 0.9))
    graph.stay(0.2)
    assert moving(), "one odd answer is not enough"
    eyes.watch(range(60, 64), (action, 0.9))
    graph.wait(lambda: not moving(), "the robot to stop")
    eyes.watch(range(64, 90), ("walk", 0.9))
    graph.stay(0.2)
    assert not moving(), "three seconds are not over"
    eyes.watch(range(90, 100), ("walk", 0.9))
    graph.wait(moving, "the robot to go on")
    assert counts(node) == {"service stop": (2, 0)}


class ComingRobot(Node):
    """Drives straight to its newest goal."""

    def __init__(self, **options):
        super().__init__("robot", **options)
        self.position = self._goal = np.zeros(2)
        self.goals = 0
        self.create_subscription(PoseStamped, "goal_pose", self._on_goal, 10)
        self.create_timer(0.02, self._drive)

    def _on_goal(self, message: PoseStamped) -> None:
        assert message.header.frame_id == "map"
        self._goal = np.array([message.pose.position.x, message.pose.position.y])
        self.goals += 1

    def _drive(self) -> None:
        way = self._goal - self.position
        self.position = self.position + way * min(1.0, 0.2 / max(np.hypot(*way), 1e-9))


@pytest.mark.parametrize("action", ["wave", "point"])
def test_example_the_robot_comes_to_who_calls(graph, robot, eyes, start, action):
    coming = robot.add(ComingRobot)
    left, right = (20, 10, 60, 90), (120, 10, 160, 90)
    node = start(ROOT / "examples" / "come_when_called" / "rules.yaml")
    for (goal,) in node._reactions.values():
        graph.wait(goal._publisher.get_subscription_count, "the robot to listen")
    eyes.watch(range(8), (action, 0.9, left))
    eyes.watch(range(8, 20), ("walk", 0.9, left))
    graph.stay(0.2)
    assert coming.goals == 0, "less than a second is no call"
    eyes.watch(range(20, 60), (action, 0.9, left))
    graph.wait(lambda: np.allclose(coming.position, (2, 1)), "the robot to come to the left")
    eyes.watch(range(60, 90), (action, 0.9, right))
    graph.wait(lambda: np.allclose(coming.position, (2, -1)), "the robot to come to the right")
    assert coming.goals == 2


@pytest.mark.parametrize("name", ["docs/behaviors.md", "examples/come_when_called/README.md"])
def test_rules_in_the_documentation_are_good(graph, start, tmp_path, name):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"block{number}.yaml"
        path.write_text(block)
        for rule in read_rules(path):
            for entry in rule.do:
                try:
                    reactions.make(graph.observer, entry).close()
                except AmmaError as error:
                    assert "install the package nav2_msgs" in str(error)  # noqa: PT017


@pytest.mark.parametrize("example", ["stop_robot", "come_when_called"])
def test_launch_files_of_the_examples(example):
    pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 distribution only")
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    path = ROOT / "examples" / example / f"{example}.launch.py"
    context = LaunchContext()
    description = PythonLaunchDescriptionSource(str(path)).get_launch_description(context)
    rules = {argument.name: argument for argument in description.get_launch_arguments()}["rules_file"]
    assert read_rules(rules.default_value[0].text)
    for entity in description.entities:
        if isinstance(entity, DeclareLaunchArgument | IncludeLaunchDescription):
            entity.execute(context)  # an include fails where a required argument is not handed over
