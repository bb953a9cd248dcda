"""The launch files, run by the real launch_ros."""

import asyncio
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from bags import IMAGE, film, stamps, write_bag
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 distribution only")

import launch
from launch_ros.actions import SetParameter

from amma_ros.conversions import to_nanoseconds
from amma_ros.naming import below, cameras_of

FILES = Path(__file__).resolve().parents[2] / "launch"


def describe(name: str, **arguments):
    from launch.actions import IncludeLaunchDescription
    from launch.launch_description_sources import PythonLaunchDescriptionSource

    source = PythonLaunchDescriptionSource(str(FILES / name))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


@pytest.mark.parametrize("name", ["amma.launch.py", "demo.launch.py", "replay.launch.py"])
def test_every_argument_is_described(name):
    description = describe(name).launch_description_source.get_launch_description(launch.LaunchContext())
    arguments = description.get_launch_arguments()
    assert {"image", "namespace", "model", "device", "params_file", "use_sim_time", "visualise"} <= {
        argument.name for argument in arguments
    }
    assert not any("no description" in argument.description for argument in arguments)


@pytest.mark.parametrize("cameras", ["", "front, left"], ids=["one", "two"])
def test_the_demo_publishes_a_video_and_ends_with_it(graph, tiny_model, tmp_path, cameras):
    video = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (96, 64))
    for number in range(30):
        writer.write(np.full((64, 96, 3), 8 * number, np.uint8))
    writer.release()
    places = [below(camera, "") for camera in cameras_of(cameras)]
    heard = [graph.listen(Detection2DArray, f"{place}detections") for place in places]
    service = launch.LaunchService(noninteractive=True)
    arguments = {"video": video, "model": tiny_model, "namespace": graph.namespace, "cameras": cameras}
    demo = describe("demo.launch.py", **arguments)
    # Nodes may find each other seconds before they find who listens here: the videos wait for that, too.
    patience = SetParameter("wait_for_subscribers", 2)
    service.include_launch_description(launch.LaunchDescription([patience, demo]))

    async def watch() -> list:
        run = asyncio.create_task(service.run_async())
        while not all(graph.observer.count_publishers(f"{place}detections") for place in places):
            await asyncio.sleep(0.05)
        images = [graph.listen(Image, f"{place}image") for place in places]
        await run
        return images

    seen = asyncio.run(asyncio.wait_for(watch(), 60))
    for images, detections in zip(seen, heard, strict=True):
        sent, answered = ([to_nanoseconds(m.header.stamp) for m in part] for part in (images, detections))
        assert len(sent) == 30
        assert answered == sorted(set(answered) & set(sent))
        assert len(answered) > 20  # late images are dropped
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")


def launched(name: str, **arguments) -> list:
    """The nodes that a launch file would start."""
    from launch_ros.actions import Node

    context = launch.LaunchContext()
    waiting, nodes = [describe(name, **arguments)], []
    while waiting:
        entity = waiting.pop(0)
        if isinstance(entity, Node):
            entity._perform_substitutions(context)
            nodes.append(entity)
        else:
            waiting = [*(entity.visit(context) or []), *waiting]
    return nodes


def test_the_demo_is_drawn_unless_told_otherwise():
    drawn = [node.node_name for node in launched("demo.launch.py", video="0")]
    assert set(drawn) == {"/detector", "/linker", "/visualizer", "/video_publisher"}
    plain = [node.node_name for node in launched("demo.launch.py", video="0", visualise="false")]
    assert set(drawn) - set(plain) == {"/visualizer"}


def test_rules_hold_for_every_camera():
    nodes = launched("behavior.launch.py", rules_file="rules.yaml", cameras="front, left", namespace="robot")
    names = [node.node_name for node in nodes]
    assert names == ["/robot/detector", "/robot/linker", "/robot/behavior_front", "/robot/behavior_left"]
    topics = dict(nodes[-1].expanded_remapping_rules)
    assert topics == {name: f"left/{name}" for name in ("action_tubes", "label_info", "action_events")}
    (*_, below) = launched("behavior.launch.py", rules_file="rules.yaml", cameras="rig/front")
    assert below.node_name == "/behavior_rig_front"
    topics = dict(below.expanded_remapping_rules)
    assert topics["action_tubes"] == "rig/front/action_tubes"
    (alone,) = [node for node in launched("behavior.launch.py", rules_file="r") if "beh" in node.node_name]
    assert alone.node_name == "/behavior"
    assert not alone.expanded_remapping_rules


def test_a_recording_that_waits_for_the_answers_loses_nothing(graph, tiny_model, tmp_path):
    bag = write_bag(tmp_path / "bag", {IMAGE: film(40, fps=100)})
    detections = graph.listen(Detection2DArray, "detections")
    service = launch.LaunchService(noninteractive=True)
    replay = describe(
        "replay.launch.py",
        bag=str(bag),
        pace="consumed",
        image=IMAGE,
        model=tiny_model,
        namespace=graph.namespace,
    )
    service.include_launch_description(launch.LaunchDescription([replay]))
    asyncio.run(asyncio.wait_for(service.run_async(), 60))
    assert [to_nanoseconds(message.header.stamp) for message in detections] == stamps(40, 100)
