"""The demo as a person runs it: all nodes as processes, on a small video and a small network."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from amma_core.video import VideoWriter

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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--video", "nowhere.mp4"], "nowhere.mp4 does not exist"),
        (["--video", "square.mp4", "--model", "nonsense"], "there is no model 'nonsense'"),
        (["--video", "square.mp4", "--bag", "."], ". is there and is no bag"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, video, arguments, complaint):
    result = demo(tmp_path, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith(f"demo: {complaint}")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "demo.mp4").exists()
