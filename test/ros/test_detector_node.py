"""The detector under trying conditions: overload, strange stamps, several cameras, silent topics."""

from threading import Event

import cv2
import pytest
import torch
from amma_ros.msg import ActionTube, ActionTubeArray, TubeletArray
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Log
from rclpy.qos import QoSDurabilityPolicy, QoSReliabilityPolicy
from ros_graph import SECOND, Camera
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, Header
from vision_msgs.msg import Detection2DArray

from amma_ros import conversions
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.meter import memory

RELIABLE = {"qos__image__reliability": "reliable", "qos__image__depth": 100, "target_fps": 0.0}


def log(graph) -> list[str]:
    """What is written to the log from now on."""
    return LogTexts(graph.listen(Log, "/rosout", 1000), graph.namespace)


class LogTexts:
    def __init__(self, messages: list[Log], namespace: str):
        self._messages, self._name = messages, namespace.strip("/")

    def having(self, *words: str) -> list[str]:
        texts = [message.msg for message in self._messages if self._name in message.name]
        return [text for text in texts if all(word in text for word in words)]


def figures(graph, name: str) -> "callable":
    """The newest diagnostics of one name, as a dictionary; empty before the first."""
    messages = graph.listen(DiagnosticArray, "/diagnostics")

    def newest() -> dict:
        for message in reversed(messages):
            for status in message.status:
                if status.name == f"{graph.namespace}/{name}":
                    values = {value.key: value.value for value in status.values}
                    return values | {"level": status.level, "message": status.message}
        return {}

    return newest


def numbers(messages) -> list[list[int]]:
    return [message.frame_numbers.tolist() for message in messages]


# Overload


@pytest.mark.parametrize("causal", [False, True])
def test_too_slow_a_network_skips_whole_clips_and_says_so(graph, tiny_model, causal):
    detections = graph.listen(Detection2DArray, "detections")
    tubelets = graph.listen(TubeletArray, "tubelets")
    newest = figures(graph, "detector: camera")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True, causal=causal)
    node = graph.add(
        DetectorNode,
        model=tiny_model,
        lazy=True,
        queue_depth=8,
        causal=causal,
        diagnostics_period=0.1,
        **RELIABLE,
    )
    camera.wait_for_subscribers()
    busy = Event()
    node._cameras[0].queue.call(lambda: busy.wait(20))
    camera.film(30)
    graph.wait(lambda: newest().get("frames received") == "30", "30 images to be received")
    assert int(newest()["images waiting"]) <= 8
    busy.set()
    camera.leave()

    # 24 frames do not fit: six clips are given up, the newest frames are looked at.
    expected = camera.sent if causal else camera.sent[24:]
    graph.wait(lambda: len(detections) >= len(expected), "the answers")
    graph.stay(0.3)
    assert [message.header for message in detections] == expected
    answers = [message for message in tubelets if len(message.key_numbers)]
    assert numbers(answers) == [[25, 26, 27, 28], [29, 30]]
    graph.wait(lambda: newest().get("frames answered") == "6", "the diagnostics")
    assert newest()["frames skipped"] == "24"


def film_while_busy(graph, node, camera, newest, frames: int, fps: int) -> None:
    """Frames that go on from those sent, all before the network looks at one; then each is in a count."""
    busy, sent = Event(), len(camera.sent)
    node._cameras[0].queue.call(lambda: busy.wait(20))
    camera.film(frames, start=100 * SECOND + sent * SECOND // fps, fps=fps)
    total = sent + frames
    graph.wait(lambda: newest().get("frames received") == str(total), f"{total} images to be received")
    busy.set()
    camera.leave()

    def all_told() -> bool:
        return int(newest()["frames answered"]) + int(newest()["frames skipped"]) == total

    graph.wait(all_told, "every frame in a count")


def test_every_frame_is_answered_or_counted_where_clips_are_torn_too(graph, tiny_model):
    """How many frames a fast camera's clip takes is not known before the first: a hole may come within it."""
    newest = figures(graph, "detector: camera")
    camera = Camera(graph)
    parameters = RELIABLE | {"target_fps": 30.0, "queue_depth": 20}
    node = graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.1, **parameters)
    camera.wait_for_subscribers()
    camera.film(1, fps=120)
    graph.stay(0.2)
    film_while_busy(graph, node, camera, newest, frames=79, fps=120)
    assert node._cameras[0].meter.totals["torn"]


def test_a_clip_that_spans_more_frames_than_may_wait_is_not_torn(graph, tiny_model):
    newest = figures(graph, "detector: camera")
    camera = Camera(graph)
    parameters = RELIABLE | {"target_fps": 30.0, "queue_depth": 8}
    node = graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.1, **parameters)
    camera.wait_for_subscribers()
    camera.film(12, fps=90)
    graph.wait(lambda: newest().get("frames answered") == "10", "the first clip")
    film_while_busy(graph, node, camera, newest, frames=68, fps=90)
    assert not node._cameras[0].meter.totals["torn"]


# Time


@pytest.mark.parametrize(
    ("start", "image", "says"),
    [
        (103, {}, "no frame for 2.8"),
        (50, {}, "the stamps jumped back by 50.1"),
        (100.2, {"size": (80, 48)}, "the image size changed from 64x48 to 80x48"),
        (100.2, {"frame_id": "other"}, "frame_id"),
    ],
)
def test_a_cut_ends_the_stream_with_one_line_in_the_log(graph, tiny_model, start, image, says):
    lines = log(graph)
    detections = graph.listen(Detection2DArray, "detections")
    tubelets = graph.listen(TubeletArray, "tubelets")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(6)
    camera.film(6, start=round(start * SECOND), **image)
    camera.leave()
    graph.wait(lambda: len(detections) == 12, "12 answers")
    assert [message.header for message in detections] == camera.sent
    answers = [message for message in tubelets if len(message.key_numbers)]
    assert numbers(answers) == [[1, 2, 3, 4], [5, 6], [7, 8, 9, 10], [11, 12]]
    assert [message.stream for message in answers] == [0, 0, 1, 1]
    assert set(answers[2].key_numbers) == {7, 10}, "no clip spans the cut"
    graph.wait(lambda: lines.having("a new stream"), "a line in the log")
    assert len(lines.having("a new stream", says)) == 1


def test_a_stream_that_is_cut_again_and_again_is_reported(graph, tiny_model):
    """As where two cameras publish on one topic, and their clocks differ."""
    lines = log(graph)
    newest = figures(graph, "detector: camera")
    reports = graph.listen(DiagnosticArray, "/diagnostics")
    one, other = Camera(graph), Camera(graph)
    patient = {"queue_depth": 100, **RELIABLE}
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.5, **patient)
    one.wait_for_subscribers()
    other.wait_for_subscribers()
    for number in range(40):
        one.send((100 * 30 + number) * SECOND // 30)
        other.send((100 * 30 + number) * SECOND // 30 - SECOND // 100)
        graph.stay(0.03)
    graph.wait(lambda: int(newest().get("streams begun", 0)) > 20, "many streams")
    (text,) = lines.having("the stream of", "times, last: the stamps jumped back by 0.0")
    assert f"{graph.namespace}/image" in text
    assert "2 publishers send it" in text
    assert len(lines.having("a new stream")) == 1
    assert any("the stream of" in status.message for report in reports for status in report.status)


def test_one_cut_is_no_fault(graph, tiny_model):
    newest = figures(graph, "detector: camera")
    reports = graph.listen(DiagnosticArray, "/diagnostics")
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.1, **RELIABLE)
    camera.wait_for_subscribers()
    camera.film(4)
    camera.film(4, start=200 * SECOND)
    graph.wait(lambda: newest().get("frames answered") == "8", "8 answers")
    assert newest()["streams begun"] == "2"
    assert not any("was cut" in status.message for report in reports for status in report.status)


def test_a_camera_faster_than_the_model_was_trained_for(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    tubelets = graph.listen(TubeletArray, "tubelets")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE | {"target_fps": -1.0})
    camera.wait_for_subscribers()
    camera.film(16, fps=60.0)
    camera.leave()
    graph.wait(lambda: len(detections) == 16, "16 answers")
    assert [message.header for message in detections] == camera.sent
    assert [message.key_numbers[-1] for message in tubelets if len(message.key_numbers)] == [7, 15, 16]


def test_simulated_time(graph, tiny_model):
    newest = figures(graph, "detector: camera")
    camera = Camera(graph)
    clock = graph.observer.create_publisher(Clock, "/clock", 10)
    node = graph.add(DetectorNode, model=tiny_model, use_sim_time=True, diagnostics_period=0.1, **RELIABLE)
    graph.wait(lambda: clock.get_subscription_count(), "somebody to ask for the time")
    clock.publish(Clock(clock=conversions.to_stamp(101 * SECOND)))
    graph.wait(lambda: node.get_clock().now().nanoseconds == 101 * SECOND, "the simulated time")
    camera.wait_for_subscribers()
    camera.film(4, start=100 * SECOND)
    graph.wait(lambda: "latency [ms] p50" in newest(), "a latency")
    assert newest()["latency [ms] p50"] == "900.0"


# Images


@pytest.mark.parametrize(("suffix", "says"), [("jpg", "jpeg"), ("png", "png")])
def test_compressed_images(graph, tiny_model, suffix, says):
    detections = graph.listen(Detection2DArray, "detections")
    camera = graph.observer.create_publisher(CompressedImage, "eye/compressed", 100)
    graph.add(LinkerNode, lazy=True)
    graph.add(
        DetectorNode, {"image": "eye"}, model=tiny_model, lazy=True, image_transport="compressed", **RELIABLE
    )
    graph.wait(camera.get_subscription_count, "the detector")
    picture = Camera(graph, topic="unused").picture()
    sent = [Header(stamp=conversions.to_stamp(100 * SECOND + n), frame_id="eye") for n in range(4)]
    for header in sent:
        data = cv2.imencode(f".{suffix}", picture)[1].tobytes()
        camera.publish(CompressedImage(header=header, format=says, data=data))
    graph.wait(lambda: len(detections) == 4, "4 answers")
    assert [message.header for message in detections] == sent


def test_bad_images_are_counted_and_logged_once(graph, tiny_model):
    lines = log(graph)
    newest = figures(graph, "detector: camera")
    reports = graph.listen(DiagnosticArray, "/diagnostics")
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.1, **RELIABLE)
    camera.wait_for_subscribers()
    for _ in range(5):
        camera.publisher.publish(Image(width=4, height=4, encoding="32FC1", step=16))
    camera.film(4)
    graph.wait(lambda: newest().get("frames answered") == "4", "4 answers")
    assert newest()["bad images"] == "5"
    assert len(lines.having("depths in metres")) == 1
    assert any("images that cannot be read" in s.message for report in reports for s in report.status)


def test_tubelets_that_do_not_fit_together_are_counted_and_logged(graph):
    lines = log(graph)
    newest = figures(graph, "linker: camera")
    reports = graph.listen(DiagnosticArray, "/diagnostics")
    publisher = graph.observer.create_publisher(TubeletArray, "tubelets", 10)
    graph.add(LinkerNode, diagnostics_period=0.1)
    graph.wait(graph.is_connected, "the linker")
    publisher.publish(TubeletArray(key_numbers=[2, 1], frame_numbers=[1, 2]))
    graph.wait(lambda: newest().get("bad messages") == "1", "the count")
    graph.wait(lambda: lines.having("message left out"), "a line in the log")
    assert any("tubelets left out" in s.message for report in reports for s in report.status)


def test_a_network_that_fails_is_reported_and_concerns_its_camera_alone(graph, tiny_model, monkeypatch):
    lines = log(graph)
    newest = figures(graph, "detector: left")
    answers = {name: graph.listen(TubeletArray, f"{name}/tubelets") for name in ("left", "right")}
    cameras = {name: Camera(graph, topic=f"{name}/image") for name in answers}
    node = graph.add(
        DetectorNode,
        model=tiny_model,
        cameras=list(cameras),
        diagnostics_period=0.1,
        batch_wait=0.0,
        **RELIABLE,
    )
    for camera in cameras.values():
        camera.wait_for_subscribers()
    cameras["right"].film(2)
    graph.stay(0.2)
    with monkeypatch.context() as patch:
        patch.setattr(node._model.runtime, "head", lambda *_: 1 / 0)
        cameras["left"].film(8)
        graph.wait(lambda: newest().get("failures") == "2", "two failures")
    assert len(lines.having("looking at images of left/image failed", "ZeroDivisionError")) == 1
    cameras["left"].film(4, start=101 * SECOND)
    cameras["right"].film(2, start=100 * SECOND + 2 * SECOND // 30)
    graph.wait(lambda: all(answers.values()), "answers of both")
    assert numbers(answers["left"]) == [[9, 10, 11, 12]]
    assert numbers(answers["right"]) == [[1, 2, 3, 4]]
    assert answers["left"][0].stream > answers["right"][0].stream


def test_images_without_a_stamp_are_noticed(graph, tiny_model):
    lines = log(graph)
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True)
    graph.add(DetectorNode, model=tiny_model, lazy=True, **RELIABLE | {"target_fps": -1.0})
    camera.wait_for_subscribers()
    for _ in range(4):
        camera.send(0)
    graph.wait(lambda: len(detections) == 4, "4 answers")
    assert [message.header for message in detections] == camera.sent
    graph.wait(lambda: lines.having("images of image have no stamp"), "a warning")


# Diagnostics


def test_diagnostics_say_how_it_goes(graph, tiny_model):
    detector, linker = figures(graph, "detector"), figures(graph, "linker: camera")
    camera_figures = figures(graph, "detector: camera")
    latencies = graph.listen(Float64, "detector/debug/latency_ms")
    camera = Camera(graph)
    graph.add(LinkerNode, diagnostics_period=0.1)
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.1, **RELIABLE)
    camera.wait_for_subscribers()
    graph.wait(lambda: detector().get("state") == "active", "the state")
    assert detector()["model"] == "tiny"
    assert float(detector()["process memory [MB]"]) > 10
    camera.film(8, start=graph.observer.get_clock().now().nanoseconds - SECOND)
    graph.wait(lambda: "latency [ms] p95" in camera_figures() or len(latencies) == 2, "figures")
    graph.wait(lambda: linker().get("frames published") == "8", "the linker's figures")
    graph.wait(lambda: camera_figures().get("frames answered") == "8", "the camera's figures")
    assert camera_figures()["bad images"] == "0"
    graph.wait(lambda: len(latencies) == 2, "latencies for plotting")
    assert all(700 < latency.data < 60_000 for latency in latencies)
    assert camera_figures()["level"] == b"\0"


def test_a_linker_without_a_detector_is_not_well(graph, tiny_model):
    newest = figures(graph, "linker: front")
    graph.add(LinkerNode, cameras=["front"], diagnostics_period=0.1)
    said = f"nobody publishes {graph.namespace}/front/tubelets: is the detector running?"
    graph.wait(lambda: newest().get("message") == said, "a warning")
    assert newest()["level"] == b"\1"
    graph.add(DetectorNode, cameras=["front"], model=tiny_model)
    graph.wait(lambda: newest()["message"] == "OK", "the end of it")


def test_memory_is_that_of_all_gpus(monkeypatch):
    """Also where this machine has none."""
    held = [3_000_000, 5_000_000]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(held))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=0: held[device])
    assert memory()["GPU memory [MB]"] == 8.0


def test_the_linkers_latency_is_that_of_every_frame(graph):
    newest = figures(graph, "linker: camera")
    clock = graph.observer.create_publisher(Clock, "/clock", 10)
    publisher = graph.observer.create_publisher(TubeletArray, "tubelets", 10)
    node = graph.add(LinkerNode, use_sim_time=True, diagnostics_period=0.1)
    graph.wait(lambda: clock.get_subscription_count(), "somebody to ask for the time")
    clock.publish(Clock(clock=conversions.to_stamp(104 * SECOND)))
    graph.wait(lambda: node.get_clock().now().nanoseconds == 104 * SECOND, "the simulated time")
    graph.wait(graph.is_connected, "the linker")
    stamps = [conversions.to_stamp((100 + number) * SECOND) for number in range(4)]
    publisher.publish(
        TubeletArray(key_numbers=[4], key_stamps=stamps[3:], frame_numbers=[1, 2, 3, 4], frame_stamps=stamps)
    )
    graph.wait(lambda: "latency [ms] p50" in newest(), "a latency")
    assert newest()["latency [ms] p50"] == "2500.0"


# Topics that do not meet


def test_incompatible_quality_of_service_is_explained(graph, tiny_model):
    lines = log(graph)
    graph.add(DetectorNode, model=tiny_model, **RELIABLE)
    Camera(graph, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    graph.wait(lambda: lines.having("no messages pass"), "a warning")
    (text,) = lines.having("no messages pass")
    assert f"{graph.namespace}/image" in text
    assert "node 'observer' offers reliability best_effort, this node asks for reliability reliable" in text
    assert "change the parameter qos.image.reliability" in text


def test_best_available_is_named_by_what_it_became(graph, tiny_model):
    """There was no camera whose offer it could have taken up."""
    lines = log(graph)
    graph.add(DetectorNode, model=tiny_model, qos__image__reliability="best_available")
    Camera(graph, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    graph.wait(lambda: lines.having("no messages pass"), "a warning")
    (text,) = lines.having("no messages pass")
    assert "node 'observer' offers reliability best_effort, this node asks for reliability reliable" in text
    assert "change the parameter qos.image.reliability" in text


def test_incompatible_subscribers_are_explained_too(graph):
    from rclpy.qos import QoSProfile

    lines = log(graph)
    graph.add(LinkerNode)
    late = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
    graph.listen(Detection2DArray, "detections", late)
    graph.wait(lambda: lines.having("no messages pass"), "a warning")
    (text,) = lines.having("no messages pass")
    assert "asks for durability transient_local, this node offers durability volatile" in text
    assert "qos.detections.durability" in text


def test_silence_is_noticed_and_other_image_topics_are_named(graph, tiny_model):
    lines = log(graph)
    newest = figures(graph, "detector: camera")
    Camera(graph, topic="camera/image_raw")
    graph.add(DetectorNode, model=tiny_model, image_timeout=0.2, diagnostics_period=0.1)
    graph.wait(lambda: lines.having("no image on"), "a warning")
    text = lines.having("no image on")[0]
    assert f"{graph.namespace}/image " in text
    assert "nobody publishes it" in text
    assert f"{graph.namespace}/camera/image_raw (Image)" in text
    graph.wait(lambda: newest().get("level") == b"\1", "a warning in the diagnostics")


def test_a_camera_that_hangs_ends_its_stream_once(graph, tiny_model):
    lines = log(graph)
    detections = graph.listen(Detection2DArray, "detections")
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    camera = Camera(graph)
    graph.add(LinkerNode, lazy=True, min_score=0.0)
    brisk = {"image_timeout": 0.5, "diagnostics_period": 0.1, **RELIABLE}
    graph.add(DetectorNode, model=tiny_model, lazy=True, **brisk)
    camera.wait_for_subscribers()

    def going_on() -> set[str]:
        newest = {tube.id: tube.state for message in list(tubes) for tube in message.tubes}
        return {name for name, state in newest.items() if state == ActionTube.ACTIVE}

    for round_ in (1, 2):
        camera.film(6, start=100 * round_ * SECOND)
        graph.wait(lambda count=6 * round_: len(detections) == count, "answers to all")
        graph.wait(lambda: tubes and not going_on(), "the end of all tubes")
        graph.stay(0.5)
        assert len(lines.having("the stream is over", "no image for")) == round_
    assert [message.header for message in detections] == camera.sent


def test_images_lost_on_the_way_are_noticed(graph, tiny_model):
    lines = log(graph)
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.5, **RELIABLE)
    camera.wait_for_subscribers()
    for number in range(0, 60):
        if number % 3:
            camera.send(100 * SECOND + round(number * SECOND / 30))
    graph.wait(lambda: lines.having("images got lost on the way"), "a warning")


def test_images_that_are_stamped_in_bursts_are_not_taken_for_lost(graph, tiny_model):
    newest = figures(graph, "detector: camera")
    reports = graph.listen(DiagnosticArray, "/diagnostics")
    camera = Camera(graph)
    graph.add(DetectorNode, model=tiny_model, diagnostics_period=0.5, **RELIABLE)
    camera.wait_for_subscribers()
    for number in range(60):
        burst, place = divmod(number, 3)
        camera.send(100 * SECOND + burst * SECOND // 10 + place * SECOND // 1000)
    graph.wait(lambda: newest().get("frames received") == "60", "all images")
    assert not any("lost on the way" in s.message for report in reports for s in report.status)


# Several cameras


def test_several_cameras_share_one_model_and_nothing_else(graph, tiny_model):
    names = ["front", "left", "rear"]
    detections = {name: graph.listen(Detection2DArray, f"{name}/detections") for name in names}
    cameras = {name: Camera(graph, topic=f"{name}/image") for name in names}
    graph.add(LinkerNode, lazy=True, cameras=names)
    patient = {"queue_depth": 100, "batch_wait": 1000.0, **RELIABLE}
    node = graph.add(DetectorNode, model=tiny_model, lazy=True, cameras=names, **patient)
    for camera in cameras.values():
        camera.wait_for_subscribers()
    batches = []
    encode = node._runtime.encode
    node._runtime.encode = lambda clips: batches.append(len(clips)) or encode(clips)
    busy = Event()
    node._cameras[0].queue.call(lambda: busy.wait(20))
    for number in range(10):
        for count, (name, camera) in enumerate(cameras.items()):
            camera.send((100 + count) * SECOND + number, frame_id=name)
    for camera in cameras.values():
        camera.leave()
    graph.stay(0.5)
    busy.set()
    for name in names:
        graph.wait(lambda name=name: len(detections[name]) == 10, f"10 answers for {name}")
        assert [message.header for message in detections[name]] == cameras[name].sent
    # Three times the first clip with its padding, three times the second; the rest as each stream ends.
    assert batches[:2] == [6, 3]
