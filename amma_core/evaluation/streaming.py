"""A model over the videos of a split, as a robot would see them: frame by frame, once."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache, partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from amma_core import bundle
from amma_core.data.dataset import Video
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.evaluation.predictions import tube_arrays, tubes_of
from amma_core.evaluation.smaller import at_full_size, shown_smaller
from amma_core.evaluation.tubelets import frame_detections, published_detections
from amma_core.evaluation.tubes import Tubes
from amma_core.files import bytes_of, make_folder, write_text_whole, written_whole
from amma_core.linker import TubeLinker
from amma_core.pipeline import ActionPipeline
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_core.types import Tubelets
from amma_core.video import VideoReader

STAGES = ("encode", "head", "link", "rest")


@dataclass(frozen=True)
class Settings:
    """What the result of a video depends on."""

    model: str
    labels: tuple[str, ...]
    """The classes of the data set, in its order; the model must know no others."""
    device: str = "auto"
    policy: str = "pad_first"
    dense: bool = False
    """Frame detections from a key frame at every frame of a clip instead of every t-th. Tubes stay as they
    are."""
    mirrored: bool = False
    """Whether the mirror image is looked at as well."""
    smaller: float = 1.0
    """How many times smaller pictures are shown: see :mod:`amma_core.evaluation.smaller`."""


@dataclass(frozen=True, eq=False)
class VideoResult:
    frames: NDArray[np.float32]
    """(N, 8) as in a file of predictions."""
    published: NDArray[np.float32]
    """(M, 8) likewise, of the detections that the linker publishes frame by frame."""
    tubes: Tubes
    seconds: NDArray[np.float64]
    """(4,) spent per stage: see STAGES. Reading the video and a dense pass are not in it."""
    latencies: NDArray[np.float64]
    """Seconds from the arrival of a key frame to its answer, per answer."""
    count: int
    """Frames seen."""

    def save(self, path: Path) -> None:
        with written_whole(path) as file:
            np.savez(
                file,
                frames=self.frames,
                published=self.published,
                seconds=self.seconds,
                latencies=self.latencies,
                count=self.count,
                **tube_arrays(self.tubes),
            )

    @classmethod
    def load(cls, path: Path) -> "VideoResult":
        with np.load(path) as file:
            arrays = dict(file)
        rest = (arrays["seconds"], arrays["latencies"], int(arrays["count"]))
        return cls(arrays["frames"], arrays["published"], tubes_of(arrays), *rest)


class Evaluator:
    """Runs one model over videos, one after the other."""

    def __init__(self, settings: Settings):
        model = bundle.load(settings.model)
        unknown = [label for label in model.labels if label not in settings.labels]
        if unknown:
            raise AmmaError(f"{model.path} finds {unknown[0]!r}, which is not among the data set's labels")
        self.settings = settings
        self._labels = np.array([settings.labels.index(label) for label in model.labels])
        self._fps = model.fps
        self._runtime = TorchRuntime(model.build(), _device(settings.device), mirrored=settings.mirrored)
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._time(self._runtime, "encode", "encode")
        self._time(self._runtime, "head", "head")

    def __call__(self, index: int, video: Video) -> VideoResult:
        """Raises AmmaError if the video cannot be read, or its frames have another size than is annotated."""
        config = self._runtime.config
        linker = TubeLinker(min_frames=config.clips * config.clip_length, keep_history=True)
        self._time(linker, "update", "link")
        self._time(linker, "finish", "link")
        pipeline = ActionPipeline(self._detector(), linker)
        self._seconds = dict.fromkeys(STAGES, 0.0)
        found: list[Tubelets] = []
        tubes, latencies, total = [], [], 0.0

        def take(step: Callable, *frame) -> None:
            nonlocal total
            start = time.perf_counter()
            tubes.extend(step(*frame).tubes)
            elapsed = time.perf_counter() - start
            total += elapsed
            latencies.extend([elapsed] * bool(pipeline.tubelets))
            found.extend(pipeline.tubelets)

        for image, stamp in _images(video, self.settings.smaller):
            take(pipeline.update, image, stamp)
        take(pipeline.flush)
        self._seconds["rest"] = total - sum(self._seconds.values())
        seconds = np.array([self._seconds[stage] for stage in STAGES])
        published = published_detections(found, index).astype(np.float32)
        if self.settings.dense:
            for lead in range(1, config.clip_length):
                found += self._shifted(video, lead)

        frames = frame_detections(found, index).astype(np.float32)
        at = {"ratio": self.settings.smaller, "width": video.width, "height": video.height}
        for rows in (frames, published):
            rows[:, 2] = self._labels[rows[:, 2].astype(np.int64)]
            rows[:, 4:] = at_full_size(rows[:, 4:], **at)
        ended = Tubes.of(
            (
                index,
                self._labels[tube.label],
                tube.score,
                np.column_stack([tube.numbers, at_full_size(tube.boxes, **at)]),
            )
            for tube in tubes
        )
        seen = pipeline.detector.frames_seen
        return VideoResult(frames, published, ended, seconds, np.array(latencies), seen)

    def _detector(self) -> ActionDetector:
        """As deployed: clips at the model's rate. A slow video is no series of cuts."""
        options = {"policy": self.settings.policy, "target_fps": self._fps, "max_gap": math.inf}
        return ActionDetector(self._runtime, **options)

    def _shifted(self, video: Video, lead: int) -> list[Tubelets]:
        """The answers at key frames `lead` frames earlier: copies of the first frame go before the video."""
        detector, found = self._detector(), []
        period = round(1e9 / min(video.fps, self._fps))  # of the frames that clips hold
        for image, stamp in _images(video, self.settings.smaller):
            for early in range(lead if detector.frames_seen == 0 else 0, 0, -1):
                found += detector.update(image, stamp - early * period)
            found += detector.update(image, stamp)
        return [replace(step, key_numbers=np.maximum(step.key_numbers - lead, 1)) for step in found]

    def _time(self, target: object, method: str, stage: str) -> None:
        """Have the time that a method takes added to a stage."""
        inner = getattr(target, method)

        def timed(*arguments):
            start = time.perf_counter()
            result = inner(*arguments)
            if self._runtime.device.type == "cuda":
                torch.cuda.synchronize(self._runtime.device)  # else the next stage would pay for this one
            self._seconds[stage] += time.perf_counter() - start
            return result

        setattr(target, method, timed)


def _device(name: str) -> str:
    """With several GPUs in a machine, each of its ranks takes one."""
    several = torch.cuda.device_count()
    rank = int(os.environ.get("LOCAL_RANK", 0))
    return f"cuda:{rank % several}" if name == "auto" and several > 1 else name


def _images(video: Video, smaller: float) -> Iterator[tuple[NDArray[np.uint8], int]]:
    for image, stamp in islice(VideoReader(video.file, video.fps), video.frames):
        height, width = image.shape[:2]
        if (width, height) != (video.width, video.height):
            raise AmmaError(
                f"{video.file} has frames of {width}x{height} pixels, but the video {video.name!r} is "
                f"annotated as {video.width}x{video.height}; give both the same size"
            )
        yield shown_smaller(image, smaller), stamp


def evaluate_videos(
    settings: Settings, videos: list[Video], folder: Path, workers: int = 1, share: tuple[int, int] = (0, 1)
) -> None:
    """Run a model over videos and leave the result of each in a file of ``folder``.

    Videos whose file is there are not run again, so that a run that was cut off goes on where it was.

    Args:
        settings: what to run.
        videos: all videos of the split.
        folder: where the results go; made if it is not there.
        workers: processes that run videos at the same time.
        share: this machine's rank and the number of machines; it runs every so-manieth video.

    Raises:
        AmmaError: a video cannot be read or has another size than is annotated, or the folder cannot be
            written or holds the results of other settings.
    """
    make_folder(folder)
    _claim(folder, settings, videos)
    rank, world = share
    todo = [
        (index, video, result_file(folder, index))
        for index, video in enumerate(videos)
        if index % world == rank and not result_file(folder, index).exists()
    ]
    mine = len(range(rank, len(videos), world))
    progress = tqdm(total=mine, initial=mine - len(todo), unit=" videos", disable=rank > 0)
    with progress:
        for _ in _results(settings, todo, workers):
            progress.update()


def result_file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.npz"


def _results(settings: Settings, todo: list, workers: int) -> Iterator[None]:
    if not todo:
        return
    if min(workers, len(todo)) == 1:
        evaluator = Evaluator(settings)
        for index, video, path in todo:
            yield evaluator(index, video).save(path)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        yield from pool.map(partial(_run, settings), todo)


def _run(settings: Settings, task: tuple[int, Video, Path]) -> None:
    index, video, path = task
    _evaluator(settings)(index, video).save(path)


_evaluator = cache(Evaluator)
"""A worker's own, made with its first video: what fails while the pool starts would not come through."""


def _claim(folder: Path, settings: Settings, videos: list[Video]) -> None:
    """Refuse a folder with results of something else, for instance of videos that were recorded again."""
    model = bundle.load(settings.model)
    weights = b"".join(file.read_bytes() for file in model.weights)
    content = {
        "results": ["frames", "published", "tubes"],  # older versions' lack the second
        **asdict(settings),
        "labels": list(settings.labels),
        "fps": model.fps,
        "shares": list(model.shares),
        "weights": hashlib.sha256(weights).hexdigest() if model.trained else None,
        "videos": [
            [video.name, video.frames, video.width, video.height, video.fps, bytes_of(video.file)]
            for video in videos
        ],
    }
    note = folder / "settings.json"
    # Older versions knew fewer settings, and ran as their defaults say.
    usual = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    usual["shares"] = []
    if note.exists() and usual | json.loads(note.read_text(encoding="utf-8")) != content:
        raise AmmaError(
            f"{folder} holds results of another model, other videos or another setting; give another --output"
        )
    write_text_whole(note, json.dumps(content))  # several ranks may be at it
