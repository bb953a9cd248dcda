"""Videos as they look from farther away, to see how small people may be."""

import cv2
import numpy as np
from numpy.typing import NDArray

BLUR = 8
"""Of the picture around: enough that nobody is found there."""


def shown_smaller(image: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """A (H, W, 3) image of the same size with the whole picture in its middle, `ratio` times smaller.

    Around it is a blurred copy: plain colour would show where the picture ends, and mirror images would show
    people twice.
    """
    if ratio == 1:
        return image
    left, top, right, bottom = _place(*image.shape[1::-1], ratio)
    height, width = image.shape[:2]
    few = cv2.resize(image, (max(1, width // BLUR), max(1, height // BLUR)), interpolation=cv2.INTER_AREA)
    shown = cv2.resize(cv2.GaussianBlur(few, (0, 0), 3), (width, height))
    shown[top:bottom, left:right] = cv2.resize(
        image, (right - left, bottom - top), interpolation=cv2.INTER_AREA
    )
    return shown


def at_full_size(boxes: NDArray, ratio: float, width: int, height: int) -> NDArray:
    """Boxes (N, 4) in what :func:`shown_smaller` gives -> where they are in the `width` x `height` image.

    Pixels, both corners inside; clipped to the image.
    """
    if ratio == 1:
        return boxes
    left, top, right, bottom = _place(width, height, ratio)
    corner, inside = np.array([left, top] * 2), np.array([0, 0, 1, 1])  # a box's last pixel ends one later
    scale = np.array([width / (right - left), height / (bottom - top)] * 2)
    full = (boxes + inside - corner) * scale - inside
    return np.clip(full, 0, np.array([width - 1, height - 1] * 2)).astype(boxes.dtype)


def _place(width: int, height: int, ratio: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the picture made smaller."""
    w, h = max(1, round(width / ratio)), max(1, round(height / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
