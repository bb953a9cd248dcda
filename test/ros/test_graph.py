"""The whole graph: images in, detections out, every frame accounted for."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from amma_ros.msg import ActionTube, ActionTubeArray
from ros_graph import LABELS, SECOND, Camera
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core import bundle
from amma_core.detector import ActionDetector
from amma_core.linker import TubeLinker
from amma_core.pipeline import ActionPipeline
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_ros import conversions
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.node import LATCHED
from amma_ros.visualizer_node import VisualizerNode

RELIABLE = {
    "qos__image__reliability": "reliable",
    "qos__image__depth": 100,
    "queue_depth": 100,
    "target_fps": 0.0,
}


def start(graph, model, **parameters):
    """Detector and linker, each subscribing only when the next one listens: nothing sent is lost."""
    shared = {name: value for name, value in parameters.items() if name == "causal"}
    graph.add(LinkerNode, lazy=True, **shared)
    return graph.add(DetectorNode, model=model, lazy=True, **RELIABLE, **parameters)


def headers(messages) -> list:
    return [message.header for message in messages]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("count", [1, 3, 22])
def test_every_frame_is_answered_once_in_order_under_its_own_header(graph, tiny_model, causal, count):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    start(graph, tiny_model, causal=causal)
    camera.wait_for_subscribers()
    camera.film(count)
    camera.leave()
    graph.wait(lambda: len(detections) >= count, f"{count} answers")
    graph.stay(0.3)
    assert headers(detections) == camera.sent


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_graph_says_what_the_library_says(graph, tiny_model, mirrored):
    detections = graph.listen(Detection2DArray, "detections")
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    camera = Camera(graph)
    start(graph, tiny_model, min_tubelet_score=0.0, mirrored=mirrored)
    pictures = []
    camera.wait_for_subscribers()
    for number in range(20):
        pictures.append(camera.picture())
        camera.send(100 * SECOND + number)
    camera.leave()
    graph.wait(lambda: len(detections) == 20, "20 answers")

    runtime = TorchRuntime(bundle.load(tiny_model).build(), "cpu", mirrored=mirrored)
    pipeline = ActionPipeline(ActionDetector(runtime), TubeLinker())
    steps = [pipeline.update(picture, 100 * SECOND + i) for i, picture in enumerate(pictures)]
    frames = [frame for step in [*steps, pipeline.flush()] for frame in step.frames]
    assert sum(map(len, frames)) > 20
    for frame, message in zip(frames, detections, strict=True):
        boxes, labels, scores, ids = conversions.detections_from_message(message)
        assert labels == [LABELS[label] for label in frame.labels]
        assert ids == frame.tubes.tolist()
        np.testing.assert_allclose(scores, frame.scores, atol=1e-6)
        np.testing.assert_allclose(boxes, frame.boxes, atol=1e-3)
    expected = {(tube.id, n) for step in steps for tube in step.tubes for n in tube.numbers.tolist()}
    reported = {(int(tube.id), n) for array in tubes for tube in array.tubes for n in tube.frame_numbers}
    assert reported >= expected


def test_ids_agree_and_all_tubes_end_when_the_camera_leaves(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    tubes = graph.listen(ActionTubeArray, "action_tubes")
    camera = Camera(graph)
    start(graph, tiny_model)
    camera.wait_for_subscribers()
    camera.film(9)
    camera.leave()
    seen = lambda: {d.id for message in detections for d in message.detections}  # noqa: E731
    ended = lambda: {t.id for array in tubes for t in array.tubes if t.state == ActionTube.ENDED}  # noqa: E731
    graph.wait(lambda: len(detections) == 9 and ended() >= seen(), "all tubes to end")
    newest = {}
    for array in tubes:
        for tube in array.tubes:
            if tube.state == ActionTube.ENDED:
                assert tube.box.tolist() == newest[tube.id]
            newest[tube.id] = tube.box.tolist()
    assert set(newest) == seen()


def test_labels_reach_those_who_come_late(graph, tiny_model):
    start(graph, tiny_model)
    infos = graph.listen(LabelInfo, "label_info", LATCHED)
    graph.wait(lambda: infos, "the labels")
    assert [(label.class_id, label.class_name) for label in infos[-1].class_map] == list(enumerate(LABELS))
    assert infos[-1].threshold == pytest.approx(0.005)


def test_the_frame_id_of_each_camera_stays_with_its_frames(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    start(graph, tiny_model)
    camera.wait_for_subscribers()
    camera.film(6, frame_id="left")
    camera.film(7, start=101 * SECOND, frame_id="right")
    camera.leave()
    graph.wait(lambda: len(detections) == 13, "13 answers")
    assert headers(detections) == camera.sent


def test_the_visualizer_works_only_while_somebody_looks(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    start(graph, tiny_model)
    graph.add(VisualizerNode, qos__image__reliability="reliable", qos__image__depth=100)
    camera.wait_for_subscribers(1)
    graph.stay(0.3)
    assert camera.publisher.get_subscription_count() == 1, "nobody looks yet"
    annotated = graph.listen(Image, "annotated_image")
    camera.wait_for_subscribers(2)
    graph.wait(lambda: graph.observer.count_subscribers("detections") == 2, "the visualizer to listen")
    camera.film(8)
    graph.wait(lambda: len(annotated) == 8, "8 pictures")
    assert headers(annotated) == camera.sent
    drawn = [conversions.image_to_bgr(image) for image in annotated]
    assert all(picture.shape == (48, 64, 3) for picture in drawn)
    plain = Camera(graph, topic="unused").picture()
    assert any((picture != plain).any() for picture in drawn)
    assert len(detections) == 8


def test_bad_images_are_left_out_and_the_node_lives_on(graph, tiny_model):
    detections = graph.listen(Detection2DArray, "detections")
    camera = Camera(graph)
    start(graph, tiny_model)
    camera.wait_for_subscribers()
    camera.film(2)
    good = conversions.bgr_to_image(camera.picture(), camera.sent[-1])
    for fault in ({"encoding": "32FC1"}, {"encoding": "what"}, {"width": 0}, {"height": 1000}):
        bad = Image(header=good.header, height=48, width=64, encoding="bgr8", step=3 * 64)
        bad.data.frombytes(good.data)
        for name, value in fault.items():
            setattr(bad, name, value)
        camera.publisher.publish(bad)
    camera.film(2, start=101 * SECOND)
    camera.leave()
    graph.wait(lambda: len(detections) == 4, "4 answers")
    assert headers(detections) == camera.sent


def test_the_nodes_as_processes(graph, tiny_model, tmp_path):
    """Publisher, detector and linker as users start them; the video ends, and so does its publisher."""
    video = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (96, 64))
    for number in range(30):
        writer.write(np.full((64, 96, 3), 8 * number, np.uint8))
    writer.release()
    detections = graph.listen(Detection2DArray, "detections")
    reliable = ("qos.image.reliability:=reliable", "qos.image.depth:=20", "queue_depth:=20", "lazy:=true")
    processes = [
        node(graph, "detector_node", f"model:={tiny_model}", *reliable),
        node(graph, "linker_node", "lazy:=true"),
    ]
    # A lazy node listens once it has found a listener: that the detector does means that all have found us.
    graph.wait(lambda: graph.observer.count_subscribers("image") == 1, "the detector to listen")
    # The video waits for the nodes, but not for this test to find them.
    graph.wait(lambda: graph.observer.count_publishers("detections"), "the linker")
    publisher = node(graph, "video_publisher", f"source:={video}", "pace:=consumed", "frame_id:=eye")
    try:
        assert publisher.wait(60) == 0
        graph.wait(lambda: len(detections) >= 30, "30 answers")
    finally:
        for process in processes:
            process.send_signal(2)
    assert [process.wait(20) for process in processes] == [0, 0]
    stamps = [conversions.to_nanoseconds(message.header.stamp) for message in detections]
    assert np.diff(stamps).tolist() == [40_000_000] * 29
    assert {message.header.frame_id for message in detections} == {"eye"}


def node(graph, module: str, *parameters: str) -> subprocess.Popen:
    given = [word for parameter in parameters for word in ("-p", parameter)]
    command = [
        sys.executable,
        "-m",
        f"amma_ros.{module}",
        "--ros-args",
        "-r",
        f"__ns:={graph.namespace}",
        *given,
    ]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
