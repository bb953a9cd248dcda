from dataclasses import replace

import pytest
import torch
from torch import nn

from amma_core import bundle
from amma_core.config import FUSIBLE_STAGES, NetworkConfig
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.training.inherit import (
    OF_CLASSES,
    add_clips,
    inherit,
    settle_late_fusion,
    settle_motion,
)

LABELS = ["walk", "wave"]


def make(clips: int, **settings) -> Amma:
    config = NetworkConfig(len(LABELS), "shufflenet_v2", input_size=64, clips=clips, **settings)
    return Amma(config).eval()


def saved(tmp_path, network: Amma) -> bundle.Bundle:
    return bundle.save(tmp_path / "parent", network, LABELS, 30.0)


def test_a_network_of_one_clip_grows_to_one_of_several(tmp_path):
    """For K equal clips the grown network says what the one-clip network says of one."""
    parent = make(1)
    child = make(3)
    inherit(child, saved(tmp_path, parent), LABELS)
    parent = bundle.load(tmp_path / "parent").build()  # in half precision, as saved

    clip = torch.randint(0, 256, (1, 4, 3, 64, 64))
    with torch.inference_mode():
        feature = parent.encode(clip)
        torch.testing.assert_close(child.encode(clip), feature)
        one, several = parent.head(feature[:, None]), child.head(feature[:, None].expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(several.heat, one.heat)
    for name in ("movement", "size"):
        for key in range(3):
            found = getattr(several, name)[:, 2 * key : 2 * key + 2]
            torch.testing.assert_close(found, getattr(one, name), rtol=1e-4, atol=1e-5)


def test_other_labels_get_new_outputs_and_everything_else(tmp_path):
    parent, child = make(2), make(2)
    start = {name: child.state_dict()[name].clone() for name in OF_CLASSES}
    inherit(child, saved(tmp_path, parent), ["fall", "wave"])
    theirs = bundle.load(tmp_path / "parent").build().state_dict()
    for name, weight in child.state_dict().items():
        torch.testing.assert_close(weight, start.get(name, theirs[name]), rtol=0, atol=0)


def test_motion_grows_on_a_network_without(tmp_path):
    """While appearance alone counts, the grown network says the same. The motion stages are its twins."""
    parent, child = make(2, motion="none"), make(2)
    filters = child.micro_motion.filters.weight.clone()
    child.backbone.appearance_share.data.fill_(1.0)
    assert inherit(child, saved(tmp_path, parent), LABELS) == [settle_motion]
    parent = bundle.load(tmp_path / "parent").build()
    clips = torch.randint(0, 256, (1, 2, 4, 3, 64, 64))
    with torch.inference_mode():
        torch.testing.assert_close(child(clips), parent(clips))
    for twin, stage in zip(child.backbone.motion, child.backbone.appearance, strict=False):
        torch.testing.assert_close(twin.state_dict(), stage.state_dict(), rtol=0, atol=0)
    assert (child.micro_motion.filters.weight == filters).all()
    with pytest.raises(AmmaError, match="motion"):
        inherit(make(2, motion="none"), saved(tmp_path, child), LABELS)


def test_motion_begins_anew_with_the_shares_of_before(tmp_path):
    parent, child = make(2, motion="diff"), make(2)
    parent.backbone.appearance_share.data.copy_(torch.tensor([0.5, 0.75, 0.875]))
    filters = child.micro_motion.filters.weight.clone()
    assert inherit(child, saved(tmp_path, parent), LABELS, new_motion=True) == [settle_motion]
    assert child.backbone.appearance_share.tolist() == [0.5, 0.75, 0.875]
    assert (child.micro_motion.filters.weight == filters).all()
    for twin, stage in zip(child.backbone.motion, child.backbone.appearance, strict=False):
        torch.testing.assert_close(twin.state_dict(), stage.state_dict(), rtol=0, atol=0)

    fewer = make(2, fusion_stages=2)
    own = fewer.backbone.appearance_share.tolist()
    assert inherit(fewer, bundle.load(tmp_path / "parent"), LABELS, new_motion=True)
    assert fewer.backbone.appearance_share.tolist() == own

    again = make(2)
    assert inherit(again, saved(tmp_path, child), LABELS) == []
    assert not torch.equal(again.micro_motion.filters.weight, filters)  # the parent's, in half precision


@pytest.mark.parametrize("backbone", list(FUSIBLE_STAGES))
def test_late_fusion_begins_with_what_hidden_appearance_taught(tmp_path, backbone):
    """With all of its share it says what the model before said where the newest frame was hidden."""
    config = NetworkConfig(len(LABELS), backbone, input_size=64, clips=1)
    parent, child = Amma(config).eval(), Amma(replace(config, late_fusion=1.0)).eval()
    parent.backbone.appearance_share.data.copy_(torch.tensor([1.0, 1.0, 0.75]))
    clips = torch.randint(0, 256, (1, 4, 3, 64, 64), dtype=torch.uint8)
    assert inherit(child, saved(tmp_path, parent), LABELS) == [settle_late_fusion]
    settle_late_fusion(child, clips)

    parent = bundle.load(tmp_path / "parent").build()
    with torch.inference_mode():
        newest, motion = parent.inputs(clips)
        seen, hidden = (parent.backbone(frames, motion) for frames in (newest, 0.0 * newest))
        found = child.backbone(newest, motion)
    assert (found - hidden).abs().mean() < 0.1 * (seen - hidden).abs().mean()

    again, without = Amma(replace(config, late_fusion=0.3)), Amma(config)
    parent = saved(tmp_path, child)
    assert inherit(again, parent, LABELS) == []
    torch.testing.assert_close(again.backbone.still, child.backbone.still, rtol=1e-3, atol=1e-3)
    assert inherit(without, parent, LABELS) == []
    anew = Amma(replace(config, late_fusion=0.3, fusion_stages=2))
    assert inherit(anew, parent, LABELS, new_motion=True) == [settle_motion, settle_late_fusion]


def test_new_motion_is_standardised_behind_its_first_convolution():
    network = make(2)
    clips = torch.randint(0, 256, (16, 4, 3, 64, 64), dtype=torch.uint8)
    settle_motion(network, clips)
    network.eval()
    first = network.backbone.motion[0]
    norm = next(module for module in first.modules() if isinstance(module, nn.BatchNorm2d))
    seen = {}
    norm.register_forward_hook(lambda module, inputs, outputs: seen.update(values=outputs.clone()))
    with torch.inference_mode():
        first(network.micro_motion(clips))
    deviation, mean = torch.std_mean(seen["values"], dim=(0, 2, 3))
    torch.testing.assert_close(mean, norm.bias, rtol=0, atol=1e-3)
    torch.testing.assert_close(deviation, norm.weight.abs(), rtol=1e-2, atol=1e-3)
    assert norm.momentum is not None


def test_a_network_of_several_clips_grows_to_one_of_more():
    """Over equal clips the heat is the same; the movement at the old key frames always is, and goes on."""
    few, many = make(3), make(5)
    weights = few.state_dict()
    add_clips(weights, 3, 5)
    many.load_state_dict(weights)
    clips = torch.rand(1, 5, 64, 8, 8)
    with torch.inference_mode():
        equal = clips[:, :1].expand(-1, 5, -1, -1, -1)
        torch.testing.assert_close(
            many.branches(equal).heat, few.branches(equal[:, :3]).heat, rtol=1e-4, atol=1e-5
        )
        theirs, ours = few.branches(clips[:, 2:]), many.branches(clips)
    torch.testing.assert_close(ours.size[:, 4:], theirs.size)
    torch.testing.assert_close(ours.movement[:, 4:], theirs.movement, rtol=1e-4, atol=1e-5)
    steps = ours.movement.unflatten(1, (5, 2)).diff(dim=1)
    torch.testing.assert_close(steps[:, 0], steps[:, 2], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(steps[:, 1], steps[:, 2], rtol=1e-3, atol=1e-5)


def test_the_center_branch_sees_a_longer_window_as_a_slower_one():
    weights = make(3).state_dict()
    short = weights["branches.center.0.weight"].unflatten(1, (3, 64))
    add_clips(weights, 3, 5)
    long = weights["branches.center.0.weight"].unflatten(1, (5, 64))
    torch.testing.assert_close(long[:, 0], short[:, 0] * 3 / 5)
    torch.testing.assert_close(long[:, 1], short[:, 0] * 2 / 5 + short[:, 1] / 5)
    torch.testing.assert_close(long[:, 2], short[:, 1] * 3 / 5)


@pytest.mark.parametrize(
    ("settings", "problem"), [({"clips": 1}, "sees 2 clips"), ({"clips": 2, "motion": "diff"}, "motion")]
)
def test_networks_that_do_not_fit_are_refused(tmp_path, settings, problem):
    with pytest.raises(AmmaError, match=problem):
        inherit(make(**settings), saved(tmp_path, make(2)), LABELS)


def test_more_classes_need_no_more_of_the_parent(tmp_path):
    child = Amma(NetworkConfig(3, "shufflenet_v2", input_size=64, clips=2))
    inherit(child, saved(tmp_path, make(2)), [*LABELS, "fall"])
