"""Detector, linker and the rules of a file, which hold for each camera on its own.

ros2 launch amma_ros behavior.launch.py rules_file:=/path/to/rules.yaml image:=/camera/image_raw
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from amma_ros.naming import below, cameras_of, suffixed

HERE = Path(__file__).resolve().parent
TOPICS = ("action_tubes", "label_info", "action_events")


def make_nodes(context: LaunchContext) -> list[Node]:
    return [behavior(camera) for camera in cameras_of(LaunchConfiguration("cameras").perform(context))]


def behavior(camera: str) -> Node:
    """The rules for one camera. Its topics lie below the camera, but what the rules name is the robot's."""
    return Node(
        package="amma_ros",
        executable="behavior_node",
        name=suffixed("behavior", camera),
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "rules_file": ParameterValue(LaunchConfiguration("rules_file"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            },
        ],
        remappings=[(topic, below(camera, topic)) for topic in TOPICS if camera],
        output="screen",
        emulate_tty=True,
    )


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("rules_file", description="YAML file of the rules (docs/behaviors.md)."),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "amma.launch.py"))),
            OpaqueFunction(function=make_nodes),
        ]
    )
