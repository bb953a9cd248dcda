"""The demo as a person runs it: all nodes as processes, on a small video and a small network."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from amma_core.video import VideoWriter
from amma_ros import conversions
from amma_ros.bag import BagWriter
from amma_ros.demo import Witness

FRAMES = 18
TIMEOUT = 240.0


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "square.mp4"
    with VideoWriter(path, (96, 64), 25.0) as writer:
        for number in range(FRAMES):
            image = np.full((64, 96, 3), 40, np.uint8)
            image[20:40, 2 * number : 2 * number + 20] = (30, 220, 120)
            writer.write(image)
    return path


def demo(folder, *arguments):
    command = [sys.executable, "-m", "amma_ros.demo", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_every_frame_of_a_video_comes_out(tmp_path, video, tiny_model):
    result = demo(tmp_path, "--video", video, "--model", tiny_model)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "UNTRAINED" in result.stdout
    lines = re.findall(r"^ *(\d+)/18 +([\d.]+) s  (.*)$", result.stdout, re.MULTILINE)
    assert [int(number) for number, _, _ in lines] == list(range(1, FRAMES + 1))
    assert [float(seconds) for _, seconds, _ in lines] == [number / 25 for number in range(FRAMES)]
    assert any(
        re.match(r"(fall|push|wave) \d\.\d\d #\d+ \[-?\d+ -?\d+ -?\d+ -?\d+\]", found) for *_, found in lines
    )

    film = cv2.VideoCapture(str(tmp_path / "demo.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert (film.get(cv2.CAP_PROP_FRAME_WIDTH), film.get(cv2.CAP_PROP_FRAME_HEIGHT)) == (96, 64)

    with AnyReader([tmp_path / "demo_bag"]) as bag:
        counts = {connection.topic: connection.msgcount for connection in bag.connections}
        assert counts["/detections"] == FRAMES
        assert counts["/label_info"] >= 1
        messages = [(c.topic, bag.deserialize(data, c.msgtype)) for c, _, data in bag.messages()]
    stamps = [
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for topic, m in messages if topic == "/detections"
    ]
    assert np.diff(stamps).tolist() == [40_000_000] * (FRAMES - 1)
    found = {d.id for topic, m in messages if topic == "/detections" for d in m.detections}
    tubes = [tube for topic, m in messages if topic == "/action_tubes" for tube in m.tubes]
    assert found == {tube.id for tube in tubes}
    assert {tube.id for tube in tubes if tube.state == tube.ENDED} == found


def test_an_image_is_shown_when_it_is_seen_answered_and_filmed(tmp_path, graph):
    """The player of the demo sends no more before: a slow film must hold it up, or images get lost."""
    shown = graph.listen(Detection2DArray, "shown")
    topics = {"image": Image, "annotated_image": Image, "detections": Detection2DArray}
    publishers = {topic: graph.observer.create_publisher(kind, topic, 10) for topic, kind in topics.items()}
    with BagWriter(tmp_path / "bag") as bag, VideoWriter(tmp_path / "film.mp4", (32, 24), 25.0) as film:
        witness = Witness(graph.namespace, 10, bag, lambda size: film, total=2)
        graph.add(lambda **_: witness.node)
        graph.wait(graph.is_connected, "the witness")
        headers = [Header(stamp=Time(sec=second)) for second in (5, 6)]
        for header in headers:
            image = conversions.bgr_to_image(np.zeros((24, 32, 3), np.uint8), header)
            publishers["image"].publish(image)
            publishers["detections"].publish(Detection2DArray(header=header))
        graph.wait(lambda: len(witness.sent) == len(witness.answered) == 2, "the witness's ears")
        graph.stay(0.2)
        assert not shown
        image.header = headers[0]
        publishers["annotated_image"].publish(image)
        graph.wait(lambda: shown, "the first image to be shown")
        graph.stay(0.2)
        assert [message.header.stamp.sec for message in shown] == [5]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--video", "nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["--video", "square.mp4", "--model", "nonsense"], "there is no model 'nonsense'"),
        (["--video", "square.mp4", "--bag", "."], ". is there already"),
        (["--video", "square.mp4", "--bag", "recording"], "recording is there already"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, video, arguments, complaint):
    recording = tmp_path / "recording"
    recording.mkdir()
    (recording / "metadata.yaml").touch()
    result = demo(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"demo: {complaint}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "demo.mp4").exists()
    assert (recording / "metadata.yaml").exists()
