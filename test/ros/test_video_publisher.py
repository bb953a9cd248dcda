"""Files, folders and loops as image topics."""

import cv2
import numpy as np
import pytest
from rcl_interfaces.msg import Log
from ros_graph import SECOND
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

from amma_ros import conversions, pacing
from amma_ros.detector_node import DetectorNode
from amma_ros.linker_node import LinkerNode
from amma_ros.video_publisher import VideoPublisher


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), np.full((24, 32, 3), 40 * number, np.uint8))
    return tmp_path


def stamps(messages) -> list[int]:
    return [conversions.to_nanoseconds(message.header.stamp) for message in messages]


def test_a_folder_of_images_each_once_with_the_time_of_its_frame(graph, folder):
    images = graph.listen(Image, "image")
    node = graph.add(VideoPublisher, source=str(folder), fps=50.0, frame_id="eye", wait_for_subscribers=1)
    graph.wait(node.done.done, "the end")
    graph.wait(lambda: len(images) == 5, "5 images")
    assert np.diff(stamps(images)).tolist() == [20_000_000] * 4
    assert {image.header.frame_id for image in images} == {"eye"}
    for number, image in enumerate(images):
        assert (conversions.image_to_bgr(image) == 40 * number).all()


def test_a_loop_leaves_a_gap_that_no_clip_spans(graph, folder):
    images = graph.listen(Image, "image")
    graph.add(VideoPublisher, source=str(folder), fps=50.0, loop=True, wait_for_subscribers=1)
    graph.wait(lambda: len(images) >= 8, "the second round")
    gaps = np.diff(stamps(images))
    assert gaps[4] > 1.5 * SECOND
    assert (gaps[:4] == 20_000_000).all()


def test_a_clip_that_spans_more_frames_than_may_be_out_holds_up_for_a_while_only(
    graph, folder, tiny_model, monkeypatch
):
    """At 60 frames a second, a clip of four at 30 spans seven."""
    monkeypatch.setattr(pacing, "PATIENCE", 0.2)
    detections = graph.listen(Detection2DArray, "detections")
    graph.add(LinkerNode)
    graph.add(DetectorNode, model=tiny_model, device="cpu", qos__image__reliability="reliable")
    graph.wait(graph.is_connected, "the nodes to find each other")
    node = graph.add(VideoPublisher, source=str(folder), fps=60.0, pace="consumed", max_in_flight=2)
    graph.wait(node.done.done, "the end")
    graph.remove(node)
    graph.wait(lambda: len(detections) == 5, "an answer for every frame")


def test_a_video_waits_for_those_who_answer(graph, folder, monkeypatch):
    monkeypatch.setattr(pacing, "PATIENCE", 0.2)
    images = graph.listen(Image, "image")
    log = graph.listen(Log, "/rosout", 1000)
    node = graph.add(VideoPublisher, source=str(folder), fps=50.0, wait_for_answers=True)
    wanted = f"waiting for a publisher of {graph.namespace}/detections: is the linker running?"
    graph.wait(lambda: wanted in [line.msg for line in log], "the log to say what is missing")
    assert not images
    graph.add(LinkerNode)
    graph.wait(node.done.done, "the end")
    graph.wait(lambda: len(images) == 5, "5 images")


def test_a_damaged_image_ends_it_with_a_reason(graph, folder):
    (folder / "002.png").write_bytes(b"no image")
    node = graph.add(VideoPublisher, source=str(folder))
    graph.wait(node.done.done, "the end")
    with pytest.raises(Exception, match=r"002.png is not an image"):
        node.done.result()
