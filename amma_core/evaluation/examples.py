"""The frames behind the worst errors: wrong detections that the model was surest of."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from amma_core.data.dataset import Video
from amma_core.errors import AmmaError
from amma_core.evaluation.curves import ERRORS
from amma_core.video import VideoReader

RIGHT, WRONG = (80, 175, 40), (40, 40, 220)  # BGR
SHOWN_WIDTH = 480
"""Pixels: twice what the report's columns are wide, for fine screens."""


@dataclass(frozen=True, eq=False)
class Example:
    kind: str
    """One of ``ERRORS``."""
    caption: str
    image: bytes
    """JPEG of at most SHOWN_WIDTH: the wrong box in red, the true ones of the frame in green."""


def worst_errors(
    detections: NDArray, outcomes: NDArray[np.int64], per_kind: int = 4
) -> list[tuple[str, int]]:
    """The best-scored wrong detections of every kind, at most one per video: (kind, row)."""
    worst = []
    for kind, name in enumerate(ERRORS, 1):
        rows = np.flatnonzero(outcomes == kind)
        rows = rows[np.argsort(-detections[rows, 3], kind="stable")]
        _, first = np.unique(detections[rows, 0], return_index=True)
        worst += [(name, int(row)) for row in rows[np.sort(first)[:per_kind]]]
    return worst


def examples(
    worst: list[tuple[str, int]],
    detections: NDArray,
    truth: NDArray,
    videos: Sequence[Video],
    labels: Sequence[str],
) -> list[Example]:
    """Pictures of these errors; those whose video cannot be read are left out.

    detections and truth are (N, 8) rows as everywhere in the evaluation.
    """
    found = []
    for kind, row in worst:
        index, frame, label = detections[row, :3].astype(np.int64).tolist()
        video = videos[index]
        image = _frame(video, frame)
        if image is None:
            continue
        here = truth[(truth[:, 0] == index) & (truth[:, 1] == frame)]
        for box in here[:, 4:]:
            _draw(image, box, RIGHT)
        _draw(image, detections[row, 4:], WRONG)
        doing = " and ".join(sorted({labels[int(one)] for one in here[:, 2]})) or "nothing"
        caption = f"{labels[label]} {detections[row, 3]:.2f}, true: {doing} ({video.name}, frame {frame})"
        done, data = cv2.imencode(".jpg", _shown(image), [cv2.IMWRITE_JPEG_QUALITY, 85])
        if done:
            found.append(Example(kind, caption, data.tobytes()))
    return found


def _frame(video: Video, number: int) -> NDArray[np.uint8] | None:
    try:
        image, _ = next(islice(VideoReader(video.file), number - 1, None), (None, 0))
    except AmmaError:
        return None
    return image


def _shown(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    if width <= SHOWN_WIDTH:
        return image
    size = (SHOWN_WIDTH, max(1, round(height * SHOWN_WIDTH / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _draw(image: NDArray[np.uint8], box: NDArray, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    thickness = max(2, round(min(image.shape[:2]) / 120))
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, thickness, cv2.LINE_AA)
