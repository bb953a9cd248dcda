"""A recording through the whole graph; ends with the recording.

ros2 launch amma_ros replay.launch.py bag:=recording image:=/camera/image_raw
ros2 launch amma_ros replay.launch.py bag:=recording image:=/camera/image_raw pace:=consumed

`ros2 bag play` plays it where there is rosbag2, and the project's own player elsewhere. With pace:=consumed
it is always the project's own, which waits for the detections, with a detector that takes images reliably:
none is lost.
"""

import shutil
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from amma_ros.naming import below, cameras_of

HERE = Path(__file__).resolve().parent
SECONDS_TO_START = 5.0
SECONDS_TO_FINISH = 3.0
CLOCK = 100.0

ARGUMENTS = (
    ("bag", None, "Folder of a rosbag2 recording, or one of its files.", None),
    ("rate", "1.0", "With pace:=realtime: how many times as fast as recorded.", None),
    ("loop", "false", "Begin the recording again at its end.", ["true", "false"]),
    ("pace", "realtime", "realtime, or consumed: as fast as detections come back.", ["realtime", "consumed"]),
)


def has_rosbag2() -> bool:
    try:
        get_package_prefix("ros2bag")
    except PackageNotFoundError:
        return False
    return shutil.which("ros2") is not None


def set_losses(context: LaunchContext) -> list:
    consumed = LaunchConfiguration("pace").perform(context) == "consumed"
    return [SetLaunchConfiguration("lossless", "true")] if consumed else []


def make_player(context: LaunchContext) -> list:
    value = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    if value["pace"] == "realtime" and has_rosbag2():
        # It knows nothing of who listens: the nodes get time to load the model.
        command = ["ros2", "bag", "play", value["bag"], "--rate", value["rate"], "--clock", str(CLOCK)]
        command += ["--delay", str(SECONDS_TO_START), *(["--loop"] if value["loop"] == "true" else [])]
        player = ExecuteProcess(cmd=command, output="screen")
    else:
        image, cameras = (LaunchConfiguration(name).perform(context) for name in ("image", "cameras"))
        player = Node(
            package="amma_ros",
            executable="bag_player",
            name="bag_player",
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                {
                    "bag": value["bag"],
                    "rate": float(value["rate"]),
                    "loop": value["loop"] == "true",
                    "pace": value["pace"],
                    "clock": CLOCK,
                    "topics": [image] if value["pace"] == "consumed" else [""],
                    "wait_for_answers": True,
                }
            ],
            # One linker answers for all cameras.
            remappings=[("detections", below(cameras_of(cameras)[0], "detections"))],
            output="screen",
            emulate_tty=True,
        )
    finish = OnProcessExit(
        target_action=player,
        on_exit=[TimerAction(period=SECONDS_TO_FINISH, actions=[Shutdown(reason="the recording is over")])],
    )
    return [player, RegisterEventHandler(finish)]


def generate_launch_description() -> LaunchDescription:
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)
        for name, default, description, choices in ARGUMENTS
    ]
    return LaunchDescription(
        [
            *arguments,
            SetLaunchConfiguration("use_sim_time", "true"),
            OpaqueFunction(function=set_losses),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(HERE / "amma.launch.py"))),
            OpaqueFunction(function=make_player),
        ]
    )
