import numpy as np
import pytest
import torch
from torch import nn

from amma_core.clips import ClipAssembler
from amma_core.config import NetworkConfig
from amma_core.decoding import decode
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.network.heads import peak_cells
from amma_core.runtime.torch_runtime import TorchRuntime, fold_batch_norm, free_gpu_memory
from amma_core.streams import FeatureCache, infer

STEP = 33_000_000  # nanoseconds between frames
BACKBONES = ["resnet18", "mobilenet_v2", "shufflenet_v2"]


@pytest.fixture(scope="module")
def runtimes():
    """One small network per backbone, with offsets that move and statistics that matter."""
    made = {}
    for backbone in BACKBONES:
        torch.manual_seed(0)
        network = Amma(NetworkConfig(num_classes=3, backbone=backbone, clips=3, input_size=64))
        nn.init.normal_(network.decoder[0].offsets.weight, std=0.05)
        nn.init.normal_(network.branches.center[2].weight, std=0.1)
        made[backbone] = TorchRuntime(network, "cpu")
    return made


def frames(count: int, seed: int = 0) -> np.ndarray:
    """A scene that changes slowly: the same noise, moving."""
    noise = np.random.default_rng(seed).integers(0, 256, (48, 80, 3), np.uint8)
    return np.stack([np.roll(noise, 2 * i, axis=1) for i in range(count)])


def feed(detector: ActionDetector, images: np.ndarray, start: int = 0) -> list:
    answers = []
    for i, image in enumerate(images):
        answers += detector.update(image, start + i * STEP)
    return answers


def from_scratch(runtime: TorchRuntime, images: np.ndarray, keys: list[int]):
    """All K clips encoded anew, in the paper's order of operations; `keys` are 1-based frame numbers."""
    import cv2

    size, length = runtime.config.input_size, runtime.config.clip_length
    clips = []
    for key in keys:
        numbers = np.maximum(np.arange(key - length, key), 0)
        clips.append([cv2.resize(images[n], (size, size), interpolation=cv2.INTER_LINEAR) for n in numbers])
    stacked = torch.from_numpy(np.array(clips)[None]).permute(0, 1, 2, 5, 3, 4)
    with torch.no_grad():
        maps = runtime._network(stacked)
    height, width = images[0].shape[:2]
    return maps, decode(*(m[0].numpy() for m in maps), (width, height))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("policy", ["pad_first", "full"])
def test_streaming_equals_recomputing_every_window(runtimes, backbone, policy):
    runtime = runtimes[backbone]
    images = frames(22)
    detector = ActionDetector(runtime, policy=policy)
    answers = feed(detector, images) + detector.flush()
    keys = {
        "pad_first": [[1, 1, 4], [1, 4, 8], [4, 8, 12], [8, 12, 16], [12, 16, 20], [16, 20, 22]],
        "full": [[4, 8, 12], [8, 12, 16], [12, 16, 20], [16, 20, 22]],
    }[policy]
    assert [answer.key_numbers.tolist() for answer in answers] == keys
    for answer in answers:
        _, (labels, scores, boxes) = from_scratch(runtime, images, answer.key_numbers.tolist())
        # Peaks whose scores differ by less than rounding may change places: compare by place, not by rank.
        order, expected = (
            np.lexsort((b[:, -1, 1].round(1), b[:, -1, 0].round(1), n))
            for b, n in ((answer.boxes, answer.labels), (boxes, labels))
        )
        np.testing.assert_array_equal(answer.labels[order], labels[expected])
        seen = len(set(answer.key_numbers.tolist())) / 3  # copies of a clip tell nothing new
        np.testing.assert_allclose(answer.scores[order], scores[expected] * seen, atol=1e-4)
        np.testing.assert_allclose(answer.boxes[order], boxes[expected], atol=1e-2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_streamed_maps_equal_recomputed_maps_to_1e_4(runtimes, backbone):
    runtime = runtimes[backbone]
    images = frames(16)
    assembler, cache = ClipAssembler(4, 3, 64), FeatureCache(3)
    for i, image in enumerate(images):
        for step in assembler.add(image, i * STEP):
            infer(runtime, [(cache, step)])
    heat, movement, size = runtime.head([cache.features], top=8)
    recomputed, _ = from_scratch(runtime, images, cache.keys[:, 0].tolist())
    np.testing.assert_allclose(heat, recomputed.heat.numpy(), atol=1e-4)
    np.testing.assert_allclose(size, recomputed.size.numpy(), atol=1e-4)
    sample, row, column = peak_cells(torch.from_numpy(heat), top=8)
    found, expected = (maps[sample, :, row, column] for maps in (movement, recomputed.movement.numpy()))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_folded_batch_normalisation_changes_nothing(backbone):
    torch.manual_seed(1)
    network = Amma(NetworkConfig(num_classes=3, backbone=backbone, clips=2, input_size=64)).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    folded = fold_batch_norm(network)
    left = [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(left) == 1, "the deformable convolution's alone"
    clips = torch.randint(0, 256, (1, 2, 4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        for one, other in zip(network(clips), folded(clips), strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_network_stays_as_its_owner_has_it():
    network = Amma(NetworkConfig(num_classes=3, backbone="shufflenet_v2", clips=2, input_size=64)).train()
    TorchRuntime(network, "cpu")
    assert all(module.training for module in network.modules())


def test_one_encoder_pass_per_clip(runtimes):
    runtime = runtimes["mobilenet_v2"]
    before = runtime.clips_encoded
    feed(ActionDetector(runtime, policy="full"), frames(40))
    assert runtime.clips_encoded - before == 10

    before = runtime.clips_encoded
    feed(ActionDetector(runtime, policy="pad_first"), frames(40))
    assert runtime.clips_encoded - before == 11  # and one for the copies of the first frame


@pytest.mark.parametrize("policy", ["pad_first", "full"])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 11, 12, 13, 23])
def test_every_frame_is_settled_once_and_in_order(runtimes, policy, count):
    detector = ActionDetector(runtimes["mobilenet_v2"], policy=policy)
    answers = feed(detector, frames(count)) + detector.flush()
    numbers = np.concatenate([answer.frame_numbers for answer in answers])
    assert numbers.tolist() == list(range(1, count + 1))
    assert np.concatenate([a.frame_stamps for a in answers]).tolist() == [i * STEP for i in range(count)]
    for answer in answers:
        assert answer.frame_numbers[-1] == answer.key_numbers[-1]
        assert answer.key_stamps.tolist() == [(n - 1) * STEP for n in answer.key_numbers]
        assert answer.boxes.shape == (len(answer), 3, 4)
        assert answer.image_size == (80, 48)


def test_flush_of_a_one_frame_video_pads_with_that_frame(runtimes):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    assert feed(detector, frames(1)) == []
    (answer,) = detector.flush()
    assert answer.key_numbers.tolist() == [1, 1, 1]
    assert detector.flush() == []


@pytest.mark.parametrize(
    ("cut", "image", "reason"),
    [
        (-STEP, frames(1)[0], "the clock jumped back"),
        (2_000_000_000, frames(1)[0], "a gap"),
        (STEP, np.zeros((60, 60, 3), np.uint8), "another image size"),
    ],
)
def test_a_cut_ends_the_stream_and_loses_no_frame(runtimes, cut, image, reason):
    detector = ActionDetector(runtimes["mobilenet_v2"], max_gap=1.0)
    answers = feed(detector, frames(6))
    answers += detector.update(image, 5 * STEP + cut)
    answers += detector.flush()
    assert [answer.stream for answer in answers] == [0, 0, 1], reason
    assert [answer.key_numbers.tolist() for answer in answers] == [[1, 1, 4], [1, 4, 6], [7, 7, 7]]
    assert [answer.frame_numbers.tolist() for answer in answers] == [[1, 2, 3, 4], [5, 6], [7]]


def test_after_a_cut_nothing_old_is_seen(runtimes):
    old, new = frames(9, seed=1), frames(4, seed=2)
    detector = ActionDetector(runtimes["mobilenet_v2"])
    feed(detector, old)
    cut = feed(detector, new, start=10**12)[-1]
    fresh = feed(ActionDetector(runtimes["mobilenet_v2"]), new)[-1]
    np.testing.assert_array_equal(cut.boxes, fresh.boxes)
    np.testing.assert_array_equal(cut.scores, fresh.scores)
    assert cut.key_numbers.tolist() == [10, 10, 13]


def test_equal_stamps_are_no_cut(runtimes):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    answers = [answer for image in frames(8) for answer in detector.update(image, 0)]
    assert [answer.stream for answer in answers] == [0, 0]


def test_reset_forgets_frames_without_an_answer(runtimes):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    feed(detector, frames(6))
    detector.reset()
    assert detector.flush() == []
    (answer,) = feed(detector, frames(4), start=6 * STEP)
    assert (answer.stream, answer.key_numbers.tolist()) == (1, [7, 7, 10])


def test_skipped_frames_are_counted_and_never_settled(runtimes):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    images = frames(20)
    answers = feed(detector, images[:5])
    for i in range(5, 9):
        assert detector.skip(i * STEP) == []
    answers += feed(detector, images[9:15], start=9 * STEP)
    answers += detector.flush()
    assert [answer.key_numbers.tolist() for answer in answers] == [[1, 1, 4], [1, 4, 13], [4, 13, 15]]
    # Frame 5 began a clip that the skipped frames tore, so it went with them.
    assert [answer.frame_numbers.tolist() for answer in answers] == [[1, 2, 3, 4], [10, 11, 12, 13], [14, 15]]
    assert detector._stream.frames_torn == 1
    assert {answer.stream for answer in answers} == {0}


def test_a_stream_that_starts_with_a_hole_is_padded_with_a_frame_it_settles(runtimes):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    feed(detector, frames(2))
    for i in range(2, 9):
        detector.skip(i * STEP)
    (answer,) = feed(detector, frames(4), start=9 * STEP)
    assert answer.key_numbers.tolist() == [10, 10, 13]
    assert answer.frame_numbers.tolist() == [10, 11, 12, 13]


def test_a_network_that_fails_ends_the_stream(runtimes, monkeypatch):
    """A clip that was not encoded must neither be missing in the window nor keep older ones there."""
    runtime = runtimes["mobilenet_v2"]
    detector = ActionDetector(runtime)
    feed(detector, frames(12))
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "encode", lambda clips: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            feed(detector, frames(4), start=100 * STEP)  # begins a stream
    (answer,) = feed(detector, frames(4), start=104 * STEP)
    assert answer.key_numbers.tolist() == [17, 17, 20]


def test_streams_in_one_batch_get_the_answers_they_get_alone(runtimes):
    runtime = runtimes["mobilenet_v2"]
    videos = [frames(8, seed) for seed in (1, 2, 3)]
    alone = [feed(ActionDetector(runtime), video) for video in videos]
    assemblers = [ClipAssembler(4, 3, 64) for _ in videos]
    caches = [FeatureCache(3) for _ in videos]
    together = []
    for i in range(8):
        steps = [
            assembler.add(video[i], i * STEP) for assembler, video in zip(assemblers, videos, strict=True)
        ]
        work = [(cache, step[0]) for cache, step in zip(caches, steps, strict=True) if step]
        together += infer(runtime, work) if work else []
    for n in range(3):
        for one, other in zip(alone[n], together[n::3], strict=True):
            np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), atol=1e-4)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_an_unfit_image_is_refused_and_the_stream_goes_on(runtimes, image):
    detector = ActionDetector(runtimes["mobilenet_v2"])
    feed(detector, frames(3))
    with pytest.raises(AmmaError, match="a frame has shape"):
        detector.update(image, 3 * STEP)
    (answer,) = detector.update(frames(4)[3], 3 * STEP)
    assert answer.key_numbers.tolist() == [1, 1, 4]


def test_settings_are_checked(runtimes):
    with pytest.raises(AmmaError, match="policy is 'eager'"):
        ActionDetector(runtimes["mobilenet_v2"], policy="eager")
    with pytest.raises(AmmaError, match="max_gap is 0"):
        ActionDetector(runtimes["mobilenet_v2"], max_gap=0)
    for name in ("gpu", "cuda:01", "cuda:\u0661"):
        with pytest.raises(AmmaError, match=f"no device '{name}'"):
            TorchRuntime(runtimes["mobilenet_v2"]._network, name)
    with pytest.raises(AmmaError, match="precision is 'int8'"):
        TorchRuntime(runtimes["mobilenet_v2"]._network, "cpu", "int8")
    if not torch.cuda.is_available():
        with pytest.raises(AmmaError, match="sees 0 GPUs"):
            TorchRuntime(runtimes["mobilenet_v2"]._network, "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_gets_its_memory_back(runtimes):
    """What is left are torch's own workspaces, which do not grow with each model."""
    left = []
    for _ in range(3):
        runtime = TorchRuntime(Amma(runtimes["resnet18"].config), "cuda")
        features = runtime.encode(np.zeros((8, 4, 64, 64, 3), np.uint8))
        runtime.head([features[:3]], top=100)
        used = torch.cuda.memory_reserved()
        del runtime, features
        free_gpu_memory()
        left.append(torch.cuda.memory_reserved())
    assert left[-1] == left[0]
    assert left[-1] < used / 2


def test_scores_under_the_minimum_are_left_out(runtimes):
    images = frames(4)
    (everything,) = feed(ActionDetector(runtimes["mobilenet_v2"], top=1000), images)
    bound = float(np.median(everything.scores))
    (some,) = feed(ActionDetector(runtimes["mobilenet_v2"], top=1000, min_score=bound), images)
    assert 0 < len(some) < len(everything)
    assert some.scores.min() >= bound


@pytest.mark.parametrize(
    ("camera", "keys"),
    [
        (30.0, [4, 8, 12, 16, 20, 24]),
        (29.97, [4, 8, 12, 16, 20, 24]),
        (60.0, [7, 15, 23, 24]),
        (25.0, [4, 8, 12, 16, 20, 24]),
        (10.0, [4, 8, 12, 16, 20, 24]),
        (120.0, [12, 24]),
        (50.0, [6, 13, 19, 24]),
    ],
)
def test_clips_have_the_target_rate_whatever_the_cameras(camera, keys):
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image = np.zeros((48, 64, 3), np.uint8)
    steps = [step for n in range(24) for step in assembler.add(image, round(n * 1e9 / camera))]
    steps += assembler.finish()
    assert [step.clip.number for step in steps] == keys
    settled = [step.settled_numbers.tolist() for step in steps]
    assert [numbers[-1] for numbers in settled] == keys
    assert [number for numbers in settled for number in numbers] == list(range(1, 25))


@pytest.mark.parametrize("clock", [0, 100])
def test_of_a_clock_that_stands_still_every_frame_is_taken(clock):
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image = np.zeros((48, 64, 3), np.uint8)
    steps = [step for _ in range(8) for step in assembler.add(image, clock)]
    assert [step.settled_numbers.tolist() for step in steps] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_clock_that_stood_still_takes_nothing_with_it():
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image = np.zeros((48, 64, 3), np.uint8)
    for _ in range(90):
        assembler.add(image, 0)
    steps = [step for n in range(1, 121) for step in assembler.add(image, round(n * 1e9 / 30))]
    assert len(steps) == 30


@pytest.mark.parametrize(("camera", "lacking"), [(30, [3, 2, 1, 0]), (60, [7, 6, 5, 4, 3, 2, 1, 0])])
def test_it_says_how_many_frames_the_clip_begun_lacks(camera, lacking):
    """As far as the clip before has told."""
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image, found = np.zeros((48, 64, 3), np.uint8), []
    for n in range(23 if camera == 60 else 8):
        assembler.add(image, round(n * 1e9 / camera))
        found.append(assembler.lacking)
    assert found[-len(lacking) :] == lacking
    assembler.add(image, round((n + 1000) * 1e9 / camera))
    # The first frame of a stream is taken, whenever it comes.
    assert assembler.lacking == (6 if camera == 60 else 3), "a cut leaves the camera as fast as it was"


def test_a_jittering_camera_at_the_target_rate_loses_no_frame():
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image = np.zeros((48, 64, 3), np.uint8)
    jitter = np.random.default_rng(0).uniform(-4e6, 4e6, 400)
    for n in range(400):
        assembler.add(image, round(1e12 + n * 1e9 / 30 + jitter[n]))
    assert assembler._made == 100


def test_frames_passed_over_are_dropped_with_the_clip_that_is_skipped():
    assembler = ClipAssembler(4, 3, 64, target_fps=30.0)
    image = np.zeros((48, 64, 3), np.uint8)
    for n in range(10):
        steps = assembler.add(image, round(n * 1e9 / 60))
    assert steps == []
    assembler.skip(round(10 * 1e9 / 60))
    steps = [step for n in range(11, 20) for step in assembler.add(image, round(n * 1e9 / 60))]
    assert [step.settled_numbers.tolist() for step in steps] == [[12, 13, 14, 15, 16, 17, 18]]
