import numpy as np
import pytest
import torch

from amma_core.config import NetworkConfig
from amma_core.detector import ActionDetector
from amma_core.linker import TubeLinker
from amma_core.network import Amma
from amma_core.pipeline import ActionPipeline
from amma_core.runtime.torch_runtime import TorchRuntime

STEP = 40_000_000


@pytest.fixture(scope="module")
def runtime():
    torch.manual_seed(3)
    return TorchRuntime(
        Amma(NetworkConfig(num_classes=2, backbone="shufflenet_v2", clips=3, input_size=64)), "cpu"
    )


def run(runtime, count: int, *, causal: bool = False, policy: str = "pad_first"):
    """Feed `count` frames; returns one LinkStep per frame and the flush's."""
    pipeline = ActionPipeline(
        ActionDetector(runtime, policy=policy), TubeLinker(min_score=0.0, causal=causal)
    )
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    steps = [pipeline.update(np.roll(noise, 3 * i, axis=1), i * STEP) for i in range(count)]
    return [*steps, pipeline.flush()]


@pytest.mark.parametrize("policy", ["pad_first", "full"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("count", [1, 3, 4, 13, 22])
def test_every_frame_comes_out_once_in_order_with_its_stamp(runtime, count, causal, policy):
    frames = [frame for step in run(runtime, count, causal=causal, policy=policy) for frame in step.frames]
    assert [frame.number for frame in frames] == list(range(1, count + 1))
    assert [frame.stamp for frame in frames] == [i * STEP for i in range(count)]


def test_the_papers_way_answers_when_the_next_key_frame_is_known(runtime):
    steps = run(runtime, 10)
    assert [len(step.frames) for step in steps] == [0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 2]
    assert not any(frame.extrapolated for step in steps for frame in step.frames)


def test_causal_mode_answers_every_frame_at_once(runtime):
    steps = run(runtime, 10, causal=True)
    assert [[frame.number for frame in step.frames] for step in steps] == [[i] for i in range(1, 11)] + [[]]
    extrapolated = [frame.number for step in steps for frame in step.frames if frame.extrapolated]
    assert extrapolated == [1, 2, 3, 5, 6, 7, 9, 10]
    assert len(steps[4].frames[0]) > 0, "the tubes of key frame 4 go on in frame 5"
    assert set(steps[4].frames[0].tubes) <= set(steps[3].frames[0].tubes)


def test_causal_mode_carries_nothing_over_a_cut(runtime):
    linker = TubeLinker(min_score=0.0, causal=True)
    pipeline = ActionPipeline(ActionDetector(runtime), linker)
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    before = [pipeline.update(image, i * STEP) for i in range(6)]
    assert len(before[-1].frames[0]) > 0
    cut = pipeline.update(image, 10**12)
    assert [frame.number for frame in cut.frames] == [7]
    assert len(cut.frames[0]) == 0
    assert {tube.id for tube in cut.tubes if tube.ended} >= set(before[-1].frames[0].tubes)


def test_a_tube_keeps_its_id_and_class(runtime):
    frames = [frame for step in run(runtime, 40) for frame in step.frames]
    classes = {}
    for frame in frames:
        assert len(set(frame.tubes.tolist())) == len(frame.tubes)
        for tube, label in zip(frame.tubes.tolist(), frame.labels.tolist(), strict=True):
            assert classes.setdefault(tube, label) == label
    assert classes


def test_all_tubes_end_with_the_stream(runtime):
    steps = run(runtime, 24)
    reported = {tube.id for step in steps for tube in step.tubes}
    ended = [tube.id for step in steps for tube in step.tubes if tube.ended]
    assert set(ended) == reported
    assert len(ended) == len(set(ended))
