"""What a network that has seen many more videos makes of the actions to learn: hints, besides their labels.

The teacher is I3D with its weights of Kinetics-400. It watches a square around each action once, without
augmentation, and its features, one vector for every 8 frames, are kept in a file.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from amma_core.data.cache import FrameCache, Frames
from amma_core.data.dataset import ActionTube, Video
from amma_core.errors import AmmaError
from amma_core.files import written_whole
from amma_core.training.augmentation import View, warp_of
from amma_core.training.i3d import CHANNELS, I3D, STRIDE, i3d_of
from amma_core.training.packages import TEACHER, fetch
from amma_core.types import Ints

SIDE = 224
"""Pixels of the square that the teacher sees."""
AT_ONCE = 64
"""Frames that the teacher sees at once at most, as in its own training."""
MARGIN = 1.3
"""Side of the square, in sides of the smallest one around the action."""


class Hints:
    """The teacher's features of many videos, each feature with mean 0 and variance 1 over all of them."""

    def __init__(self, features: Mapping[str, NDArray]):
        """`features`: for each video's name, (n, s, D) of its n actions in its s steps of 8 frames."""
        every = np.concatenate([values.reshape(-1, values.shape[-1]) for values in features.values()])
        mean, deviation = every.mean(axis=0), every.std(axis=0) + 1e-3
        self._features = {name: (values - mean) / deviation for name, values in features.items()}
        self.channels = every.shape[1]

    def at(self, name: str, frames: Ints) -> NDArray[np.float32]:
        """(n, m, D) around the (m,) frames, counted from 1, of a video."""
        features = self._features[name]
        return features[:, np.minimum((frames - 1) // STRIDE, features.shape[1] - 1)]


def open_or_make(
    path: Path, videos: list[Video], cache: FrameCache, weights_cache: Path, device: torch.device
) -> Hints:
    """The hints in the file `path`, which is made now, on `device`, if it isn't there.

    Raises AmmaError where the file is of other videos, or the teacher can't be fetched.
    """
    if not path.exists():
        features = watch(videos, cache, i3d_of(*fetch(TEACHER, weights_cache)).to(device))
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            np.savez(file, **{video.name: values for video, values in zip(videos, features, strict=True)})
    features = {}
    try:
        with np.load(path) as file:
            for video in videos:
                features[video.name] = file[video.name].astype(np.float32)
                if len(features[video.name]) != len(video.tubes):
                    raise KeyError(f"{video.name} with {len(video.tubes)} actions")
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise AmmaError(
            f"{path} does not hold the hints for these videos ({error}): name another "
            "file as teacher, or delete it"
        ) from None
    return Hints(features)


def watch(videos: list[Video], cache: FrameCache, teacher: I3D) -> list[NDArray[np.float16]]:
    """For each video (n, s, 1024): the teacher's features of its n actions in its s steps of 8 frames."""
    teacher = teacher.to(torch.bfloat16, memory_format=torch.channels_last_3d)
    device = next(teacher.parameters()).device
    features = []
    for video in tqdm(videos, desc="asking the teacher", unit="video", mininterval=5):
        frames = cache[video.name]
        ratio = frames.shape[2] / video.width
        of_video = np.zeros((len(video.tubes), -(-len(frames) // STRIDE), CHANNELS), np.float16)
        for tube, of_action in zip(video.tubes, of_video, strict=True):
            for first in range(0, len(frames), AT_ONCE):
                part = frames[first : first + AT_ONCE]
                images = torch.from_numpy(square_around(part, boxes_near(tube, first, len(part)) * ratio))
                images = images.permute(3, 0, 1, 2)[None].to(device, torch.bfloat16) / 127.5 - 1
                with torch.inference_mode():
                    seen = teacher(images.contiguous(memory_format=torch.channels_last_3d))
                steps = seen[0].float().mean(dim=(2, 3)).T.cpu().numpy()
                of_action[first // STRIDE : first // STRIDE + len(steps)] = steps
        features.append(of_video)
    return features


def boxes_near(tube: ActionTube, first: int, count: int) -> NDArray:
    """An action's boxes on `count` frames after the `first` ones, or the box nearest to them in time."""
    numbers = tube.boxes[:, 0]
    inside = (numbers > first) & (numbers <= first + count)
    inside[np.abs(numbers - first - count / 2).argmin()] |= not inside.any()
    return tube.boxes[inside, 1:]


def square_around(frames: Frames, boxes: NDArray) -> Frames:
    """A square of all (n, H, W, 3) BGR frames in which all boxes lie: (n, 224, 224, 3) RGB."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    side = np.clip(MARGIN * (high - low).max(), 1.0, max(frames.shape[1:3]))
    (x1, y1), (x2, y2) = ((low + high - side) / 2, (low + high + side) / 2)
    warp, size = warp_of(View(x1, y1, x2, y2, False), SIDE), (SIDE, SIDE)
    squares = [cv2.warpAffine(frame, warp, size, borderMode=cv2.BORDER_REPLICATE) for frame in frames]
    return np.ascontiguousarray(np.stack(squares)[..., ::-1])
