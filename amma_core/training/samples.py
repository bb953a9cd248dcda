"""From annotated videos to batches of clips and windows.

A sample is a run of windows of one video, t frames apart, all seen through the same augmentation.
Neighbouring windows share K - 1 clips, and every distinct clip is in the sample once: the network encodes
each once, and windows pick what they need. Everything random about a sample follows from the seed, the
epoch and its number.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from amma_core.config import NetworkConfig
from amma_core.data.cache import FrameCache, Frames
from amma_core.data.dataset import ActionTube, Video
from amma_core.errors import AmmaError
from amma_core.training.augmentation import (
    BLEND_SHARE,
    Augmentation,
    Scene,
    blend,
    change_colours,
    draw_view,
    move_boxes,
    paste,
    show,
    whole_view,
)
from amma_core.training.recipe import Recipe
from amma_core.training.targets import Targets, join, window_targets
from amma_core.types import Ints


class Batch(NamedTuple):
    clips: NDArray[np.uint8]
    """(N, t, S, S, 3) BGR."""
    windows: NDArray[np.int64]
    """(M, K) indices into `clips`, oldest first."""
    targets: Targets


class Film(NamedTuple):
    """A video as it is played for one sample: as filmed, or backwards."""

    video: Video
    frames: Frames
    """(n, H, W, 3) BGR, in the order of playing."""
    newest: int
    """Number of the newest frame that is seen."""


class Request(NamedTuple):
    """What a loader asks for: the sample of that number, as it is in that epoch, at that input size."""

    epoch: int
    number: int
    input_size: int


@dataclass(frozen=True)
class Samples:
    """The training samples of a list of videos; ``samples[Request(...)]`` makes one.

    An epoch has one sample for every `stride` frames with actions (at least one per video), and each sample
    has up to `windows` windows. The paper's recipe, every frame a key frame once per epoch, is a stride of 1
    and one window. Whatever is random depends on `seed`.

    Videos whose labels are all in `backwards` are played backwards every other time; their labels become what
    that says (see :func:`labels_backwards`). A share `whole` of the samples is drawn from windows without
    copies of the first frame, where there are any.
    """

    videos: list[Video]
    cache: FrameCache
    network: NetworkConfig
    augmentation: Augmentation
    windows: int = 1
    stride: int = 1
    seed: int = 0
    backwards: Mapping[int, int] = field(default_factory=dict)
    whole: float = 0.0

    @classmethod
    def of(
        cls, recipe: Recipe, videos: list[Video], cache: FrameCache, network: NetworkConfig, labels: list[str]
    ) -> "Samples":
        """As `recipe` says. Raises AmmaError where it names labels that are none of `labels`."""
        augmentation, sampling = recipe.augmentation, recipe.sampling
        return cls(
            videos,
            cache,
            network,
            augmentation,
            sampling.windows,
            sampling.stride,
            recipe.seed,
            labels_backwards(augmentation.backwards, labels),
            sampling.whole,
        )

    def __post_init__(self):
        index = []
        for video_index, video in enumerate(self.videos):
            frames = action_frames(video)
            if len(frames):
                index += [
                    (video_index, part) for part in np.array_split(frames, -(-len(frames) // self.stride))
                ]
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, request: Request) -> Batch:
        rng = np.random.default_rng((self.seed, request.epoch, request.number))
        film = self._film(rng, request.number)
        newest, clips, length = film.newest, self.network.clips, self.network.clip_length
        keys = window_keys(film.video, newest, self.windows, clips, length)
        distinct, windows = np.unique(keys, return_inverse=True)
        windows = windows.reshape(keys.shape)
        frames, clip_frames = np.unique(clip_numbers(distinct, length), return_inverse=True)

        size, ages = request.input_size, (newest - frames, newest - distinct)
        scene = self._look(rng, self.augmentation, film, *ages, size)
        if rng.random() < self.augmentation.paste:
            scene = paste(scene, self._look_elsewhere(rng, self.augmentation.of_pasted(), *ages, size))
        if rng.random() < self.augmentation.blend:
            share = rng.uniform(BLEND_SHARE, 1 - BLEND_SHARE)
            scene = blend(scene, self._look_elsewhere(rng, self.augmentation, *ages, size), share)

        grid = size // 8
        targets = []
        for window in windows:
            here = scene.present[:, window[-1]]
            boxes, labels = scene.boxes[here][:, window] * grid, scene.labels[here]
            targets.append(window_targets(boxes, labels, self.network.num_classes, grid))
        return Batch(scene.images[clip_frames.reshape(-1, length)], windows, join(targets))

    def _film(self, rng: Generator, number: int) -> Film:
        """The video of a sample, up to one of the frames that the sample stands for."""
        index, candidates = self._index[number]
        video, frames = self.videos[index], self.cache[self.videos[index].name]
        turns = self.backwards and all(tube.label in self.backwards for tube in video.tubes)
        if turns and rng.random() < 0.5:
            video = turned_round(video, len(frames), self.backwards)
            frames, candidates = frames[::-1], len(frames) + 1 - candidates
        without_copies = candidates[candidates > (self.network.clips - 1) * self.network.clip_length]
        if self.whole and len(without_copies) and rng.random() < self.whole:
            candidates = without_copies
        return Film(video, frames, int(rng.choice(candidates)))

    def _look_elsewhere(
        self, rng: Generator, settings: Augmentation, frame_ages: Ints, key_ages: Ints, size: int
    ) -> Scene:
        """As :meth:`_look`, at another sample's video."""
        number = int(rng.integers(len(self._index)))
        return self._look(rng, settings, self._film(rng, number), frame_ages, key_ages, size)

    def _look(
        self, rng: Generator, settings: Augmentation, film: Film, frame_ages: Ints, key_ages: Ints, size: int
    ) -> Scene:
        """Frames of a video, and what happens on some of them, through a view drawn at random.

        Which ones is said by how many frames they are older than the newest, at a tempo drawn at random.
        """
        video, last = film.video, len(film.frames)
        tempo = settings.tempo ** rng.uniform(-1.0, 1.0)
        frames, keys = (
            np.clip(film.newest - np.rint(ages * tempo).astype(np.int64), 1, last)
            for ages in (frame_ages, key_ages)
        )
        labels, boxes, present = boxes_at(video, keys)
        seen = boxes[present.any(axis=1)]  # a crop may leave out what happens before or after
        view = draw_view(rng, settings, video.width, video.height, seen)
        source = film.frames[frames - 1]
        # A cache may hold smaller frames than the video's; boxes are in the video's pixels.
        ratio = np.array([source.shape[2] / video.width, source.shape[1] / video.height])
        x1, y1, x2, y2 = np.array(view[:4]) * np.tile(ratio, 2)
        images = show(source, view._replace(x1=x1, y1=y1, x2=x2, y2=y2), size)
        images = change_colours(rng, settings, images)
        return Scene(images, labels, move_boxes(boxes, view, 1.0), present)


def check_frames(videos: list[Video], cache: FrameCache) -> None:
    """AmmaError where a video's cached frames are not those that were annotated."""
    for video in videos:
        count, height, width = cache[video.name].shape[:3]
        last = max((int(tube.boxes[-1, 0]) for tube in video.tubes), default=0)
        if last > count:
            raise AmmaError(
                f"{video.file} has {count} frames, but {video.name!r} is annotated up to frame {last}; "
                "give the video that was annotated, or import its annotations anew"
            )
        # Smaller ones may be off by half a pixel.
        if abs(width / video.width - height / video.height) > 1 / min(video.width, video.height):
            raise AmmaError(
                f"{video.file} is not of the {video.width}x{video.height} pixels that {video.name!r} is "
                "annotated with; give the video that was annotated, or import its annotations anew"
            )


def join_batches(batches: list[Batch]) -> Batch:
    """Several samples as one batch."""
    offsets = np.cumsum([0, *(len(batch.clips) for batch in batches[:-1])])
    return Batch(
        np.concatenate([batch.clips for batch in batches]),
        np.concatenate([batch.windows + offset for batch, offset in zip(batches, offsets, strict=True)]),
        join([batch.targets for batch in batches]),
    )


def action_frames(video: Video) -> NDArray[np.int64]:
    """Numbers of the frames on which something is annotated."""
    return np.unique(np.concatenate([[], *(tube.boxes[:, 0] for tube in video.tubes)])).astype(np.int64)


def labels_backwards(names: Mapping[str, str], labels: list[str]) -> dict[int, int]:
    """What each label is in a video that runs backwards, by index; AmmaError for names that are no labels."""
    for name in (*names, *names.values()):
        if name not in labels:
            raise AmmaError(
                f"augmentation.backwards names {name!r}, which is no label of the data set: it has "
                f"{', '.join(labels)}"
            )
    return {labels.index(before): labels.index(after) for before, after in names.items()}


def turned_round(video: Video, frames: int, labels: Mapping[int, int]) -> Video:
    """The annotations of a video of so many frames that is played backwards, where labels become others."""
    tubes = []
    for tube in video.tubes:
        boxes = tube.boxes[::-1].copy()
        boxes[:, 0] = frames + 1 - boxes[:, 0]
        tubes.append(ActionTube(labels[tube.label], boxes))
    return replace(video, tubes=tubes)


def window_keys(video: Video, newest: int, windows: int, clips: int, length: int) -> NDArray[np.int64]:
    """(M, K) key frames of up to `windows` windows, `length` frames apart; the last one ends at `newest`.

    Windows that end before the first frame or on a frame without an action are left out; key frames before
    the first frame are the first frame.
    """
    ends = newest - length * np.arange(windows)[::-1]
    ends = ends[(ends >= 1) & np.isin(ends, action_frames(video))]
    return np.maximum(ends[:, None] - length * np.arange(clips)[::-1], 1)


def clip_numbers(keys: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """(n, t) frames of the clips that end at (n,) key frames; before the first frame, the first."""
    return np.maximum(keys[:, None] - np.arange(length)[::-1], 1)


def boxes_at(video: Video, frames: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray, NDArray[np.bool_]]:
    """Labels (n,), boxes (n, m, 4) on the given frames, and whether each action is there on them (n, m).

    Where it is not, the box is that of the nearest frame that has one: an action that began within a
    window is taken to have stood still before.
    """
    labels = np.array([tube.label for tube in video.tubes], np.int64)
    boxes = np.zeros((len(labels), len(frames), 4))
    present = np.zeros((len(labels), len(frames)), bool)
    for i, tube in enumerate(video.tubes):
        numbers = tube.boxes[:, 0]
        after = np.clip(np.searchsorted(numbers, frames), 0, len(numbers) - 1)
        before = np.maximum(after - 1, 0)
        nearest = np.where(np.abs(numbers[before] - frames) < np.abs(numbers[after] - frames), before, after)
        boxes[i] = tube.boxes[nearest, 1:]
        present[i] = numbers[nearest] == frames
    return labels, boxes, present


def middle_clips(
    videos: list[Video], cache: FrameCache, length: int, side: int, most: int = 64
) -> NDArray[np.uint8]:
    """Clips that end in the middle of some of the videos, as the network sees them.

    (N, length, 3, side, side) BGR.
    """
    clips = []
    for video in videos[:: -(-len(videos) // most)]:
        middle = np.array([max(1, len(cache[video.name]) // 2)])
        frames = cache[video.name][clip_numbers(middle, length)[0] - 1]
        clips.append(show(frames, whole_view(frames), side))
    return np.stack(clips).transpose(0, 1, 4, 2, 3)
