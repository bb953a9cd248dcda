"""A video, a folder of images or a camera through the whole graph; ends with the video.

ros2 launch amma_ros demo.launch.py video:=street.mp4
ros2 launch amma_ros demo.launch.py video:=0
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

HERE = Path(__file__).resolve().parent
SECONDS_TO_FINISH = 3.0


def generate_launch_description() -> LaunchDescription:
    video = Node(
        package="amma_ros",
        executable="video_publisher",
        name="video_publisher",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            {
                "source": ParameterValue(LaunchConfiguration("video"), value_type=str),
                "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                "wait_for_subscribers": 1,
            }
        ],
        remappings=[("image", LaunchConfiguration("image"))],
        output="screen",
        emulate_tty=True,
    )
    finish = OnProcessExit(
        target_action=video,
        on_exit=[TimerAction(period=SECONDS_TO_FINISH, actions=[Shutdown(reason="the video is over")])],
    )
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
            video,
            RegisterEventHandler(finish),
        ]
    )
