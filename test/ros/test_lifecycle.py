"""Managed nodes, through the services that `ros2 lifecycle` and lifecycle managers call."""

import gc
import weakref
from pathlib import Path

import pytest
import yaml
from amma_ros.msg import ActionTube, ActionTubeArray, Tubelet, TubeletArray
from amma_ros.srv import LoadModel
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from ros_graph import LABELS, SECOND, Camera
from test_detector_node import log
from test_parameters import change
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core.errors import AmmaError
from amma_ros.camera import Camera as DetectorCamera
from amma_ros.conversions import to_stamp
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.node import LATCHED

CONFIGURE, ACTIVATE = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE
DEACTIVATE, CLEANUP = Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP
SHUTDOWN = Transition.TRANSITION_INACTIVE_SHUTDOWN
RELIABLE = {
    "qos__image__reliability": "reliable",
    "qos__image__depth": 100,
    "queue_depth": 100,
    "target_fps": 0.0,
}


@pytest.fixture
def two_labels(tmp_path) -> str:
    """Another model than the tiny one: other labels, longer clips."""
    network = {"backbone": "shufflenet_v2", "clips": 2, "clip_length": 5, "input_size": 64}
    config = {"trained": False, "fps": 30.0, "labels": ["sit", "stand"], "network": network}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return str(tmp_path)


def transit(graph, node: str, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return graph.call(ChangeState, f"{graph.namespace}/{node}/change_state", request).success


def state(graph, node: str) -> int:
    return graph.call(GetState, f"{graph.namespace}/{node}/get_state", GetState.Request()).current_state.id


def subscribers(graph, topic: str) -> int:
    return graph.observer.count_subscribers(topic)


def test_nodes_start_by_themselves_and_can_be_told_not_to(graph, tiny_model):
    graph.add(DetectorNode, model=tiny_model)
    graph.add(LinkerNode, autostart=False)
    assert state(graph, "detector") == State.PRIMARY_STATE_ACTIVE
    assert state(graph, "linker") == State.PRIMARY_STATE_UNCONFIGURED


def test_the_detector_goes_through_all_states_and_back(graph, tiny_model):
    tubelets = graph.listen(TubeletArray, "tubelets")
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, autostart=False, **RELIABLE)
    for round_ in range(2):
        assert transit(graph, "detector", CONFIGURE)
        assert state(graph, "detector") == State.PRIMARY_STATE_INACTIVE
        assert subscribers(graph, "image") == 0
        assert transit(graph, "detector", ACTIVATE)
        camera.wait_for_subscribers()
        camera.film(4, start=(100 + round_) * SECOND)
        graph.wait(lambda: any(len(message.key_numbers) for message in tubelets), "tubelets")
        assert transit(graph, "detector", DEACTIVATE)
        graph.wait(lambda: subscribers(graph, "image") == 0, "the detector to stop listening")
        assert transit(graph, "detector", CLEANUP)
        assert state(graph, "detector") == State.PRIMARY_STATE_UNCONFIGURED
        graph.wait(lambda: graph.observer.count_publishers("tubelets") == 0, "the publisher to go")
        tubelets.clear()
    assert transit(graph, "detector", CONFIGURE)
    assert transit(graph, "detector", SHUTDOWN)
    assert state(graph, "detector") == State.PRIMARY_STATE_FINALIZED


def test_cleanup_gives_the_memory_back(graph, tiny_model):
    camera = Camera(graph)
    node = graph.add(DetectorNode, model=tiny_model, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(4)
    network = weakref.ref(node._model.runtime._network)
    assert transit(graph, "detector", DEACTIVATE)
    assert network() is not None
    assert transit(graph, "detector", CLEANUP)
    gc.collect()
    assert network() is None


def test_what_was_begun_is_answered_when_the_detector_stops(graph, tiny_model):
    tubelets = graph.listen(TubeletArray, "tubelets")
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(6)
    graph.wait(lambda: tubelets, "the first clip")
    graph.stay(0.2)
    assert transit(graph, "detector", DEACTIVATE)
    graph.wait(lambda: len(tubelets) == 3, "the rest of the clip and the end of the stream")
    assert [message.frame_numbers.tolist() for message in tubelets] == [[1, 2, 3, 4], [5, 6], []]
    assert tubelets[2].stream == 1 + tubelets[1].stream


def test_a_linker_that_stops_and_starts_goes_on(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    graph.add(LinkerNode)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(4)
    graph.wait(lambda: len(detections) == 4, "4 answers")
    assert transit(graph, "linker", DEACTIVATE)
    assert transit(graph, "linker", ACTIVATE)
    camera.wait_for_subscribers()
    camera.film(4, start=101 * SECOND)
    graph.wait(lambda: len(detections) == 8, "8 answers")


def test_a_model_that_is_not_there_leaves_the_node_unconfigured_with_a_reason(graph, tiny_model):
    graph.add(DetectorNode, model="/nowhere", autostart=False)
    assert not transit(graph, "detector", CONFIGURE)
    assert state(graph, "detector") == State.PRIMARY_STATE_UNCONFIGURED
    (result,) = change(graph, "detector", model="/nowhere/either")
    assert not result.successful
    assert "there is no model '/nowhere/either'" in result.reason
    assert change(graph, "detector", model=tiny_model)[0].successful
    assert transit(graph, "detector", CONFIGURE)


def test_with_autostart_a_model_that_is_not_there_stops_the_node(graph):
    with pytest.raises(AmmaError, match="there is no model '/nowhere'"):
        graph.add(DetectorNode, model="/nowhere")


def test_a_request_out_of_turn_is_refused_and_the_node_lives_on(graph, tiny_model):
    lines = log(graph)
    graph.add(LinkerNode)
    assert not transit(graph, "linker", CONFIGURE)
    assert state(graph, "linker") == State.PRIMARY_STATE_ACTIVE
    graph.wait(lambda: lines.having("transition 1 is not possible while the node is active"), "a warning")
    by_name = ChangeState.Request(transition=Transition(label="cleanup"))
    assert not graph.call(ChangeState, f"{graph.namespace}/linker/change_state", by_name).success
    by_name.transition.label = "deactivate"
    assert graph.call(ChangeState, f"{graph.namespace}/linker/change_state", by_name).success


def test_why_an_activation_failed_is_logged_with_autostart_too(graph, tiny_model):
    lines = log(graph)
    graph.add(DetectorNode, model=tiny_model)
    assert transit(graph, "detector", DEACTIVATE)
    assert change(graph, "detector", device="cuda:77")[0].successful
    assert not transit(graph, "detector", ACTIVATE)
    graph.wait(lambda: lines.having("device 'cuda:77' was asked for, but torch sees"), "the reason")


def test_what_goes_wrong_at_start_is_not_hidden(graph, tiny_model, monkeypatch):
    monkeypatch.setattr(DetectorNode, "start", lambda node: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        graph.add(DetectorNode, model=tiny_model)


@pytest.fixture
def no_second_camera(monkeypatch):
    """The middleware refuses the image topic of any camera but the first."""
    subscribe = DetectorCamera._subscribe
    monkeypatch.setattr(
        DetectorCamera, "_subscribe", lambda camera: subscribe(camera) if camera.name == "first" else 1 / 0
    )
    return monkeypatch


def test_what_goes_wrong_on_the_way_at_start_is_not_hidden_either(graph, tiny_model, no_second_camera):
    with pytest.raises(ZeroDivisionError):
        graph.add(DetectorNode, model=tiny_model, cameras=["first", "second", "third"])


def test_a_start_that_went_wrong_on_the_way_can_be_tried_again(graph, tiny_model, no_second_camera):
    lines = log(graph)
    cameras = ["first", "second", "third"]
    graph.add(DetectorNode, model=tiny_model, cameras=cameras, autostart=False, **RELIABLE)
    assert transit(graph, "detector", CONFIGURE)
    assert not transit(graph, "detector", ACTIVATE)
    assert state(graph, "detector") == State.PRIMARY_STATE_UNCONFIGURED
    graph.wait(lambda: lines.having("ZeroDivisionError"), "the reason")
    no_second_camera.undo()
    assert transit(graph, "detector", CONFIGURE)
    assert transit(graph, "detector", ACTIVATE)
    tubelets = graph.listen(TubeletArray, "second/tubelets")
    camera = Camera(graph, topic="second/image")
    camera.wait_for_subscribers()
    camera.film(4)
    graph.wait(lambda: tubelets, "an answer")


@pytest.mark.parametrize("model", ["~no_such_user/model", "m" * 300])
def test_a_model_that_cannot_be_looked_for_is_refused(graph, tiny_model, model):
    node = graph.add(DetectorNode, model=tiny_model)
    answer = graph.call(LoadModel, f"{graph.namespace}/detector/load_model", LoadModel.Request(model=model))
    assert not answer.success
    assert "cannot be looked for" in answer.message
    assert state(graph, "detector") == State.PRIMARY_STATE_ACTIVE
    assert node.get_parameter("model").value == tiny_model


def test_a_model_that_fails_to_load_leaves_the_old_one(graph, tiny_model, monkeypatch):
    node = graph.add(DetectorNode, model=tiny_model)
    monkeypatch.setattr(node, "_what_to_load", lambda name: 1 / 0)
    request = LoadModel.Request(model=tiny_model)
    answer = graph.call(LoadModel, f"{graph.namespace}/detector/load_model", request)
    assert not answer.success
    assert "could not be loaded: division by zero" in answer.message
    assert state(graph, "detector") == State.PRIMARY_STATE_ACTIVE


def test_a_linker_that_stops_ends_its_tubes_and_uses_no_id_again(graph, tiny_model):
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    camera = Camera(graph)
    graph.add(LinkerNode, min_score=0.0)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)

    def ids(state: int) -> set[str]:
        return {tube.id for message in tubes for tube in message.tubes if tube.state == state}

    camera.wait_for_subscribers()
    camera.film(4)
    graph.wait(lambda: ids(ActionTube.ACTIVE), "tubes")
    before = ids(ActionTube.ACTIVE)
    assert transit(graph, "linker", DEACTIVATE)
    graph.wait(lambda: ids(ActionTube.ENDED) == before, "the end of all tubes")
    assert transit(graph, "linker", CLEANUP)
    assert transit(graph, "linker", CONFIGURE)
    tubes.clear()
    assert transit(graph, "linker", ACTIVATE)
    camera.wait_for_subscribers()
    camera.film(4, start=101 * SECOND)
    graph.wait(lambda: ids(ActionTube.ACTIVE), "tubes again")
    assert not ids(ActionTube.ACTIVE) & before


def test_the_model_is_loaded_again_only_if_another_one_is_wanted(graph, tiny_model, two_labels):
    node = graph.add(DetectorNode, model=tiny_model)
    before = node._model
    assert transit(graph, "detector", DEACTIVATE)
    assert change(graph, "detector", max_gap=2.0)[0].successful
    assert transit(graph, "detector", ACTIVATE)
    assert node._model is before
    assert transit(graph, "detector", DEACTIVATE)
    assert change(graph, "detector", model=two_labels)[0].successful
    assert transit(graph, "detector", ACTIVATE)
    assert node._model.labels == ("sit", "stand")


def test_another_model_by_parameter_while_inactive(graph, tiny_model, two_labels):
    graph.add(LinkerNode)
    graph.add(DetectorNode, model=tiny_model)
    infos = graph.listen(LabelInfo, "label_info", LATCHED)
    (result,) = change(graph, "detector", model=two_labels)
    assert "while inactive only" in result.reason
    assert transit(graph, "detector", DEACTIVATE)
    assert change(graph, "detector", model=two_labels)[0].successful
    assert transit(graph, "detector", ACTIVATE)
    graph.wait(lambda: infos and len(infos[-1].class_map) == 2, "the labels of the other model")


def test_a_model_that_is_gone_when_it_is_wanted_can_be_put_right(graph, tiny_model, two_labels):
    graph.add(DetectorNode, model=tiny_model)
    assert transit(graph, "detector", DEACTIVATE)
    assert change(graph, "detector", model=two_labels)[0].successful
    Path(two_labels, "config.yaml").rename(Path(two_labels, "gone.yaml"))
    for _ in range(2):
        assert not transit(graph, "detector", ACTIVATE)
        assert state(graph, "detector") == State.PRIMARY_STATE_INACTIVE
    assert change(graph, "detector", model=tiny_model)[0].successful
    assert transit(graph, "detector", ACTIVATE)


def test_another_model_while_it_runs(graph, tiny_model, two_labels):
    detections = graph.listen(Detection2DArray, "detections")
    infos = graph.listen(LabelInfo, "label_info", LATCHED)
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    node = graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(6)
    graph.wait(lambda: len(detections) == 4, "4 answers")

    service = f"{graph.namespace}/detector/load_model"
    refused = graph.call(LoadModel, service, LoadModel.Request(model="/nowhere"))
    assert not refused.success
    assert "there is no model '/nowhere'" in refused.message
    assert node.get_parameter("model").value == tiny_model

    assert graph.call(LoadModel, service, LoadModel.Request(model=two_labels)).success
    assert node.get_parameter("model").value == two_labels
    camera.film(7, start=101 * SECOND)
    camera.leave()
    graph.wait(lambda: len(detections) == 13, "13 answers")
    assert [message.header for message in detections] == camera.sent
    names = [{d.results[0].hypothesis.class_id for d in message.detections} for message in detections]
    assert set().union(*names[:6]) <= set(LABELS)
    assert set().union(*names[6:]) <= {"sit", "stand"}
    assert [label.class_name for label in infos[-1].class_map] == ["sit", "stand"]
    ids = [{int(d.id) for d in message.detections} for message in detections]
    assert max(set().union(*ids[:6])) < min(set().union(*ids[6:])), "ids are not used again"


def test_a_camera_that_fails_as_the_model_changes_takes_no_other_with_it(graph, tiny_model, two_labels):
    names = ["left", "right"]
    tubelets = {name: graph.listen(TubeletArray, f"{name}/tubelets") for name in names}
    cameras = [Camera(graph, topic=f"{name}/image") for name in names]
    node = graph.add(DetectorNode, model=tiny_model, cameras=names, **RELIABLE)
    for camera in cameras:
        camera.wait_for_subscribers()
        camera.film(6)
    graph.wait(lambda: all(tubelets.values()), "the first clips")
    graph.wait(lambda: all(camera.stream.frames_seen == 6 for camera in node._cameras), "the rest")
    encode, calls = node._runtime.encode, []
    node._runtime.encode = lambda clips: calls.append(1) or (1 / 0 if len(calls) == 1 else encode(clips))
    request = LoadModel.Request(model=two_labels)
    assert graph.call(LoadModel, f"{graph.namespace}/detector/load_model", request).success
    graph.wait(lambda: len(tubelets["right"]) == 3, "the last answer of the right, and the end of its stream")
    assert [message.frame_numbers.tolist() for message in tubelets["right"]] == [[1, 2, 3, 4], [5, 6], []]
    assert node._cameras[0].meter.totals["failed"] == 1
    cameras[0].film(5, start=101 * SECOND)
    graph.wait(lambda: tubelets["left"][-1].frame_numbers.tolist() == [1, 2, 3, 4, 5], "the next model")


@pytest.mark.parametrize("start", [1, 105])
def test_tubes_end_under_their_own_labels_when_a_detector_with_another_model_follows(graph, start):
    """As one does that is started again after a crash: nobody has ended the stream of the first."""
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    publisher = graph.observer.create_publisher(TubeletArray, "tubelets", 10)
    graph.add(LinkerNode)
    graph.wait(graph.is_connected, "the linker")
    for first, label in ((101, "wave"), (start, "sit")):
        numbers = list(range(first, first + 4))
        stamps = [to_stamp(SECOND * number) for number in numbers]
        publisher.publish(
            TubeletArray(
                image_width=64,
                image_height=48,
                key_numbers=numbers[2:],
                key_stamps=stamps[2:],
                frame_numbers=numbers,
                frame_stamps=stamps,
                tubelets=[Tubelet(class_id=0, label=label, score=0.9, boxes=[1.0, 1.0, 20.0, 20.0] * 2)],
            )
        )
    graph.wait(lambda: len(tubes) == 2, "tubes of both")
    told = [(tube.id, tube.label, tube.state) for message in tubes for tube in message.tubes]
    assert told == [
        ("1", "wave", ActionTube.ACTIVE),
        ("1", "wave", ActionTube.ENDED),
        ("2", "sit", ActionTube.ACTIVE),
    ]


def test_dynamic_parameters_take_effect_at_once(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(4)
    graph.wait(lambda: len(detections) == 4, "4 answers")
    assert any(message.detections for message in detections)
    assert change(graph, "linker", min_score=1.0, causal=True)[0].successful
    assert change(graph, "detector", causal=True)[0].successful
    camera.film(2, start=101 * SECOND)
    graph.wait(lambda: len(detections) == 6, "answers before the clip is whole")
    camera.film(2, start=102 * SECOND)
    camera.leave()
    graph.wait(lambda: len(detections) == 8, "8 answers")
    assert [message.header for message in detections] == camera.sent
    assert not any(message.detections for message in detections[6:])


def test_classes_and_their_scores_take_effect_at_once(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)
    camera.wait_for_subscribers()

    def seen(start: int) -> set[str]:
        detections.clear()
        camera.film(4, start=start)
        graph.wait(lambda: len(detections) == 4, "4 answers")
        return {d.results[0].hypothesis.class_id for message in detections for d in message.detections}

    everything = seen(100 * SECOND)
    assert len(everything) > 1
    unwanted = max(everything)
    rest = everything - {unwanted}
    assert change(graph, "linker", classes=sorted(rest))[0].successful
    assert seen(200 * SECOND) == rest
    assert change(graph, "linker", classes=[], class_min_scores=[f"{unwanted}=1.0"])[0].successful
    assert seen(300 * SECOND) == rest
    assert change(graph, "linker", class_min_scores=[])[0].successful
    assert seen(400 * SECOND) == everything
