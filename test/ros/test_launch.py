"""The launch files, run by the real launch_ros."""

import asyncio
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from vision_msgs.msg import Detection2DArray

pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS 2 distribution only")

import launch

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


def test_the_demo_publishes_a_video_and_ends_with_it(graph, tiny_model, tmp_path):
    video = str(tmp_path / "video.avi")
    writer = cv2.VideoWriter(video, cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (96, 64))
    for number in range(30):
        writer.write(np.full((64, 96, 3), 8 * number, np.uint8))
    writer.release()
    detections = graph.listen(Detection2DArray, "detections")
    service = launch.LaunchService(noninteractive=True)
    demo = describe("demo.launch.py", video=video, model=tiny_model, namespace=graph.namespace)
    service.include_launch_description(launch.LaunchDescription([demo]))
    asyncio.run(asyncio.wait_for(service.run_async(), 60))
    stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for m in detections]
    assert len(set(stamps)) == len(stamps) > 20
    assert stamps == sorted(stamps)
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
