"""Pictures and markers for those who look."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from ros_graph import SECOND, Camera
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray
from visualization_msgs.msg import ImageMarker

from amma_core.types import FrameDetections
from amma_ros import conversions
from amma_ros.visualizer_node import VisualizerNode

CONFIG = Path(__file__).resolve().parents[2] / "config"
RELIABLE = {"qos__image__reliability": "reliable", "qos__image__depth": 100}


def detections(header: Header, *boxes: tuple) -> Detection2DArray:
    frame = FrameDetections(
        number=1,
        stamp=conversions.to_nanoseconds(header.stamp),
        labels=np.zeros(len(boxes), np.int64),
        scores=np.full(len(boxes), 0.5, np.float32),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        tubes=np.arange(1, 1 + len(boxes)),
    )
    return conversions.detections_to_message(frame, {0: "wave"}, header.frame_id)


@pytest.fixture
def results(graph):
    return graph.observer.create_publisher(Detection2DArray, "detections", 100)


def test_images_without_detections_are_left_out_and_the_order_is_kept(graph, results):
    pictures = graph.listen(Image, "annotated_image")
    camera = Camera(graph)
    graph.add(VisualizerNode, caption="", trail=0, **RELIABLE)
    camera.wait_for_subscribers()
    graph.wait(results.get_subscription_count, "the visualizer")
    camera.film(6)
    for header in (camera.sent[1], camera.sent[2], camera.sent[5]):
        results.publish(detections(header, (4, 6, 20, 30)))
    graph.wait(lambda: len(pictures) == 3, "3 pictures")
    assert [picture.header for picture in pictures] == [camera.sent[n] for n in (1, 2, 5)]
    drawn = conversions.image_to_bgr(pictures[0]).astype(int)
    assert (drawn[6, 6:18] != 60).any(axis=-1).all(), "the upper side of the box"


def test_detections_may_come_first(graph, results):
    pictures = graph.listen(Image, "annotated_image")
    camera = Camera(graph)
    graph.add(VisualizerNode, **RELIABLE)
    camera.wait_for_subscribers()
    graph.wait(results.get_subscription_count, "the visualizer")
    results.publish(detections(Header(stamp=conversions.to_stamp(100 * SECOND), frame_id="eye")))
    graph.stay(0.2)
    camera.film(1)
    graph.wait(lambda: len(pictures) == 1, "the picture")


def test_markers_need_no_images(graph, results):
    markers = graph.listen(ImageMarker, "image_markers")
    camera = Camera(graph)
    graph.add(VisualizerNode)
    graph.wait(results.get_subscription_count, "the visualizer")
    header = Header(stamp=conversions.to_stamp(7), frame_id="eye")
    results.publish(detections(header, (1, 2, 11, 22), (5, 6, 7, 8)))
    graph.wait(lambda: markers, "markers")
    assert camera.publisher.get_subscription_count() == 0
    (marker,) = markers
    assert (marker.header, marker.type) == (header, ImageMarker.LINE_LIST)
    corners = [(point.x, point.y) for point in marker.points[:8]]
    assert corners == [(1, 2), (11, 2), (11, 2), (11, 22), (11, 22), (1, 22), (1, 22), (1, 2)]
    assert len(marker.points) == 16
    assert len(marker.outline_colors) == 8
    assert marker.outline_colors[0] != marker.outline_colors[4]


def test_viewers_configurations_name_topics_that_exist():
    layout = json.loads((CONFIG / "foxglove.json").read_text())
    names = {"/image", "/image_markers", "/annotated_image", "/diagnostics"}
    for topic in ("/image", "/annotated_image", "/image_markers"):
        assert topic in json.dumps(layout)

    def panels(place):
        return [place] if isinstance(place, str) else panels(place["first"]) + panels(place["second"])

    assert sorted(panels(layout["layout"])) == sorted(layout["configById"])
    displays = yaml.safe_load((CONFIG / "amma.rviz").read_text())["Visualization Manager"]["Displays"]
    assert {f"/{display['Topic']['Value']}" for display in displays} <= names
