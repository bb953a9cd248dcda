"""Every parameter of every node: the one place that declares, checks and documents them.

``python -m amma_ros.parameters > docs/parameters.md`` writes the documentation.
"""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from amma_core import bundle
from amma_core.clips import POLICIES
from amma_core.drawing import CAPTION

Value = bool | int | float | str | list[str]

# When a parameter may change.
NEVER = "at start only"
INACTIVE = "while inactive"
ALWAYS = "at any time"


@dataclass(frozen=True)
class Parameter:
    """A parameter's name, type (that of its default), meaning and limits."""

    name: str
    default: Value
    description: str
    change: str = NEVER
    low: float | None = None
    high: float | None = None
    """The limits of a number, both allowed."""
    choices: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        if isinstance(self.default, list):
            return "string_array"
        return {bool: "bool", int: "integer", float: "double", str: "string"}[type(self.default)]

    @property
    def limits(self) -> str:
        """What values may be, in words; empty where anything goes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return "" if self.low is None else f"{self.low} to {self.high}"

    def fault(self, value: Value) -> str:
        """What is wrong with a value of the right type; empty if nothing is."""
        if self.choices and value not in self.choices:
            return f"{self.name} is '{value}', but must be {self.limits}"
        if self.low is not None and not self.low <= value <= self.high:
            return f"{self.name} is {value}, but must be from {self.low} to {self.high}"
        return ""


def _qos(topic: str, change: str, reliability: str = "", depth: int = 10) -> tuple[Parameter, ...]:
    """Quality of service of a topic. Without ``reliability`` the topic is reliable and nothing else."""
    size = Parameter(
        f"qos.{topic}.depth",
        depth,
        f"Messages of `{topic}` that may wait to be sent or read.",
        change,
        1,
        1000,
    )
    if not reliability:
        return (size,)
    return (
        Parameter(
            f"qos.{topic}.reliability",
            reliability,
            f"Whether lost messages of `{topic}` are sent again. best_available: as the other side that is "
            "there when this node comes; reliable where none is.",
            change,
            choices=("best_effort", "reliable", "best_available"),
        ),
        Parameter(
            f"qos.{topic}.durability",
            "volatile",
            f"Whether those who join late get messages of `{topic}` sent before. best_available: as the "
            "other side that is there when this node comes; transient_local where none is.",
            change,
            choices=("volatile", "transient_local", "best_available"),
        ),
        size,
    )


_MANAGED = (
    Parameter(
        "diagnostics_period",
        1.0,
        "Seconds between two messages to /diagnostics.",
        NEVER,
        0.1,
        3600.0,
    ),
    Parameter(
        "autostart",
        True,
        "Configure and activate at start. Without it, a lifecycle manager or `ros2 lifecycle set` does so.",
    ),
    Parameter(
        "lazy",
        False,
        "Subscribe only while somebody listens to what this node publishes.",
        INACTIVE,
    ),
)
_CAUSAL = Parameter(
    "causal",
    False,
    "Answer every camera frame at once, carrying the boxes on from the last key frame, instead of when "
    "the next key frame is known. Set it on the detector and on the linker.",
    ALWAYS,
)
_CAMERAS = Parameter(
    "cameras",
    [""],
    "Names of several cameras for one node: topics lie below them, as in `front/image`, `front/tubelets`, "
    "`front/detections`. Without a name there is one camera, without a prefix.",
    INACTIVE,
)
_TRANSPORT = Parameter(
    "image_transport",
    "raw",
    "raw: `image` is a sensor_msgs/Image; compressed: `image/compressed` is a sensor_msgs/CompressedImage.",
    INACTIVE,
    choices=("raw", "compressed"),
)

DETECTOR = (
    Parameter(
        "model",
        bundle.DEFAULT,
        "Name of a shipped model, or the path of a model's folder. While the node is active, the service "
        "`~/load_model` changes it.",
        INACTIVE,
    ),
    Parameter("device", "auto", "Where the network runs: auto, cpu, cuda or cuda:N.", INACTIVE),
    Parameter(
        "precision",
        "float32",
        "Numbers that the network calculates with; the shorter ones are faster on a GPU.",
        INACTIVE,
        choices=("float32", "bfloat16", "float16"),
    ),
    Parameter(
        "mirrored",
        False,
        "Look at the mirror image of each clip as well, and answer with the mean: boxes fit better, for "
        "up to twice the work. Not for models that tell left from right.",
        INACTIVE,
    ),
    Parameter(
        "policy",
        "pad_first",
        "First answer of a stream: after its first clip, copies of the first frame standing for the clips "
        "before it and tubelets' scores lowered accordingly (pad_first), or when there are as many clips as "
        "the network looks at (full).",
        INACTIVE,
        choices=POLICIES,
    ),
    Parameter(
        "max_gap",
        1.0,
        "Seconds between two frames above which they belong to different streams: tubes end, and no clip "
        "spans the gap.",
        INACTIVE,
        0.001,
        3600.0,
    ),
    Parameter(
        "target_fps",
        -1.0,
        "Rate at which the network gets frames, by their stamps; those between are answered, but not looked "
        "at. 0: every frame; negative: the rate of the videos that the model was trained on.",
        INACTIVE,
        -1.0,
        1000.0,
    ),
    _CAUSAL,
    Parameter("top_tubelets", 100, "Tubelets of an answer at most.", ALWAYS, 1, 1000),
    Parameter("min_tubelet_score", 0.005, "Tubelets that score less are left out.", ALWAYS, 0.0, 1.0),
    Parameter(
        "queue_depth",
        10,
        "Images that may wait for the network; room for the frames that one clip spans, and one clip more, "
        "there is always. When they are more, old frames are skipped, as many as a clip has at a time.",
        INACTIVE,
        1,
        1000,
    ),
    _CAMERAS,
    Parameter(
        "batch_wait",
        5.0,
        "Milliseconds that a clip waits for clips of other cameras, to go through the network with them.",
        INACTIVE,
        0.0,
        1000.0,
    ),
    _TRANSPORT,
    Parameter(
        "image_timeout",
        5.0,
        "Seconds without an image after which the stream is over, and the log says so and where there are "
        "images; 0: never.",
        ALWAYS,
        0.0,
        3600.0,
    ),
    *_MANAGED,
    *_qos("image", INACTIVE, "best_effort", 5),
    *_qos("tubelets", INACTIVE, depth=100),
)

LINKER = (
    Parameter(
        "nms_iou",
        0.6,
        "Tubelets of a class that overlap more than this are one. Lower values merge people who stand close "
        "together, higher ones give a person several tubes.",
        INACTIVE,
        0.0,
        1.0,
    ),
    Parameter(
        "link_iou",
        0.5,
        "What a tubelet must overlap a tube to go on with it. Lower values let tubes jump between people, "
        "higher ones cut the tubes of fast people in pieces.",
        INACTIVE,
        0.0,
        1.0,
    ),
    Parameter(
        "top_per_class",
        10,
        "Tubelets kept per class and key frame: how many people can do the same thing.",
        INACTIVE,
        1,
        1000,
    ),
    Parameter("min_score", 0.005, "Tubes with a lower mean score are not reported.", ALWAYS, 0.0, 1.0),
    Parameter(
        "class_min_scores",
        [""],
        "Another min_score for some classes: entries like `fall=0.4`.",
        ALWAYS,
    ),
    Parameter("classes", [""], "Names of the classes to look at; without a name, all.", ALWAYS),
    Parameter("min_frames", 1, "Tubes that last fewer frames are not reported.", ALWAYS, 1, 100_000),
    _CAUSAL,
    _CAMERAS,
    *_MANAGED,
    *_qos("tubelets", INACTIVE, depth=100),
    *_qos("detections", INACTIVE, "reliable", 100),
    *_qos("action_tubes", INACTIVE, "reliable", 100),
)

BEHAVIOR = (
    Parameter("rules_file", "", "YAML file of the rules, as docs/behaviors.md describes it.", INACTIVE),
    Parameter(
        "max_gap",
        1.0,
        "Seconds between two messages of `action_tubes` above which what was seen before is over. "
        "Raise it where key frames are that far apart.",
        INACTIVE,
        0.001,
        3600.0,
    ),
    *(parameter for parameter in _MANAGED if parameter.name != "lazy"),
    *_qos("action_tubes", INACTIVE, "reliable", 100),
    *_qos("action_events", INACTIVE, "reliable", 100),
)

VISUALIZER = (
    Parameter("trail", 30, "Frames that the trail behind a person goes back; 0 draws none.", ALWAYS, 0, 1000),
    Parameter(
        "caption",
        CAPTION,
        "What is written at a box, with the fields label, score and tube; empty for nothing.",
        ALWAYS,
    ),
    Parameter("min_drawn_score", 0.0, "Detections that score less are not drawn.", ALWAYS, 0.0, 1.0),
    Parameter("max_waiting", 60, "Images that may wait for their detections.", ALWAYS, 1, 1000),
    Parameter(_TRANSPORT.name, _TRANSPORT.default, _TRANSPORT.description, choices=_TRANSPORT.choices),
    *_qos("image", NEVER, "best_effort", 5),
    *_qos("detections", NEVER, "reliable", 100),
    *_qos("annotated_image", NEVER, "reliable", 5),
)

WAIT_FOR_ANSWERS = Parameter(
    "wait_for_answers",
    False,
    "Wait before the first image for a subscriber, and for a publisher of `detections`, so that the first "
    "clip is answered, too; with pace consumed, always.",
    NEVER,
)

VIDEO_PUBLISHER = (
    Parameter("source", "", "A video file, a folder of images, or the number of a camera."),
    Parameter("fps", 0.0, "Frames per second; 0 takes those of the source.", NEVER, 0.0, 1000.0),
    Parameter(
        "pace",
        "realtime",
        "realtime: as the source's clock says; consumed: as fast as `detections` come back, losing no frame.",
        choices=("realtime", "consumed"),
    ),
    Parameter("loop", False, "Begin again at the end, instead of leaving."),
    Parameter("frame_id", "camera", "The frame_id of the images."),
    Parameter(
        "wait_for_subscribers", 0, "Subscribers of `image` to wait for before the first frame.", NEVER, 0, 100
    ),
    WAIT_FOR_ANSWERS,
    Parameter(
        "max_in_flight",
        8,
        "With pace consumed: frames sent whose detections have not come back, at most. The detector "
        "answers once per clip, so it must be at least the frames that a clip spans: more where they come "
        "faster than `target_fps`.",
        NEVER,
        1,
        1000,
    ),
    *_qos("image", NEVER, "reliable", 10),
)

BAG_PLAYER = (
    Parameter("bag", "", "Folder of a rosbag2 recording, or one of its files."),
    Parameter("topics", [""], "Topics to play; without a name, all whose message types are installed."),
    Parameter(
        "rate",
        1.0,
        "How many times as fast as recorded.",
        NEVER,
        0.01,
        100.0,
    ),
    Parameter(
        "pace",
        "realtime",
        "realtime: as the recording's clock says, times `rate`; consumed: as fast as `detections` come "
        "back, losing no image.",
        choices=("realtime", "consumed"),
    ),
    Parameter("loop", False, "Begin again at the end, instead of leaving."),
    Parameter(
        "clock",
        0.0,
        "Messages of `/clock` per second, in place of those recorded; 0 publishes none of its own.",
        NEVER,
        0.0,
        1000.0,
    ),
    Parameter(
        "wait_for_subscribers",
        0,
        "Subscribers to wait for before the first message: of each image topic that `topics` names, or of "
        "any one where it names none.",
        NEVER,
        0,
        100,
    ),
    WAIT_FOR_ANSWERS,
    Parameter(
        "max_in_flight",
        8,
        "With pace consumed: images sent whose detections have not come back, at most. The detector "
        "answers once per clip, so it must be at least the images that a clip spans: more where they come "
        "faster than `target_fps`.",
        NEVER,
        1,
        1000,
    ),
)

NODES = {
    "detector": DETECTOR,
    "linker": LINKER,
    "behavior": BEHAVIOR,
    "visualizer": VISUALIZER,
    "video_publisher": VIDEO_PUBLISHER,
    "bag_player": BAG_PLAYER,
}


def of_runtime(values: Mapping[str, Value]) -> dict[str, Value]:
    """How the detector's network is run, from its parameters."""
    return {name: values[name] for name in ("device", "precision", "mirrored")}


def of_streams(values: Mapping[str, Value], fps: float) -> dict[str, Value]:
    """How the detector cuts streams into clips, from its parameters and the rate that its model knows."""
    target = fps if values["target_fps"] < 0 else values["target_fps"] or None
    return {"policy": values["policy"], "max_gap": values["max_gap"], "target_fps": target}


def unknown(names: Collection[str]) -> str:
    """What is wrong if some of these names are of no parameter of any node; empty if all are known.

    One parameter file serves all nodes, so a node takes no offence at another's parameters.
    """
    known = {parameter.name for table in NODES.values() for parameter in table}
    strange = sorted(name for name in names if name not in known)
    if not strange:
        return ""
    near = difflib.get_close_matches(strange[0], known, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else "; docs/parameters.md lists all"
    return f"there is no parameter '{strange[0]}'{hint}"


def markdown() -> str:
    """The documentation page."""
    lines = [
        "# Parameters",
        "",
        "Written by `python -m amma_ros.parameters`: do not edit.",
        "",
        "A parameter that may change *while inactive* is refused while the node is active and takes effect "
        "at its next activation. An unknown parameter or a value out of range stops the node at start.",
    ]
    for node, table in NODES.items():
        lines += [
            "",
            f"## {node}",
            "",
            "| name | type | default | values | may change | meaning |",
            "|" + "---|" * 6,
        ]
        for parameter in table:
            default = str(parameter.default).lower() if parameter.type == "bool" else parameter.default
            default = f"`{default}`" if default not in ("", [""]) else "(none)"
            lines.append(
                f"| `{parameter.name}` | {parameter.type} | {default} | {parameter.limits} "
                f"| {parameter.change} | {parameter.description} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
