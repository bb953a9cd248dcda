"""``amma bag``: the images of a recording through detector and linker, into another bag."""

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

import numpy as np
import torch
from rclpy.qos import QoSProfile
from tqdm import tqdm
from vision_msgs.msg import Detection2DArray, LabelInfo

from amma_core import bundle
from amma_core.bundle import Bundle
from amma_core.data.dataset import Video, load_dataset
from amma_core.errors import AmmaError, packages_for
from amma_core.evaluation.metrics import evaluate, table
from amma_core.evaluation.predictions import Predictions, check_rows, predict, save_predictions
from amma_core.evaluation.tubes import annotated_tubes
from amma_core.files import make_folder, write_text_whole
from amma_core.types import Tubelets
from amma_ros.bag import BagWriter
from amma_ros.bag_reader import BagReader, Topic
from amma_ros.msg import ActionTubeArray
from amma_ros.node import LATCHED
from amma_ros.offline import ACTION_TUBES, DETECTIONS, LABEL_INFO, Offline, Result, load_settings
from amma_ros.transports import shared

Item = TypeVar("Item")
TOPICS = {
    DETECTIONS: (Detection2DArray, QoSProfile(depth=100)),
    ACTION_TUBES: (ActionTubeArray, QoSProfile(depth=100)),
    LABEL_INFO: (LabelInfo, LATCHED),
}
IMAGES_AHEAD = 16
"""Images read and decoded while the network is at work."""


def run(arguments: argparse.Namespace) -> None:
    parameters = arguments.params_file or shared("config/amma.yaml")
    given = {name: getattr(arguments, name) for name in ("model", "device") if getattr(arguments, name)}
    detector = load_settings(parameters, "detector", given)
    linker = load_settings(parameters, "linker", {})
    model = bundle.load(detector["model"])
    if not model.trained:
        print(f"The model {model.name!r} is untrained: what it finds means nothing.", file=sys.stderr)
    if arguments.report:
        _check_report(arguments)

    with BagReader(arguments.bag) as bag:
        topic = bag.image_topic(arguments.topic)
        truth = None
        if arguments.ground_truth:
            truth = Truth.of(arguments.ground_truth, arguments.video, _stem(bag.path), model)
            truth.check_length(topic)
        found: list[Tubelets] = []
        torch.backends.cudnn.deterministic = True  # some of its transposed convolutions add in any order
        offline = Offline(model, detector, linker, None if truth is None else found)
        search = Search(bag, topic, offline)
        with ExitStack() as stack:
            writer = None
            if arguments.output:
                writer = stack.enter_context(BagWriter(arguments.output))
                for name, (kind, qos) in TOPICS.items():
                    writer.add(name, kind, qos)
            for name, stamp, message in search:
                if writer:
                    writer.write_message(name, stamp, message)
    summary = {"bag": arguments.bag, "topic": topic.name, **search.summary(), "output": arguments.output}
    if truth is not None:
        predictions = truth.predictions(found, search.positions, model)
        annotated = annotated_tubes([truth.video])
        summary["metrics"] = evaluate(
            predictions.frames, predictions.tubes, annotated, truth.labels, arguments.mode
        )
        if arguments.report:
            _write_report(Path(arguments.report), model.name, predictions, truth, summary, arguments.mode)
    print(json.dumps(summary) if arguments.json else _sentences(summary))
    if bag.fault:
        kept = f"; what was found until then is in {arguments.output}" if arguments.output else ""
        raise AmmaError(f"{bag.fault}; {search.images} images of {topic.name} lie before that{kept}")


def _check_report(arguments: argparse.Namespace) -> None:
    if not arguments.ground_truth:
        raise AmmaError("--report needs --ground-truth")
    with packages_for("--report"):
        importlib.import_module("amma_core.evaluation.report")
    make_folder(Path(arguments.report))


def _write_report(
    folder: Path, name: str, predictions: Predictions, truth: "Truth", summary: dict, mode: str
) -> None:
    from amma_core.evaluation.report import make_report

    save_predictions(folder / "predictions.npz", predictions.frames, predictions.tubes, predictions.videos)
    title = f"Action detection in {summary['bag']}, {summary['topic']}"
    command = shlex.join(["amma", *sys.argv[1:]])
    page = make_report(title, {name: predictions}, [truth.video], truth.labels, mode=mode, commands=[command])
    write_text_whole(folder / "metrics.json", json.dumps(summary["metrics"]) + "\n")
    write_text_whole(folder / "report.html", page)


def _stem(path: Path) -> str:
    """my_bag of my_bag/, my_bag.mcap and my_bag.db3.zstd."""
    return path.absolute().name.removesuffix(".zstd").removesuffix(".mcap").removesuffix(".db3")


class Search:
    """Goes once through the images of a topic; iterating gives what is found, and then it knows the sums."""

    def __init__(self, bag: BagReader, topic: Topic, offline: Offline):
        self._bag, self._topic, self._offline = bag, topic, offline
        self.images = 0
        """Read so far, those left out too."""
        self.positions: list[int] = []
        """On the topic, from 1, of the images that have been looked at."""
        self._left_out = self._detections = 0
        self._tubes: set[str] = set()

    def __iter__(self) -> Iterator[Result]:
        start = time.monotonic()
        reason = ""
        with closing(ahead(self._bag.images(self._topic), IMAGES_AHEAD)) as images:
            for image in tqdm(images, total=self._topic.count, unit=" images", leave=False):
                self.images += 1
                if image.picture is None:
                    reason = reason or image.fault
                    self._left_out += 1
                    continue
                self.positions.append(self.images)
                yield from self._count(self._offline.take(image))
        if not self.positions:
            why = reason or self._bag.fault
            raise AmmaError(f"{self._bag.path}: not one image of {self._topic.name} can be read: {why}")
        yield from self._count(self._offline.end())
        if reason:
            print(f"{self._left_out} images were left out; of the first: {reason}", file=sys.stderr)
        self._seconds = time.monotonic() - start

    def _count(self, results: Iterator[Result]) -> Iterator[Result]:
        for result in results:
            name, _, message = result
            if name == DETECTIONS:
                self._detections += len(message.detections)
            elif name == ACTION_TUBES:
                self._tubes.update(tube.id for tube in message.tubes)
            yield result

    def summary(self) -> dict:
        return {
            "images": self.images,
            "left_out": self._left_out,
            "detections": self._detections,
            "tubes": len(self._tubes),
            "seconds": round(self._seconds, 3),
            "fault": self._bag.fault or None,
        }


def _sentences(summary: dict) -> str:
    speed = summary["images"] / max(summary["seconds"], 1e-3)
    lines = [
        f"{summary['images']} images of {summary['topic']}: {summary['seconds']:.1f} s, {speed:.1f} a second",
        f"{summary['detections']} detections in {summary['tubes']} action tubes",
    ]
    if summary["output"]:
        lines.append(f"Written to {summary['output']}")
    if "metrics" in summary:
        lines += ["", table(summary["metrics"])]
    return "\n".join(lines)


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """The same items, made by another thread up to `depth` before they are wanted."""
    queue: Queue = Queue(depth)
    stopped = Event()
    end = object()

    def work() -> None:
        last: object = end
        try:
            for item in items:
                queue.put((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            last = error
        queue.put((end, last))

    thread = Thread(target=work, name="reading", daemon=True)
    thread.start()
    try:
        while True:
            item, error = queue.get()
            if item is end:
                if error is not end:
                    raise error
                return
            yield item
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                queue.get(timeout=0.01)  # the thread may be waiting for room
            except Empty:
                continue


@dataclass(frozen=True, eq=False)
class Truth:
    """What is annotated in the recording, which is one of the videos of a data set."""

    path: str
    video: Video
    labels: list[str]

    @classmethod
    def of(cls, path: str, chosen: str | None, recording: str, model: Bundle) -> "Truth":
        """The video `chosen`; where none is, that of the recording's name, or the only one that there is."""
        dataset = load_dataset(path)
        videos = dataset.videos
        only = next(iter(videos.values())) if len(videos) == 1 else None
        video = videos.get(chosen) if chosen else videos.get(recording, only)
        if video is None:
            raise AmmaError(
                f"{path} has no video {chosen or recording!r}; say with --video which one the recording is"
            )
        if not video.tubes:
            raise AmmaError(f"{path}: nothing is annotated in the video {video.name!r}")
        unknown = [label for label in model.labels if label not in dataset.labels]
        if unknown:
            raise AmmaError(f"the model finds {unknown[0]!r}, which is not among the labels of {path}")
        return cls(path, video, dataset.labels)

    def check_length(self, topic: Topic) -> None:
        if topic.count > self.video.frames:
            raise AmmaError(
                f"{topic.name} has {topic.count} images, but the video {self.video.name!r} of {self.path} "
                f"only {self.video.frames} frames; they do not belong together"
            )

    def predictions(self, found: list[Tubelets], positions: list[int], model: Bundle) -> Predictions:
        """Frames are numbered by the position of the image on the topic."""
        size = (self.video.width, self.video.height)
        other = next((tubelets.image_size for tubelets in found if tubelets.image_size != size), None)
        if other:
            raise AmmaError(
                f"the images have {other[0]}x{other[1]} pixels, but the video {self.video.name!r} of "
                f"{self.path} has {size[0]}x{size[1]}"
            )
        place = np.array([0, *positions])
        labels = np.array([self.labels.index(label) for label in model.labels])
        found = [
            replace(
                tubelets,
                key_numbers=place[tubelets.key_numbers],
                frame_numbers=place[tubelets.frame_numbers],
                labels=labels[tubelets.labels],
            )
            for tubelets in found
        ]
        frames, tubes = predict(found, model.network)
        check_rows(frames, [self.video], self.labels, lambda row: f"detection {row}")
        return Predictions(frames, tubes, [self.video.name])
