"""Detector, linker and the rules of a file, for one camera.

ros2 launch amma_ros behavior.launch.py rules_file:=/path/to/rules.yaml image:=/camera/image_raw
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    behavior = Node(
        package="amma_ros",
        executable="behavior_node",
        name="behavior",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "rules_file": ParameterValue(LaunchConfiguration("rules_file"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            },
        ],
        output="screen",
        emulate_tty=True,
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("rules_file", description="YAML file of the rules (docs/behaviors.md)."),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "amma.launch.py"))),
            behavior,
        ]
    )
