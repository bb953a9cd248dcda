"""Detections drawn on frames."""

import colorsys
from collections import Counter, deque
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN_RATIO = 0.618034
CAPTION = "{label} {score:.2f} #{tube}"


class Annotator:
    """Draws boxes, captions and trails; one colour per tube, sizes that fit the image.

    Remembers where each tube has been, so use one per stream and give it the frames in order. The font is
    OpenCV's: before OpenCV 5 it has no letters but ASCII's, and question marks stand for others.
    """

    def __init__(self, trail: int = 30, caption: str = CAPTION):
        self.trail = trail
        """Frames that a trail goes back at most, as long as its tube is in each; 0 draws none."""
        self.caption = caption
        """What is written at a box; the fields are ``label``, ``score`` and ``tube``. Nothing if empty."""
        self._paths: dict[int, deque] = {}  # tube id -> (x, y), newest last

    def draw(
        self,
        image: NDArray[np.uint8],
        boxes: NDArray[np.float32],
        labels: Sequence[str],
        scores: NDArray[np.float32],
        tubes: Sequence[int],
    ) -> NDArray[np.uint8]:
        """Return a copy of a (H, W, 3) BGR image with D detections drawn on it.

        boxes: (D, 4) pixels; labels, scores, tubes: D class names, scores in 0..1, tube ids. The better a
        detection, the later it is drawn, on top of the others.
        """
        canvas = image.copy()
        height, width = image.shape[:2]
        unit = max(1, round(min(height, width) / 300))
        order = np.argsort(scores, kind="stable")
        self._follow(boxes, tubes)
        for index in order:
            self._draw_trail(canvas, tubes[index], unit)
        for index in order:
            x1, y1, x2, y2 = (round(float(value)) for value in boxes[index])
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colour(tubes[index]), 1 + unit, cv2.LINE_AA)
        taken: list[tuple[int, int, int, int]] = []
        for index in order[::-1]:
            caption = self.caption.format(label=labels[index], score=scores[index], tube=tubes[index])
            if caption:
                taken.append(_draw_caption(canvas, caption, boxes[index], colour(tubes[index]), taken))
        return canvas

    def _follow(self, boxes: NDArray[np.float32], tubes: Sequence[int]) -> None:
        """Go on from the frame before. Where a tube was not in it, or several boxes have one id, as other
        nodes give it, nobody knows which way it came."""
        centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).round().astype(np.int32)
        alone = {tube for tube, count in Counter(tubes).items() if count == 1}
        self._paths = {
            tube: deque([*self._paths.get(tube, ()), centre], maxlen=self.trail)
            for tube, centre in zip(tubes, centres, strict=True)
            if tube in alone
        }

    def _draw_trail(self, canvas: NDArray[np.uint8], tube: int, unit: int) -> None:
        points = self._paths.get(tube, ())
        if len(points) > 1:
            cv2.polylines(canvas, [np.array(points)], False, colour(tube), unit, cv2.LINE_AA)


def colour(tube: int) -> tuple[int, int, int]:
    """A BGR colour for a tube id; ids that follow each other differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb(tube * GOLDEN_RATIO % 1.0, 0.75, 0.95)
    return round(blue * 255), round(green * 255), round(red * 255)


def _draw_caption(
    canvas, caption: str, box, fill: tuple[int, int, int], taken: list
) -> tuple[int, int, int, int]:
    """Write above the box, else below, else inside, where no caption stands; returns the place."""
    height, width = canvas.shape[:2]
    scale = max(0.35, min(height, width) / 1000)
    thickness = max(1, round(scale * 2))
    (text_width, text_height), baseline = cv2.getTextSize(caption, FONT, scale, thickness)
    pad = max(2, text_height // 4)
    w, h = text_width + 2 * pad, text_height + baseline + 2 * pad

    left = int(np.clip(round(float(box[0])), 0, max(width - w, 0)))
    above, below = round(float(box[1])) - h, round(float(box[3]))
    inside = np.arange(max(round(float(box[1])), 0), height - h + 1, h)
    tops = [*range(above, -1, -h)[:2], *([below] if below + h <= height else []), *inside.tolist()]
    places = [(left, top, left + w, top + h) for top in tops] or [(left, 0, left + w, h)]
    place = next((p for p in places if not any(_touch(p, other) for other in taken)), places[0])

    cv2.rectangle(canvas, place[:2], (place[2] - 1, place[3] - 1), fill, cv2.FILLED)
    bright = 0.114 * fill[0] + 0.587 * fill[1] + 0.299 * fill[2] > 140
    ink = (0, 0, 0) if bright else (255, 255, 255)
    corner = (place[0] + pad, place[1] + pad + text_height)
    cv2.putText(canvas, caption, corner, FONT, scale, ink, thickness, cv2.LINE_AA)
    return place


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
