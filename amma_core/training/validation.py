"""Frame-mAP of a network on videos in the frame cache, streaming as deployed but a video at a time."""

import numpy as np
import torch
from numpy.typing import NDArray

from amma_core.data.cache import FrameCache
from amma_core.data.dataset import Video
from amma_core.decoding import decode, discount_copies
from amma_core.evaluation.frame_map import frame_map
from amma_core.evaluation.tubelets import frame_detections
from amma_core.evaluation.tubes import annotated_tubes
from amma_core.network import Amma
from amma_core.training.augmentation import show, whole_view
from amma_core.training.samples import clip_numbers
from amma_core.types import Tubelets

AT_ONCE = 32
"""Clips, or windows of clips, that go through the network together: a video may be long."""


def validate(network: Amma, videos: list[Video], cache: FrameCache) -> float:
    """Frame-mAP@0.5 in percent. Leaves the network in evaluation mode."""
    network.eval()
    rows = []
    for index, video in enumerate(videos):
        rows.append(frame_detections(detect(network, video, cache[video.name]), index))
    return frame_map(np.concatenate(rows), annotated_tubes(videos).frames(), network.config.num_classes)


@torch.inference_mode()
def detect(network: Amma, video: Video, frames: NDArray[np.uint8]) -> list[Tubelets]:
    """The answers at all key frames of a video: every t frames, and its last frame.

    What :class:`~amma_core.detector.ActionDetector` gives for the same frames, many clips at a time.
    """
    config = network.config
    device = next(network.parameters()).device
    keys = np.append(np.arange(config.clip_length, len(frames), config.clip_length), len(frames))
    clips = clip_numbers(np.append(1, keys), config.clip_length)  # the padding's, then the keys'
    windows = np.maximum(np.arange(1, len(clips))[:, None] - np.arange(config.clips)[::-1], 0)

    def encode(clips: NDArray[np.int64]) -> torch.Tensor:
        images = show(frames[clips.ravel() - 1], whole_view(frames), config.input_size)
        images = images.reshape(*clips.shape, *images.shape[1:])
        return network.encode(torch.from_numpy(images).to(device).permute(0, 1, 4, 2, 3))

    def head(windows: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        maps = network.head(features[torch.from_numpy(windows).to(device)])
        return [values.float().cpu().numpy() for values in maps]

    features = torch.cat([encode(part) for part in _parts(clips)])
    answers = (answer for part in _parts(windows) for answer in zip(*head(part), strict=True))
    steps = []
    before = 0
    for i, (key, maps) in enumerate(zip(keys, answers, strict=True)):
        labels, scores, boxes = decode(
            *maps, (video.width, video.height), add_motion_of_key=config.add_key_movement
        )
        numbers = np.append(1, keys)[windows[i]]
        scores = discount_copies(scores, numbers)
        settled = np.arange(before + 1, key + 1)
        before = key
        steps.append(
            Tubelets((video.width, video.height), numbers, numbers, settled, settled, labels, scores, boxes)
        )
    return steps


def _parts(items: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]
