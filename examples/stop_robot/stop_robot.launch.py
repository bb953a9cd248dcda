"""The robot stops while somebody pushes or falls.

ros2 launch amma_ros stop_robot.launch.py image:=/camera/image_raw
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

HERE = Path(__file__).resolve().parent


def generate_launch_description() -> LaunchDescription:
    launch = HERE.parents[1] / "launch" / "behavior.launch.py"
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "rules_file",
                default_value=str(HERE / "rules.yaml"),
                description="YAML file of the rules (docs/behaviors.md).",
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(launch)),
                # It has no default there, and what is required has to be handed over.
                launch_arguments=[("rules_file", LaunchConfiguration("rules_file"))],
            ),
        ]
    )
