"""Find actions in a recording of ROS 2, without a running graph.

Reads the images of one topic of a rosbag2 recording (sqlite3 or MCAP, raw or compressed images) as fast as
the machine can, and does with them what the nodes do, with the same parameters. --output writes a new bag
with the topics /detections (one message per image), /action_tubes and /label_info, under the images' stamps.

    amma bag drive.mcap --model my_model --output actions.mcap
    amma bag recording/ --topic /camera/image_raw --ground-truth annotations.json --json

Where the recording is damaged or cut off, what lies before the fault is kept, and the exit status is 2.
docs/bags.md says more.
"""

import argparse
import importlib

from amma_core.errors import AmmaError
from amma_core.evaluation.frame_map import MODES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bag", help="folder of a recording, or one of its files (.mcap, .db3, .zstd)")
    parser.add_argument("--topic", help="topic of the images (default: the only one)")
    parser.add_argument("--model", help="folder or shipped name (default: as --params-file says)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: as --params-file says)")
    parser.add_argument(
        "--params-file",
        metavar="FILE",
        help="parameters of the detector and the linker, as for the nodes (default: config/amma.yaml)",
    )
    parser.add_argument("--output", metavar="BAG", help="bag to write: .mcap, .db3, or a folder")
    parser.add_argument("--ground-truth", metavar="FILE", help="judge by this: see amma eval")
    parser.add_argument(
        "--video", metavar="NAME", help="name of the recording in the ground truth (default: the bag's name)"
    )
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="see amma eval")
    parser.add_argument(
        "--report",
        metavar="DIR",
        help="with --ground-truth: write report.html, metrics.json and predictions.npz",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON, last")


def run(arguments: argparse.Namespace) -> None:
    try:
        command = importlib.import_module("amma_ros.bag_command")  # the library itself does without ROS
    except ModuleNotFoundError as error:
        raise AmmaError(
            f"this needs ROS 2, and the Python package {error.name} is not there: source the workspace, or "
            "use the environment that `make setup` builds without a ROS 2 distribution"
        ) from None
    command.run(arguments)
