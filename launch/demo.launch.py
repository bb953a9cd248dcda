"""A video, a folder of images or a camera through the whole graph; ends with the video.

With cameras:=front,left the video is what each of these cameras sees.

ros2 launch amma_ros demo.launch.py video:=street.mp4
ros2 launch amma_ros demo.launch.py video:=0
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from amma_ros.naming import below, cameras_of, suffixed

HERE = Path(__file__).resolve().parent
SECONDS_TO_FINISH = 3.0


def make_sources(context: LaunchContext) -> list:
    image, cameras = (LaunchConfiguration(name).perform(context) for name in ("image", "cameras"))
    videos = [video(camera, image) for camera in cameras_of(cameras)]
    finish = OnProcessExit(
        target_action=videos[-1],
        on_exit=[TimerAction(period=SECONDS_TO_FINISH, actions=[Shutdown(reason="the video is over")])],
    )
    return [*videos, RegisterEventHandler(finish)]


def video(camera: str, image: str) -> Node:
    return Node(
        package="amma_ros",
        executable="video_publisher",
        name=suffixed("video_publisher", camera),
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "source": ParameterValue(LaunchConfiguration("video"), value_type=str),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "wait_for_answers": True,
            }
        ],
        remappings=[("image", below(camera, image)), ("detections", below(camera, "detections"))],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("video", description="A video, a folder of images, or a camera's number."),
            DeclareLaunchArgument(
                "loop",
                default_value="false",
                description="Begin the video again at its end.",
                choices=["true", "false"],
            ),
            DeclareLaunchArgument(
                "visualise",
                default_value="true",
                description="Publish annotated_image too, while somebody looks.",
                choices=["true", "false"],
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "amma.launch.py"))),
            OpaqueFunction(function=make_sources),
        ]
    )
