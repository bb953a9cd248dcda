"""Detector and linker for one camera, and on demand the visualizer.

ros2 launch amma_ros amma.launch.py image:=/camera/image_raw model:=/path/to/model
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from amma_ros import transports
from amma_ros.naming import below, cameras_of

SHARE = Path(__file__).resolve().parents[1]

ARGUMENTS = (
    ("image", "image", "Topic of the camera's images; with cameras, its name below each of them.", None),
    ("cameras", "", "Names of several cameras, separated by commas; topics lie below them.", None),
    ("namespace", "", "Namespace of the nodes and of all that they publish.", None),
    ("model", "", "Name of a shipped model or path of a model's folder; empty: as params_file says.", None),
    ("device", "", "auto, cpu, cuda or cuda:N; empty: as params_file says.", None),
    ("params_file", str(SHARE / "config" / "amma.yaml"), "YAML file with the parameters of all nodes.", None),
    ("use_sim_time", "false", "Take the time from /clock, for bags and simulators.", ["true", "false"]),
    (
        "lossless",
        "false",
        "Take every image, however late, from a source that waits for the answers; overrides params_file.",
        ["true", "false"],
    ),
    ("visualise", "false", "Publish annotated_image too, while somebody looks.", ["true", "false"]),
)

# Room for what the sources have under way: their max_in_flight is 8.
LOSSLESS = {"qos.image.reliability": "reliable", "qos.image.depth": 100, "queue_depth": 100}


def make_nodes(context: LaunchContext) -> list[Node]:
    value = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    given = {name: ParameterValue(value[name], value_type=str) for name in ("model", "device") if value[name]}
    given["use_sim_time"] = value["use_sim_time"] == "true"
    if value["lossless"] == "true":
        given |= LOSSLESS
    cameras = cameras_of(value["cameras"])
    if any(cameras):
        given["cameras"] = cameras
    remappings = [(below(camera, "image"), below(camera, value["image"])) for camera in cameras]

    def node(name: str, namespace: str, remappings: list[tuple[str, str]]) -> Node:
        return Node(
            package="amma_ros",
            executable=f"{name}_node",
            name=name,
            namespace=namespace,
            parameters=[value["params_file"], given],
            remappings=remappings,
            output="screen",
            emulate_tty=True,
        )

    nodes = [node(name, value["namespace"], remappings) for name in ("detector", "linker")]
    if value["visualise"] == "true":
        # one per camera, as whoever looks, looks at one
        places = ["/".join(filter(None, (value["namespace"], camera))) for camera in cameras]
        nodes += [node("visualizer", place, [("image", value["image"])]) for place in places]
    return nodes


def generate_launch_description() -> LaunchDescription:
    # The nodes do so by themselves; here it is for the others that are launched along with them.
    profile = transports.image_profile()
    profiles = [SetEnvironmentVariable(transports.VARIABLE, str(profile))] if profile else []
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)
        for name, default, description, choices in ARGUMENTS
    ]
    return LaunchDescription([*profiles, *arguments, OpaqueFunction(function=make_nodes)])
