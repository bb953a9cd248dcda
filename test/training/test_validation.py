from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amma_core.config import NetworkConfig
from amma_core.data.dataset import Video
from amma_core.detector import ActionDetector
from amma_core.network import Amma
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_core.training.validation import AT_ONCE, detect


@pytest.mark.parametrize("count", [3, 4, 16, 18, 4 * AT_ONCE + 6])
def test_a_video_at_a_time_is_answered_as_its_stream(count):
    torch.manual_seed(0)
    network = Amma(NetworkConfig(num_classes=3, backbone="mobilenet_v2", clips=3, input_size=64)).eval()
    nn.init.normal_(network.branches.center[2].weight, std=0.1)
    noise = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    frames = np.stack([np.roll(noise, 2 * i, axis=1) for i in range(count)])

    detector = ActionDetector(TorchRuntime(deepcopy(network), "cpu"))
    streamed = [answer for i, image in enumerate(frames) for answer in detector.update(image, i)]
    streamed += detector.flush()
    passed = []
    for module in (network.backbone, network.branches):
        module.register_forward_pre_hook(lambda _, inputs: passed.append(len(inputs[0])))
    answers = detect(network, Video("noise", Path(), count, 80, 48, 30.0), frames)

    assert max(passed) <= AT_ONCE
    assert len(answers) == len(streamed)
    for one, other in zip(answers, streamed, strict=True):
        np.testing.assert_array_equal(one.key_numbers, other.key_numbers)
        np.testing.assert_array_equal(one.frame_numbers, other.frame_numbers)
        # Scores that differ by rounding may change places: compare by place.
        by_place, others = (
            np.lexsort((x.boxes[:, -1, 1], x.boxes[:, -1, 0], x.labels)) for x in (one, other)
        )
        np.testing.assert_array_equal(one.labels[by_place], other.labels[others])
        np.testing.assert_allclose(one.scores[by_place], other.scores[others], atol=1e-4)
        np.testing.assert_allclose(one.boxes[by_place], other.boxes[others], atol=1e-2)
