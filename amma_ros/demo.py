"""The main job from end to end: a video through the real nodes, to the screen, a video and a bag.

    python -m amma_ros.demo --video street.mp4
    python -m amma_ros.demo --video 0          a camera, until Ctrl-C

The nodes run as processes of their own, in a namespace of this run, and this program sees nothing but what
they publish. A file is played as fast as this program shows it, so that no frame is lost.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core import bundle
from amma_core.errors import AmmaError
from amma_core.video import USUAL_FPS, VideoReader, VideoWriter, is_camera
from amma_ros import conversions
from amma_ros.bag import BagWriter
from amma_ros.msg import ActionTube, ActionTubeArray
from amma_ros.node import LATCHED
from amma_ros.transports import shared, use_transports_for_images

BAG = Path("demo_bag")
# What may pass, in seconds, without a sign of life.
PATIENCE_TO_START = 120.0
PATIENCE_TO_ANSWER = 60.0
PATIENCE_TO_LOSE = 2.0
PATIENCE_TO_END = 10.0
BEST = 3
"""Detections of a frame on the screen at most, the best ones."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--video", required=True, help="a video, a folder of images, or a camera's number")
    parser.add_argument("--model", help="name or folder of a model; without it, that of config/amma.yaml")
    parser.add_argument("--output", type=Path, default=Path("demo.mp4"), help="annotated video to write")
    parser.add_argument(
        "--bag",
        type=Path,
        default=BAG,
        help="bag to write (default: %(default)s, which is replaced)",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo: stopped"))
    try:
        play(options.video, options.model, options.output, options.bag)
    except AmmaError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    return 0


def play(video: str, model: str | None, output: Path, bag: Path) -> None:
    """Run the whole graph on one video; raises AmmaError where that does not work out."""
    settings = shared("config/amma.yaml")
    loaded = bundle.load(model or yaml.safe_load(settings.read_text())["/**"]["ros__parameters"]["model"])
    camera = is_camera(video)
    source = None if camera else VideoReader(video)
    _remove_bag(bag)
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    use_transports_for_images()
    namespace = f"/amma_demo_{os.getpid()}"

    with ExitStack() as stack:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        stack.callback(rclpy.try_shutdown)
        # Enough images under way that the detector never waits. The next one is sent when one has come out at
        # the end, filmed, so no queue ever needs more room than this: the slowest part sets the pace.
        in_flight = 3 * _frames_of_a_clip(loaded, source)
        witness = Witness(
            namespace,
            in_flight,
            record=stack.enter_context(BagWriter(bag)),
            film=lambda size: stack.enter_context(
                VideoWriter(output, size, source.fps if source else USUAL_FPS)
            ),
            total=source and source.frame_count,
        )
        graph = stack.enter_context(Graph(namespace, settings))

        images = {"qos.image.depth": in_flight, "qos.image.reliability": "reliable"}
        drawn = {"qos.annotated_image.depth": in_flight, "max_waiting": in_flight}
        say(f"Starting the nodes in the namespace {namespace} with the model '{loaded.name}' ...")
        say(_warning(loaded))
        # The detector is not to complain of silence before the video has begun.
        calm = {"image_timeout": PATIENCE_TO_START}
        graph.start("detector_node", model=str(loaded.path), queue_depth=in_flight, **images, **calm)
        graph.start("linker_node", **({} if loaded.trained else {"min_score": 0.0, "top_per_class": 1}))
        graph.start("visualizer_node", **drawn, **images)
        if not _wait(witness, graph, witness.sees_nodes, PATIENCE_TO_START):
            raise AmmaError("the nodes do not find each other; is another DDS set up in the environment?")

        say(f"Playing {f'camera {video} until Ctrl-C' if camera else video} ...")
        pace = {} if camera else {"pace": "consumed", "max_in_flight": in_flight}
        start = time.monotonic()
        graph.start(
            "video_publisher", {"detections": "shown"}, source=video, wait_for_subscribers=3, **images, **pace
        )
        try:
            if not _wait(witness, graph, graph.video_is_over, PATIENCE_TO_ANSWER):
                raise AmmaError(
                    f"nothing came from the nodes for {PATIENCE_TO_ANSWER:.0f} s: {witness.counts()}"
                )
        except KeyboardInterrupt:
            say("Stopping the video (Ctrl-C once more: everything) ...")
            graph.stop_video()
        # A camera's images may get lost, a file's may not.
        whole = _wait(witness, graph, witness.has_all, PATIENCE_TO_LOSE if camera else PATIENCE_TO_ANSWER)
        if not (whole or (camera and witness.filmed)):
            raise AmmaError(f"not every image was answered once, in order, and drawn: {witness.counts()}")
    seconds = witness.heard - start
    say(f"{witness.counts()} in {seconds:.1f} s, {len(witness.answered) / seconds:.1f} images a second.")
    say(f"The annotated video is {output}, the bag with detections and action tubes {bag}.")
    say(_warning(loaded))


class Graph:
    """The nodes as processes; a context manager that ends them all."""

    def __init__(self, namespace: str, settings: Path):
        self._common = ["--params-file", str(settings), "-r", f"__ns:={namespace}"]
        self._processes: dict[str, subprocess.Popen] = {}

    def start(self, name: str, remapped: Mapping[str, str] | None = None, **values) -> None:
        given = [word for key, value in values.items() for word in ("-p", f"{key}:={json.dumps(value)}")]
        given += [word for old, new in (remapped or {}).items() for word in ("-r", f"{old}:={new}")]
        command = [sys.executable, "-m", f"amma_ros.{name}", "--ros-args", *self._common, *given]
        # In a session of its own: Ctrl-C on the terminal is for this program to pass on.
        self._processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def check(self) -> None:
        for name, process in self._processes.items():
            if process.poll() and not (name == "video_publisher" and process.returncode == -signal.SIGINT):
                raise AmmaError(f"{name} ended with exit status {process.returncode}; it says why above")

    def video_is_over(self) -> bool:
        return self._processes["video_publisher"].poll() is not None

    def stop_video(self) -> None:
        self._processes["video_publisher"].send_signal(signal.SIGINT)

    def __enter__(self) -> "Graph":
        return self

    def __exit__(self, *error) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGINT)
        for process in self._processes.values():
            try:
                process.wait(PATIENCE_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Witness:
    """Sees what the nodes publish: prints it, records it, films it, and counts.

    The topic ``shown`` says which images are through all of that: an answer without detections, by the stamp.
    """

    def __init__(self, namespace: str, depth: int, record: BagWriter, film: Callable, total: int | None):
        self._record, self._make_film, self._film, self._total = record, film, None, total
        self.sent: list[int] = []
        """Stamps of the images, of their detections, and of the images in the video."""
        self.answered: list[int] = []
        self.filmed: list[int] = []
        self._told = 0
        self.detections = 0
        self.tubes: dict[str, int] = {}
        """State of every tube by its id."""
        self.heard = time.monotonic()
        self.node = Node("witness", namespace=namespace)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        deep = QoSProfile(depth=1000)
        self._shown = self.node.create_publisher(Detection2DArray, "shown", deep)
        self._listen("image", Image, self._on_image, QoSProfile(depth=depth))
        self._listen("annotated_image", Image, self._on_annotated, QoSProfile(depth=depth))
        self._listen("detections", Detection2DArray, self._on_detections, deep, recorded=True)
        self._listen("action_tubes", ActionTubeArray, self._on_tubes, deep, recorded=True)
        self._listen("label_info", LabelInfo, lambda data: None, LATCHED, recorded=True)

    def _listen(
        self, topic: str, kind: type, take: Callable, qos: QoSProfile, recorded: bool = False
    ) -> None:
        if recorded:
            self._record.add(f"/{topic}", kind, qos)

        def hear(data: bytes) -> None:
            self.heard = time.monotonic()
            if recorded:
                self._record.write(f"/{topic}", _stamp(data), data)
            take(data)
            self._tell_shown()

        self.node.create_subscription(kind, topic, hear, qos, raw=True)

    def spin(self) -> None:
        self._executor.spin_once(timeout_sec=0.1)

    def sees_nodes(self) -> bool:
        """Whether all nodes are there and have found each other, as far as one can see from here."""
        publishers = ("tubelets", "detections", "action_tubes", "annotated_image")
        subscribers = {"image": 3, "tubelets": 1, "detections": 2}
        return all(self.node.count_publishers(topic) for topic in publishers) and all(
            self.node.count_subscribers(topic) >= count for topic, count in subscribers.items()
        )

    def has_all(self) -> bool:
        """Whether every image is answered, once and in order, and drawn, and every tube has ended."""
        ended = all(state == ActionTube.ENDED for state in self.tubes.values())
        return ended and self.sent == self.answered == self.filmed

    def counts(self) -> str:
        return (
            f"{len(self.sent)} images, {len(self.answered)} answered with {self.detections} detections in "
            f"{len(self.tubes)} action tubes, {len(self.filmed)} drawn"
        )

    def _tell_shown(self) -> None:
        through = min(len(self.sent), len(self.answered), len(self.filmed))
        for stamp in self.filmed[self._told : through]:
            self._shown.publish(Detection2DArray(header=Header(stamp=conversions.to_stamp(stamp))))
        self._told = through

    def _on_image(self, data: bytes) -> None:
        self.sent.append(_stamp(data))

    def _on_annotated(self, data: bytes) -> None:
        message = deserialize_message(data, Image)
        if self._film is None:
            self._film = self._make_film((message.width, message.height))
        self._film.write(conversions.image_to_bgr(message))
        self.filmed.append(conversions.to_nanoseconds(message.header.stamp))

    def _on_detections(self, data: bytes) -> None:
        message = deserialize_message(data, Detection2DArray)
        self.answered.append(conversions.to_nanoseconds(message.header.stamp))
        self.detections += len(message.detections)
        number = len(self.answered)
        seconds = (self.answered[-1] - self.sent[0]) / 1e9
        say(f"{number:>5}{f'/{self._total}' if self._total else ''} {seconds:8.3f} s  {_sentence(message)}")

    def _on_tubes(self, data: bytes) -> None:
        for tube in deserialize_message(data, ActionTubeArray).tubes:
            self.tubes[tube.id] = tube.state


def _sentence(message: Detection2DArray) -> str:
    """The best detections of a frame: label, score, tube, box."""
    boxes, labels, scores, tubes = conversions.detections_from_message(message)
    best = scores.argsort()[::-1]
    words = [
        f"{labels[i]} {scores[i]:.2f} #{tubes[i]} [{' '.join(f'{value:.0f}' for value in boxes[i])}]"
        for i in best[:BEST]
    ]
    more = [f"and {len(best) - BEST} more"] if len(best) > BEST else []
    return "  ".join(words + more) or "-"


def _wait(witness: Witness, graph: Graph, condition: Callable[[], bool], patience: float) -> bool:
    """Until the condition holds; False where nothing has been heard for so many seconds."""
    witness.heard = time.monotonic()
    while not condition():
        witness.spin()
        graph.check()
        if time.monotonic() - witness.heard > patience:
            return False
    return True


def _stamp(data: bytes) -> int:
    """Nanoseconds in the header, with which every message here begins."""
    return conversions.to_nanoseconds(deserialize_message(data, Header).stamp)


def _remove_bag(path: Path) -> None:
    """Of the demo before. What has another name may be somebody's recording."""
    if path == BAG and (path / "metadata.yaml").is_file():
        shutil.rmtree(path)
    elif path.exists():
        raise AmmaError(f"{path} is there already: move it away, or name another folder with --bag")


def _frames_of_a_clip(model: bundle.Bundle, source: VideoReader | None) -> int:
    """Frames of the source that a clip spans: of a fast one the network does not get all."""
    faster = source.fps / model.fps if source else 1.0
    return model.network.clip_length * max(1, math.ceil(faster))


def _warning(model: bundle.Bundle) -> str:
    return f"The model '{model.name}' is UNTRAINED: its detections mean nothing." if not model.trained else ""


def say(text: str) -> None:
    if text:
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
