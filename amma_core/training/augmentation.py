"""Random changes to a training sample, the same for all of its frames (after SSD, Liu et al. 2016).

Geometry is one rectangle of the source image, possibly larger than it, that is stretched to the square
network input, and perhaps mirrored. Boxes follow in grid cells. Colours are changed after the resize,
where there are fewer pixels.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from amma_core.boxes import iou
from amma_core.config import within

FILL = (104, 114, 120)
"""Mean colour, BGR, around an image that was made smaller."""
CROP_OVERLAPS = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
"""Least mean IoU of a crop with a tubelet, one drawn at random; None is no crop at all."""
TRIALS = 50
PASTE_MARGIN = 0.1
"""Of its side, around the rectangle that is pasted."""
PASTE_HIDES = 0.4
"""Share of an action's box below a pasted rectangle from which on it does not count any more."""
BLEND_SHARE = 0.35
"""Least share of each of two blended videos: less of one could not be asked for as an action."""


@dataclass(frozen=True)
class Augmentation:
    """How often and how much, as is usual in the paper's line of work. ``none()`` changes nothing."""

    flip: float = 0.5
    photometric: float = 0.5
    """Probability of each of brightness, contrast, saturation and hue."""
    brightness: float = 32.0
    contrast: float = 0.5
    saturation: float = 0.5
    """Factors from 1 - this to 1 + this."""
    hue: float = 18.0
    """Degrees."""
    expand: float = 0.5
    expand_ratio: float = 2.0
    crop: float = 1.0
    """Probability of drawing a crop at all (of which one in seven is still the whole image)."""
    crop_scale: float = 0.3
    """Least side of a crop as a share of the image's."""
    paste: float = 0.0
    """Probability that another video's actors are pasted in: ours, see :func:`paste`."""
    paste_ratio: float = 1.0
    """How many times smaller those may be, in a random place then: ours."""
    blend: float = 0.0
    """Probability that another video shines through: ours, see :func:`blend`."""
    grey: float = 0.0
    """Probability that all colour is taken away: ours."""
    tempo: float = 1.0
    """Largest factor by which a video runs faster or slower, a new one for each sample: ours."""
    backwards: dict[str, str] = field(default_factory=dict)
    """What a label becomes when its video runs backwards, as it does every other time where all of its labels
    are named here: ours."""

    def __post_init__(self):
        shares = ("flip", "photometric", "contrast", "saturation", "expand", "crop", "crop_scale")
        for name in (*shares, "paste", "blend", "grey"):
            within(f"augmentation.{name}", getattr(self, name), 0, 1)
        within("augmentation.brightness", self.brightness, 0, 255)
        within("augmentation.hue", self.hue, 0, 180)
        within("augmentation.expand_ratio", self.expand_ratio, 1)
        within("augmentation.paste_ratio", self.paste_ratio, 1)
        within("augmentation.tempo", self.tempo, 1)

    @classmethod
    def none(cls) -> "Augmentation":
        return cls(flip=0.0, photometric=0.0, expand=0.0, crop=0.0)

    def of_pasted(self) -> "Augmentation":
        """What befalls a video whose actors are to be pasted: there is no border around what is cut out."""
        return replace(self, expand=1.0, expand_ratio=self.paste_ratio) if self.paste_ratio > 1 else self


class View(NamedTuple):
    """The part of the source image that the network sees."""

    x1: float
    y1: float
    x2: float
    y2: float
    """In source pixels; beyond the image there is the mean colour."""
    mirrored: bool


class Scene(NamedTuple):
    """What the network sees of a stretch of video."""

    images: NDArray[np.uint8]
    """(n, S, S, 3) BGR."""
    labels: NDArray[np.int64]
    """(m,) classes of the actions."""
    boxes: NDArray[np.float64]
    """(m, k, 4) on each of the k key frames, in shares of the image's side."""
    present: NDArray[np.bool_]
    """(m, k) whether each action is there on each key frame."""


def draw_view(rng: Generator, settings: Augmentation, width: int, height: int, tubelets: NDArray) -> View:
    """Draw a view of a `width` x `height` image.

    `tubelets` (n, m, 4) are the boxes of n actions on the m key frames, in pixels.
    """
    x, y, w, h = 0.0, 0.0, float(width), float(height)
    if rng.random() < settings.expand:
        ratio = rng.uniform(1.0, settings.expand_ratio)
        w, h = w * ratio, h * ratio
        x, y = rng.uniform(width - w, 0.0), rng.uniform(height - h, 0.0)
    if rng.random() < settings.crop:
        x, y, w, h = _draw_crop(rng, settings, np.array([x, y, w, h]), tubelets)
    return View(x, y, x + w, y + h, bool(rng.random() < settings.flip))


def _draw_crop(rng: Generator, settings: Augmentation, canvas: NDArray, tubelets: NDArray) -> NDArray:
    overlap = CROP_OVERLAPS[rng.integers(len(CROP_OVERLAPS))]
    if overlap is None:
        return canvas
    sides = rng.uniform(settings.crop_scale, 1.0, (TRIALS, 2)) * canvas[2:]
    corners = canvas[:2] + rng.random((TRIALS, 2)) * (canvas[2:] - sides)
    crops = np.concatenate([corners, corners + sides], axis=1)
    aspect = (sides[:, 1] / sides[:, 0]) * (canvas[2] / canvas[3])
    good = (aspect >= 0.5) & (aspect <= 2.0)
    if len(tubelets):
        shared = iou(crops[:, None, None], tubelets).mean(axis=2)
        centres = (tubelets[..., :2] + tubelets[..., 2:]).mean(axis=1) / 2
        inside = ((centres > crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(axis=-1)
        good &= (inside & (shared >= overlap)).any(axis=1)
    if not good.any():
        return canvas
    chosen = good.argmax()
    return np.concatenate([corners[chosen], sides[chosen]])


def whole_view(frames: NDArray[np.uint8]) -> View:
    """What (n, H, W, 3) frames show, all of it and not mirrored."""
    return View(0.0, 0.0, frames.shape[2], frames.shape[1], False)


def show(frames: NDArray[np.uint8], view: View, size: int) -> NDArray[np.uint8]:
    """The (n, H, W, 3) frames through a view: (n, size, size, 3)."""
    height, width = frames.shape[1:3]
    if view == whole_view(frames):
        return np.stack([cv2.resize(frame, (size, size), interpolation=cv2.INTER_LINEAR) for frame in frames])
    matrix = warp_of(view, size)
    inside = min(view.x1, view.y1) >= 0 and view.x2 <= width and view.y2 <= height
    border = cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT
    return np.stack(
        [cv2.warpAffine(frame, matrix, (size, size), borderMode=border, borderValue=FILL) for frame in frames]
    )


def warp_of(view: View, size: int) -> NDArray[np.float64]:
    """(2, 3) OpenCV's affine map from source pixels to those of the view, stretched to size x size."""
    scale = size / np.array([view.x2 - view.x1, view.y2 - view.y1])
    # Output pixel centres are half a pixel off the corners that boxes are measured from.
    shift = (0.5 - np.array([view.x1, view.y1])) * scale - 0.5
    matrix = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
    if view.mirrored:
        matrix[0] = -matrix[0]
        matrix[0, 2] += size - 1
    return matrix


def move_boxes(boxes: NDArray, view: View, grid: float) -> NDArray[np.float64]:
    """Boxes (..., 4) in source pixels -> cells of a `grid` x `grid` map of the view; not clipped."""
    scale = np.tile(grid / np.array([view.x2 - view.x1, view.y2 - view.y1]), 2)
    moved = (boxes - np.array([view.x1, view.y1, view.x1, view.y1])) * scale
    if view.mirrored:
        moved = np.stack([grid - moved[..., 2], moved[..., 1], grid - moved[..., 0], moved[..., 3]], axis=-1)
    return moved


def paste(onto: Scene, other: Scene) -> Scene:
    """Cut the rectangle in which the other scene's actors move out of it and put it where it was, onto this.

    Both scenes' actions count then, but for those that are mostly hidden. An actor on strange ground can't be
    told by the place (after ActorCutMix, Zou et al. 2021, and CutMix, Yun et al. 2019).
    """
    there = other.present.any(axis=1)
    if not there.any():
        return onto
    boxes = other.boxes[there].reshape(-1, 4)
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    margin = PASTE_MARGIN * (high - low)
    low, high = np.clip(low - margin, 0, 1), np.clip(high + margin, 0, 1)
    (left, top), (right, bottom) = (np.rint(c * onto.images.shape[1]).astype(int) for c in (low, high))
    images = onto.images.copy()
    images[:, top:bottom, left:right] = other.images[:, top:bottom, left:right]

    extent = np.clip(np.minimum(onto.boxes[..., 2:], high) - np.maximum(onto.boxes[..., :2], low), 0, None)
    area = (onto.boxes[..., 2:] - onto.boxes[..., :2]).prod(axis=-1)
    hidden = extent.prod(axis=-1) / np.where(area > 0, area, 1)
    kept = hidden.mean(axis=1) < PASTE_HIDES
    joined = (np.concatenate([ours[kept], theirs]) for ours, theirs in zip(onto[1:], other[1:], strict=True))
    return Scene(images, *joined)


def blend(onto: Scene, other: Scene, share: float) -> Scene:
    """Let the other scene shine through with `share`, 0 to 1, of its brightness. The actions of both count.

    Two videos a time are many more pairs than there are videos, so that they are harder to learn by heart
    (mixup, Zhang et al. 2018, and for detectors Zhang et al. 2019).
    """
    images = cv2.addWeighted(onto.images, 1 - share, other.images, share, 0.0)
    return Scene(images, *(np.concatenate(both) for both in zip(onto[1:], other[1:], strict=True)))


def change_colours(rng: Generator, settings: Augmentation, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One random change of brightness, contrast, saturation and hue for all (n, H, W, 3) BGR frames."""
    chosen = rng.random(4) < settings.photometric
    amounts = rng.uniform(-1.0, 1.0, 4) * [
        settings.brightness,
        settings.contrast,
        settings.saturation,
        settings.hue,
    ]
    brightness, contrast, saturation, hue = np.where(chosen, amounts, 0.0)
    if settings.grey and rng.random() < settings.grey:
        chosen[2], saturation = True, -1.0
    if not chosen.any():
        return frames
    values = np.arange(256)
    curve = np.clip((values + brightness) * (1 + contrast), 0, 255).astype(np.uint8)
    # OpenCV stores hue in half degrees, 0..179.
    hues = ((values + round(hue / 2)) % 180).astype(np.uint8)
    saturations = np.clip(values * (1 + saturation), 0, 255).astype(np.uint8)
    table = np.stack([hues, saturations, values.astype(np.uint8)], axis=-1)[None]
    # All frames at once, one above the other: OpenCV's calls cost more than its work on small images.
    tall = cv2.LUT(frames.reshape(-1, *frames.shape[2:]), curve)
    if chosen[2:].any():
        tall = cv2.cvtColor(cv2.LUT(cv2.cvtColor(tall, cv2.COLOR_BGR2HSV), table), cv2.COLOR_HSV2BGR)
    return tall.reshape(frames.shape)
