from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from amma_core.config import NetworkConfig
from amma_core.data.cache import FrameCache, open_or_build
from amma_core.data.dataset import ActionTube, Video
from amma_core.errors import AmmaError
from amma_core.training.augmentation import Augmentation
from amma_core.training.samples import (
    Request,
    Samples,
    action_frames,
    boxes_at,
    clip_numbers,
    join_batches,
    labels_backwards,
    turned_round,
    window_keys,
)


def video(frames: int = 12, tubes: list[ActionTube] | None = None, name: str = "v") -> Video:
    if tubes is None:
        tubes = [tube(0, range(1, frames + 1))]
    return Video(name, None, frames, 32, 24, 30.0, tubes)


def tube(label: int, frames, x: float = 4.0) -> ActionTube:
    """A box of 8 x 12 pixels that moves one pixel per frame to the right."""
    return ActionTube(label, np.array([[f, x + f, 6, x + f + 8, 18] for f in frames], float))


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    """Two videos of 12 frames of 32 x 24; every pixel of frame n of video v is 16 v + n."""
    frames = np.zeros((2, 12, 24, 32, 3), np.uint8)
    frames += (16 * np.arange(2)[:, None] + np.arange(1, 13)).astype(np.uint8)[..., None, None, None]
    return cache_of({"v": frames[0], "w": frames[1]}, tmp_path / "cache")


def cache_of(videos: dict[str, np.ndarray], folder: Path) -> FrameCache:
    for name, frames in videos.items():
        (folder / name).mkdir(parents=True)
        for number, frame in enumerate(frames):
            cv2.imwrite(str(folder / name / f"{number:02}.png"), frame)
    return open_or_build(folder, {name: folder / name for name in videos})


def samples(cache: FrameCache, **settings) -> Samples:
    config = NetworkConfig(num_classes=2, backbone="mobilenet_v2", clips=3, clip_length=4, input_size=64)
    videos = [video(name="v"), video(name="w", tubes=[tube(1, range(5, 13))])]
    return Samples(videos, cache, config, Augmentation.none(), **settings)


def test_keys_of_windows_step_by_the_clip_length_and_stop_at_the_first_frame():
    keys = window_keys(video(), newest=11, windows=2, clips=3, length=4)
    assert keys.tolist() == [[1, 3, 7], [3, 7, 11]]


def test_windows_that_end_before_the_video_or_its_action_are_left_out():
    assert window_keys(video(), newest=6, windows=3, clips=2, length=4).tolist() == [[1, 2], [2, 6]]
    late = video(tubes=[tube(0, range(5, 13))])
    assert window_keys(late, newest=8, windows=2, clips=2, length=4).tolist() == [[4, 8]]


def test_a_clip_ends_at_its_key_frame():
    assert clip_numbers(np.array([1, 3, 8]), 4).tolist() == [[1, 1, 1, 1], [1, 1, 2, 3], [5, 6, 7, 8]]


def test_action_frames_of_overlapping_tubes():
    tubes = [tube(0, [2, 3]), tube(1, [3, 4, 7])]
    assert action_frames(video(tubes=tubes)).tolist() == [2, 3, 4, 7]
    assert action_frames(video(tubes=[])).tolist() == []


def test_boxes_before_an_action_are_its_first():
    labels, boxes, present = boxes_at(video(tubes=[tube(1, range(5, 13), x=0)]), np.array([1, 5, 9]))
    assert labels.tolist() == [1]
    assert boxes[0, :, 0].tolist() == [5, 5, 9]
    assert present.tolist() == [[False, True, True]]


def test_neighbouring_windows_share_their_clips(cache):
    batch = samples(cache, windows=2, stride=100)[Request(0, 0, 64)]
    newest = batch.clips[batch.windows[:, -1], -1, 0, 0, 0]  # the pixel value is the frame number
    assert batch.windows.shape == (len(newest), 3)
    if len(newest) == 2:
        assert newest[1] == newest[0] + 4
        assert (batch.windows[1, :-1] == batch.windows[0, 1:]).all()
    keys = batch.clips[:, -1, 0, 0, 0]
    assert len(set(keys.tolist())) == len(keys)


def test_clips_hold_the_right_frames_and_targets_the_right_boxes(cache):
    # A stride of 1 makes every frame of the action a key frame once: sample n ends at frame n + 1.
    all_samples = samples(cache)
    assert len(all_samples) == 12 + 8
    clips, windows, targets = all_samples[Request(0, 10, 64)]  # v, frame 11
    assert clips.shape == (3, 4, 64, 64, 3)
    assert clips[windows[0], :, 0, 0, 0].tolist() == [[1, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    # Centre x: 4 + frame + 4 pixels of 32, on 8 cells: a quarter of that. Centre y: 12 of 24 pixels: 4 cells.
    np.testing.assert_allclose(targets.cells[0, -1], [5, 4])  # 19 / 4 = 4.75
    np.testing.assert_allclose(targets.movement[0, :, 0], np.array([11, 15, 19]) / 4 - 5)
    np.testing.assert_allclose(targets.size[0], [[2, 4]] * 3)
    assert targets.heat[0, 0, 4, 5] == 1
    clips, windows, targets = all_samples[Request(0, 12, 64)]  # w, whose action begins on frame 5
    assert clips[windows[0], -1, 0, 0, 0].tolist() == [16 + 1, 16 + 1, 16 + 5]
    assert targets.heat[0, 1].max() == 1
    assert not targets.heat[0, 0].any()


def test_samples_depend_on_seed_and_epoch_alone(cache):
    some = Samples(
        samples(cache).videos, cache, samples(cache).network, Augmentation(), windows=2, stride=6, seed=5
    )
    first, again = some[Request(3, 1, 64)], some[Request(3, 1, 64)]
    assert (first.clips == again.clips).all()
    assert (first.targets.heat == again.targets.heat).all()
    others = [some[Request(epoch, 1, 64)] for epoch in range(4, 12)]
    assert any(not np.array_equal(other.clips, first.clips) for other in others)


def test_a_pasted_actor_moves_in_step_with_its_own_frames(cache):
    """In every pasted sample, each frame shows the other video as many frames before its newest one."""
    plain = samples(cache)
    pasting = Samples(plain.videos, cache, plain.network, replace(Augmentation.none(), paste=1.0))
    pairs = set()
    for number in range(len(pasting)):
        clips, windows, targets = pasting[Request(0, number, 64)]
        # The pasted actor is the last; its box is around this pixel on the newest frame.
        column, row = targets.cells[-1, -1] * 8
        pixels = clips[windows[0]].astype(int)
        shown, behind = pixels[:, :, row, column, 0], pixels[:, :, 0, 0, 0]
        newest, own = shown[-1, -1], behind[-1, -1]
        video = (newest - 1) // 16
        steps = own - behind
        assert (shown == np.maximum(newest - steps, 16 * video + 1)).all()
        pairs.add(((own - 1) // 16, video))
    assert {(0, 1), (1, 0)} <= pairs


def test_pasted_actors_may_be_smaller_and_only_they(cache):
    plain = samples(cache)
    settings = replace(Augmentation.none(), paste=1.0, paste_ratio=4.0)
    pasting = Samples(plain.videos, cache, plain.network, settings)
    ratios = []
    for number in range(len(pasting)):
        sizes = pasting[Request(0, number, 64)].targets.size[:, -1] / np.array([2, 4])
        np.testing.assert_allclose(sizes[:-1], 1.0)  # unless it is pasted over
        np.testing.assert_allclose(sizes[-1, 0], sizes[-1, 1], rtol=1e-5)  # same shape
        ratios.append(sizes[-1, 0])
    assert 0.25 <= min(ratios) < 0.4
    assert 0.7 < max(ratios) <= 1.0


def test_a_blended_video_shines_through_all_frames(cache):
    plain = samples(cache)
    blending = Samples(plain.videos, cache, plain.network, replace(Augmentation.none(), blend=1.0))
    seen = set()
    for number in range(len(blending)):
        clips, _, targets = blending[Request(0, number, 64)]
        assert (clips == clips[:, :, :1, :1]).all()
        assert len(targets.labels) == 2
        seen.add(tuple(targets.labels.tolist()))
    assert {(0, 1), (1, 0)} <= seen


def test_crops_keep_an_action_that_is_there(cache):
    """And not one that ended before, in another corner."""
    plain = samples(cache)
    ended = ActionTube(1, np.array([[1.0, 0, 0, 3, 3]]))
    videos = [video(name="v", tubes=[ended, tube(0, range(12, 13), x=12)])]
    settings = replace(Augmentation.none(), crop=1.0, crop_scale=0.2)
    cropping = Samples(videos, cache, replace(plain.network, clips=2), settings, seed=1)
    for epoch in range(40):
        assert cropping[Request(epoch, 1, 64)].targets.labels.tolist() == [0]  # frame 12


def test_tempo_changes_how_far_apart_frames_are(cache):
    plain = samples(cache)
    hurried = Samples(plain.videos, cache, plain.network, replace(Augmentation.none(), tempo=2.0))
    spans = []
    for epoch in range(30):
        clips, windows, targets = hurried[Request(epoch, 11, 64)]  # v, frame 12
        numbers = clips[windows[0], :, 0, 0, 0].astype(int).ravel()
        assert numbers[-1] == 12
        assert (np.diff(numbers) >= 0).all()
        spans.append(12 - numbers[-4])  # 3 frames at the usual tempo
        # The boxes are those of the frames that are shown.
        keys = clips[windows[0], -1, 0, 0, 0]
        np.testing.assert_allclose(targets.movement[0, :, 0] + targets.cells[0, -1, 0], (keys + 8) / 4)
    assert min(spans) == 2
    assert max(spans) in (5, 6)


def test_a_video_runs_backwards_every_other_time_and_is_called_what_it_then_is(cache):
    plain = samples(cache)
    turning = samples(cache, backwards={0: 1})  # v may be turned and becomes what w shows; w may not
    labels = []
    for epoch in range(40):
        clips, windows, targets = turning[Request(epoch, 8, 64)]  # v, frame 9
        shown = clips[windows[0], :, 0, 0, 0].astype(int).ravel()
        backwards = bool((np.diff(shown) <= 0).all())
        assert shown[-1] == 9
        # Of the twelve frames three come before frame 9 when played backwards; copies stand for the rest.
        assert shown.tolist() == ([12] * 8 + [12, 11, 10, 9] if backwards else [1] * 4 + list(range(2, 10)))
        keys = clips[windows[0], -1, 0, 0, 0]
        np.testing.assert_allclose(targets.movement[0, :, 0] + targets.cells[0, -1, 0], (keys + 8) / 4)
        labels.append(targets.labels.item())
        assert labels[-1] == int(backwards)
    assert 10 < sum(labels) < 30
    for number in range(12, 20):  # w's
        request = Request(0, number, 64)
        np.testing.assert_array_equal(turning[request].clips, plain[request].clips)


def test_whole_windows_are_drawn_more_often(cache):
    newest = {}
    for share in (0.0, 1.0):
        some = samples(cache, stride=12, whole=share)
        shown = [some[Request(epoch, 0, 64)].clips[-1, -1, 0, 0, 0] for epoch in range(60)]
        newest[share] = set(map(int, shown))
    assert min(newest[0.0]) <= 2
    assert newest[1.0] == {9, 10, 11, 12}  # key frames 1, 5 and 9 are the first three different ones


def test_a_video_without_whole_windows_is_drawn_as_it_is(cache):
    some = samples(cache, whole=1.0)
    assert some[Request(0, 3, 64)].clips[-1, -1, 0, 0, 0] == 4


def test_videos_blended_in_run_backwards_too(cache):
    blending = samples(cache, backwards={0: 1})
    blending = replace(blending, augmentation=replace(Augmentation.none(), blend=1.0))
    seen = {tuple(blending[Request(0, n, 64)].targets.labels.tolist()) for n in range(12, 20)}  # onto w, 1
    assert {(1, 0), (1, 1)} <= seen


def test_a_tube_that_is_turned_round_keeps_its_gaps():
    turned = turned_round(video(tubes=[tube(0, [2, 3, 7])]), 12, {0: 1})
    (only,) = turned.tubes
    assert only.label == 1
    assert only.boxes.tolist() == [[6, 11, 6, 19, 18], [10, 7, 6, 15, 18], [11, 6, 6, 14, 18]]


def test_labels_backwards_are_the_data_sets():
    labels = ["sit", "stand", "walk"]
    assert labels_backwards({"sit": "stand", "stand": "sit"}, labels) == {0: 1, 1: 0}
    with pytest.raises(AmmaError, match="names 'rise', which is no label of the data set: it has sit, stand"):
        labels_backwards({"sit": "rise"}, labels)


def test_joined_samples_keep_their_clips_and_targets(cache):
    all_samples = samples(cache)
    parts = [all_samples[Request(0, number, 64)] for number in (10, 15)]
    clips, windows, targets = join_batches(parts)
    newest = clips[windows[targets.window, -1], -1, 0, 0, 0]
    assert newest.tolist() == [11, 16 + 8]
    assert [int(targets.heat[i].max((1, 2)).argmax()) for i in range(2)] == [0, 1]


def test_a_smaller_cache_shows_the_same(cache, tmp_path):
    """Frames of half the size in the cache, boxes in the video's own pixels."""
    full = samples(cache)
    half = cache_of({name: cache[name][:, ::2, ::2] for name in ("v", "w")}, tmp_path / "half")
    settings = (full.network, Augmentation(flip=1.0, photometric=0.0, expand=0.0, crop=0.0), 1, 1, 0)
    small = Samples(full.videos, half, *settings)[Request(0, 10, 64)]
    large = Samples(full.videos, cache, *settings)[Request(0, 10, 64)]
    assert (small.clips == large.clips).all()
    assert (small.targets.size == large.targets.size).all()
