"""A recording for the Rerun viewer: frames, boxes, and the score of every tube over time.

Needs the package ``rerun-sdk``, which nothing else here does.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from amma_core.drawing import colour
from amma_core.errors import AmmaError, packages_for
from amma_core.types import FrameDetections

JPEG_QUALITY = 80


class RerunView:
    """Logs settled frames to a ``.rrd`` file, or, without a path, to a viewer that it opens.

    Raises AmmaError where rerun-sdk is not installed or the file cannot be written.
    """

    def __init__(self, path: str | Path | None, labels: Sequence[str]):
        with packages_for("the Rerun view", "rerun-sdk"):
            import rerun
            import rerun.blueprint
        self._rerun, self._labels = rerun, labels
        self._recording = rerun.RecordingStream("amma")
        views = rerun.blueprint.Vertical(
            rerun.blueprint.Spatial2DView(origin="camera", name="Camera"),
            rerun.blueprint.TimeSeriesView(origin="score", name="Score of each tube"),
            row_shares=[3, 1],
        )
        try:
            if path is None:
                self._recording.spawn(default_blueprint=views)
            else:
                self._recording.save(str(path), default_blueprint=views)
        except (OSError, RuntimeError) as error:
            raise AmmaError(f"{path or 'the Rerun viewer'} cannot be opened: {error}") from None

    def add(self, image: NDArray[np.uint8], frame: FrameDetections) -> None:
        """Log a (H, W, 3) BGR frame with what was found in it."""
        rerun, recording = self._rerun, self._recording
        recording.set_time("frame", sequence=frame.number)
        recording.set_time("stamp", duration=frame.stamp / 1e9)
        recording.log("camera", rerun.Image(image, color_model="BGR").compress(jpeg_quality=JPEG_QUALITY))
        tubes = frame.tubes.tolist()
        names = [self._labels[label] for label in frame.labels]
        captions = [
            f"{name} {score:.2f} #{tube}"
            for name, score, tube in zip(names, frame.scores.tolist(), tubes, strict=True)
        ]
        recording.log(
            "camera/detections",
            rerun.Boxes2D(
                array=frame.boxes,
                array_format=rerun.Box2DFormat.XYXY,
                labels=captions,
                colors=[colour(tube)[::-1] for tube in tubes],
            ),
        )
        for name, score, tube in zip(names, frame.scores.tolist(), tubes, strict=True):
            # As a list, of parts that Rerun escapes: names may hold spaces and slashes.
            recording.log(["score", name, str(tube)], rerun.Scalars(score))

    def close(self) -> None:
        self._recording.flush()
        self._recording.disconnect()
