"""Find actions in a video: a file, a folder of images, or a camera's number.

Prints the action tubes found. --output writes the video with boxes drawn, --json one line per frame:

    {"frame": 1, "stamp": 0.0, "detections": [{"label", "score", "box": [x1, y1, x2, y2], "tube"}]}

frame counts from 1, stamp is in seconds, boxes are in pixels of the video, tube is the action tube's id.

    amma detect street.mp4 --output street_actions.mp4
    amma detect 0 --json - --causal
"""

import argparse
import json
import math
import sys
from collections import deque
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from pathlib import Path
from typing import TextIO

from amma_core import bundle
from amma_core.errors import AmmaError
from amma_core.files import check_writable
from amma_core.types import FrameDetections, LinkStep, Tube, Tubelets


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video", help="a video file, a folder of images, or the number of a camera")
    parser.add_argument(
        "--model", default=bundle.DEFAULT, help="folder or shipped name (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write the video with boxes drawn (.mp4 or .avi)")
    parser.add_argument(
        "--json", metavar="FILE", help="write one line of JSON per frame; - is standard output"
    )
    parser.add_argument(
        "--rerun",
        metavar="FILE",
        nargs="?",
        const="",
        help="show all in the Rerun viewer (pip install rerun-sdk), or record it to FILE.rrd",
    )
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help="write all that `amma eval` wants to know (.npz), whatever its score",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.2, metavar="P", help="drop tubes below (default: 0.2)"
    )
    parser.add_argument("--fps", type=float, help="frames per second, instead of what the source says")
    parser.add_argument(
        "--mirrored",
        action="store_true",
        help="look at the mirror image as well; up to twice the work, not where actions have a side",
    )
    parser.add_argument(
        "--causal",
        action="store_true",
        help="answer each frame at once, carrying boxes on between key frames",
    )


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from amma_core.detector import ActionDetector
    from amma_core.drawing import Annotator
    from amma_core.linker import TubeLinker
    from amma_core.pipeline import ActionPipeline
    from amma_core.rerun_view import RerunView
    from amma_core.runtime.torch_runtime import TorchRuntime
    from amma_core.video import VideoReader, VideoWriter, is_camera

    if not 0 <= arguments.min_score <= 1:
        raise AmmaError(f"--min-score is {arguments.min_score}, but must be from 0 to 1")
    reader = VideoReader(arguments.video, arguments.fps)
    camera = is_camera(arguments.video)
    _check_outputs(arguments, None if camera else Path(arguments.video))
    model = bundle.load(arguments.model)
    if not model.trained:
        print(f"The model {model.name!r} is untrained: what it finds means nothing.", file=sys.stderr)
    # A camera may fall silent for a while; a file's frames follow each other, however slow it is.
    options = {"target_fps": model.fps} if camera else {"target_fps": model.fps, "max_gap": math.inf}
    runtime = TorchRuntime(model.build(), arguments.device, mirrored=arguments.mirrored)
    detector = ActionDetector(runtime, **options)
    pipeline = ActionPipeline(detector, TubeLinker(min_score=arguments.min_score, causal=arguments.causal))

    annotator = Annotator()
    waiting = deque()  # frames that are not settled yet
    tubes: dict[int, Tube] = {}
    found: list[Tubelets] = []
    with ExitStack() as stack:
        lines = stack.enter_context(_open_lines(arguments.json)) if arguments.json else None
        writer = None
        if arguments.output:
            writer = stack.enter_context(VideoWriter(arguments.output, reader.size, reader.fps))
        view = None
        if arguments.rerun is not None:
            view = stack.enter_context(closing(RerunView(arguments.rerun or None, model.labels)))

        def settle(step: LinkStep) -> None:
            if arguments.predictions:
                found.extend(pipeline.tubelets)
            for frame in step.frames:
                image = waiting.popleft()
                if lines:
                    print(json.dumps(_line(frame, model.labels)), file=lines, flush=True)
                if view:
                    view.add(image, frame)
                if writer:
                    names = [model.labels[label] for label in frame.labels]
                    writer.write(
                        annotator.draw(image, frame.boxes, names, frame.scores, frame.tubes.tolist())
                    )
            tubes.update((tube.id, tube) for tube in step.tubes)

        bar = stack.enter_context(tqdm(reader, total=reader.frame_count, unit=" frames", leave=False))
        try:
            for image, stamp in bar:
                waiting.append(image)
                settle(pipeline.update(image, stamp))
        except KeyboardInterrupt:
            pass  # how a camera is stopped: what was seen until then is written
        settle(pipeline.flush())
    if arguments.predictions:
        from amma_core.evaluation.predictions import predict, save_predictions

        save_predictions(arguments.predictions, *predict(found, model.network), labels=model.labels)
    if arguments.json != "-":
        _print_tubes(list(tubes.values()), model.labels, detector.frames_seen)


def _check_outputs(arguments: argparse.Namespace, source: Path | None) -> None:
    """Nothing that is written may take the place of the source, or of something else that is written."""
    from amma_core.video import IMAGES

    taken: dict[Path, str] = {}
    for option in ("output", "json", "rerun", "predictions"):
        given = getattr(arguments, option)
        if not given or (option, given) == ("json", "-"):
            continue
        path = Path(given).resolve()
        if source and path == source.resolve():
            raise AmmaError(f"--{option} is {given}, the video itself: choose another file")
        if source and path.parent == source.resolve() and path.suffix.lower() in IMAGES:
            raise AmmaError(f"--{option} is {given}, among the images of the video: choose another file")
        if path in taken:
            raise AmmaError(f"--{taken[path]} and --{option} are both {given}: give each a file of its own")
        taken[path] = option
    if arguments.predictions:  # written last, while the others are opened before work begins
        check_writable(Path(arguments.predictions))


def _open_lines(path: str) -> AbstractContextManager[TextIO]:
    if path == "-":
        return nullcontext(sys.stdout)
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise AmmaError(f"{path} cannot be written: {error.strerror}") from None


def _line(frame: FrameDetections, labels: tuple[str, ...]) -> dict:
    columns = (frame.labels.tolist(), frame.scores.tolist(), frame.boxes.tolist(), frame.tubes.tolist())
    detections = [
        {
            "label": labels[label],
            "score": round(score, 4),
            "box": [round(value, 2) for value in box],
            "tube": tube,
        }
        for label, score, box, tube in zip(*columns, strict=True)
    ]
    return {"frame": frame.number, "stamp": frame.stamp / 1e9, "detections": detections}


def _print_tubes(tubes: list[Tube], labels: tuple[str, ...], frames: int) -> None:
    print(f"{len(tubes)} action tubes in {frames} frames")
    for tube in sorted(tubes, key=lambda tube: -tube.score):
        start, end = tube.start_stamp / 1e9, tube.end_stamp / 1e9
        print(f"  {tube.score:.2f}  {labels[tube.label]:<16} {start:8.2f} s to {end:8.2f} s   tube {tube.id}")
