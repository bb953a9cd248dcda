import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from fetching import fetched
from torch.nn import functional as F

from amma_core.data.dataset import load_dataset
from amma_core.training.hints import square_around
from amma_core.training.i3d import I3D, Arrays, Convolution, i3d_of, pad
from amma_core.training.packages import TEACHER
from amma_core.video import VideoReader

ROOT = Path(__file__).parents[2]
JHMDB = ROOT / ".." / "shared" / "data" / "jhmdb21"


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "before", "after"),
    [(8, 7, 2, 2, 3), (9, 7, 2, 3, 3), (8, 3, 2, 0, 1), (9, 3, 2, 1, 1), (9, 2, 2, 0, 1), (5, 3, 1, 1, 1)],
)
def test_padding_is_tensorflows(size, kernel, stride, before, after):
    padded = pad(torch.ones(1, 1, size, 4, 4), (kernel, 1, 1), (stride, 1, 1))[0, 0, :, 0, 0]
    assert padded.tolist() == [0] * before + [1] * size + [0] * after


def test_features_are_one_for_8_frames_and_32_pixels_rounded_up():
    with torch.inference_mode():
        assert I3D()(torch.zeros(1, 3, 9, 65, 32)).shape == (1, 1024, 2, 3, 1)


def flax_like(network: I3D) -> dict:
    """Random variables in the form of the package's checkpoint, for every convolution of the network."""
    rng = np.random.default_rng(0)
    params, stats = {}, {}
    for name, module in network.named_modules():
        if not isinstance(module, Convolution):
            continue
        block, _, rest = name.partition(".")
        at_params, at_stats = params.setdefault(block, {}), stats.setdefault(block, {})
        if rest:
            at_params = at_params.setdefault(rest.replace(".", "/"), {})
            at_stats = at_stats.setdefault(rest.replace(".", "/"), {})
        kernel = rng.normal(0, 0.05, module.weight.permute(2, 3, 4, 1, 0).shape).astype(np.float32)
        vector = (1, 1, 1, 1, module.out_channels)
        at_params |= {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": rng.random(vector, np.float32)}}
        at_stats["BatchNorm_0"] = {
            "mean": rng.random(vector, np.float32),
            "var": rng.random(vector, np.float32),
        }
    return {"params": params, "batch_stats": stats}


def test_the_batch_norms_are_folded_into_the_convolutions():
    variables = flax_like(I3D())
    network = i3d_of(pickle.dumps(variables))
    x = torch.randn(1, 192, 2, 5, 5)
    unit, name = network.Mixed_3b.Branch_1["Conv3d_0a_1x1"], "Branch_1/Conv3d_0a_1x1"
    kernel = torch.from_numpy(variables["params"]["Mixed_3b"][name]["Conv_0"]["kernel"])
    bias = variables["params"]["Mixed_3b"][name]["BatchNorm_0"]["bias"]
    norm = variables["batch_stats"]["Mixed_3b"][name]["BatchNorm_0"]
    mean, variance, bias = (torch.from_numpy(v).flatten() for v in (norm["mean"], norm["var"], bias))
    plain = F.conv3d(x, kernel.permute(4, 3, 0, 1, 2))
    expected = F.relu(F.batch_norm(plain, mean, variance, bias=bias, eps=1e-3))
    torch.testing.assert_close(unit(x), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_can_run_no_code():
    class Harm:
        def __reduce__(self):
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="system has no place in a checkpoint"):
        i3d_of(pickle.dumps(Harm()))


@pytest.mark.slow
@pytest.mark.skipif(not JHMDB.exists(), reason="the JHMDB-21 videos are not here")
def test_the_real_weights_know_what_people_do():
    """With the package's own last layer, archers are archery and golfers golf (Kinetics-400 by alphabet)."""
    (checkpoint,) = fetched(TEACHER)
    last = Arrays(io.BytesIO(checkpoint)).load()["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
    network, dataset = i3d_of(checkpoint), load_dataset(JHMDB)
    right = []
    for label, classes in (("shoot_bow", [5]), ("golf", [141, 142, 143]), ("pullup", [255])):
        videos = [v for v in dataset.split("test1") if dataset.labels[v.tubes[0].label] == label]
        for video in videos[::6]:
            frames = np.stack([frame for frame, _ in VideoReader(video.file)])
            seen = torch.from_numpy(square_around(frames, video.tubes[0].boxes[:, 1:]))
            with torch.inference_mode():
                features = network(seen.permute(3, 0, 1, 2)[None] / 127.5 - 1).mean(dim=(0, 2, 3, 4))
            logits = features.numpy() @ last["kernel"].reshape(1024, 400) + last["bias"].reshape(400)
            right.append(logits.argmax() in classes)
    assert np.mean(right) > 0.7, right
