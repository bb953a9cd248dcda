import math

import numpy as np
import pytest
import torch
from torch import nn

from amma_core.config import FUSIBLE_STAGES, NetworkConfig
from amma_core.decoding import decode
from amma_core.errors import AmmaError
from amma_core.network import Amma, gmacs_per_clip, parameter_count
from amma_core.network.backbones import BACKBONES, CHANNELS
from amma_core.network.decoder import DeformableConv2d
from amma_core.network.heads import heat_and_movement
from amma_core.network.micro_motion import MicroMotion, halve, normalise

COSTS = [
    # backbone, motion, fusion stages, parameters, 1e9 multiply-adds per clip; K = 5, 21 classes, 288 pixels
    ("resnet18", "none", 0, 15_067_068, 3.6419),
    ("resnet18", "diff", 3, 15_750_143, 5.2809),
    ("resnet18", "conv_diff", 1, 15_077_213, 3.8868),
    ("resnet18", "conv_diff", 2, 15_225_182, 4.6512),
    ("resnet18", "conv_diff", 3, 15_750_751, 5.3307),
    ("resnet18", "conv_diff", 4, 17_850_464, 6.0101),
    ("resnet18", "conv_diff", 5, 26_244_193, 6.6896),
    ("mobilenet_v2", "conv_diff", 3, 6_826_911, 1.4292),
    ("shufflenet_v2", "conv_diff", 3, 5_945_151, 1.1203),
]


def small(**changes) -> NetworkConfig:
    return NetworkConfig(
        **{"num_classes": 3, "backbone": "mobilenet_v2", "clips": 3, "input_size": 64} | changes
    )


def network(config: NetworkConfig, seed: int = 0) -> Amma:
    """An evaluated network whose offsets, shares and statistics differ from their initial values."""
    torch.manual_seed(seed)
    net = Amma(config).eval()
    nn.init.normal_(net.decoder[0].offsets.weight, std=0.05)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net


@pytest.mark.parametrize(("backbone", "motion", "stages", "parameters", "gmacs"), COSTS)
def test_size_and_cost_are_the_published_ones(backbone, motion, stages, parameters, gmacs):
    config = NetworkConfig(num_classes=21, backbone=backbone, motion=motion, fusion_stages=stages)
    assert parameter_count(Amma(config)) == parameters
    assert gmacs_per_clip(config) == pytest.approx(gmacs, rel=1e-3)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize("motion", ["conv_diff", "diff", "none"])
def test_maps_have_the_documented_shapes(backbone, motion):
    config = small(backbone=backbone, motion=motion)
    with torch.no_grad():
        maps = network(config)(torch.randint(0, 256, (2, 3, 4, 3, 64, 64), dtype=torch.uint8))
    assert maps.heat.shape == (2, 3, 8, 8)
    assert maps.movement.shape == maps.size.shape == (2, 6, 8, 8)
    assert maps.heat.min() >= 0
    assert maps.heat.max() <= 1


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "shufflenet_v2"])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_encoding_clip_by_clip_gives_the_same_maps_as_all_at_once(backbone, upsample):
    net = network(small(backbone=backbone, upsample=upsample))
    clips = torch.randint(0, 256, (1, 3, 4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        whole = net(clips)
        cached = net.head(torch.stack([net.encode(clips[:, k]) for k in range(3)], dim=1))
    for one, other in zip(whole, cached, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_box_branch_gives_each_clip_its_own_size():
    net = network(small())
    features = torch.randn(1, 3, 64, 4, 4)
    with torch.no_grad():
        before = net.head(features).size.unflatten(1, (3, 2))
        features[:, 1] += 1.0
        after = net.head(features).size.unflatten(1, (3, 2))
    changed = (before != after).flatten(2).any(-1)[0]
    assert changed.tolist() == [False, True, False]


@pytest.mark.parametrize("top", [1, 7, 100, 10_000])
@pytest.mark.parametrize("values", ["continuous", "coarse", "constant", "broken"])
def test_movement_at_the_peaks_alone_is_enough_for_decoding(values, top):
    """Also where scores are equal, as in half precision."""
    net = network(small())
    nn.init.normal_(net.branches.center[2].weight, std=1.0 if values != "constant" else 0.0)
    features = torch.randn(2, 3, 64, 4, 4)
    if values == "coarse":
        net.branches.center.append(Rounded())
    elif values == "broken":
        features[0, 0, 0, 1, 1] = torch.nan
    with torch.inference_mode():
        heat, movement, size = net.head(features)
        same_heat, some_movement = heat_and_movement(net.branches, net.stack(features), top)
    torch.testing.assert_close(same_heat, heat, equal_nan=True)
    if values == "continuous" and top < 10:
        assert ((some_movement != 0).any(dim=1).flatten(1).sum(dim=1) <= top).all()
    for i in range(2):
        expected = decode(heat[i].numpy(), movement[i].numpy(), size[i].numpy(), (64, 64), top)
        found = decode(heat[i].numpy(), some_movement[i].numpy(), size[i].numpy(), (64, 64), top)
        assert len(found[0]) > 0
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3)


class Rounded(nn.Module):
    """Logits to halves: many cells are equally hot."""

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return (2 * logits).round() / 2


def test_center_branch_starts_rare():
    assert torch.allclose(Amma(small()).branches.center[2].bias, torch.tensor(-2.19), atol=0.01)


class TestMicroMotion:
    def test_diff_is_the_length_of_the_pooled_colour_difference(self):
        unit = 255 * torch.tensor([0.28863828, 0.27408164, 0.27809835])  # of a standardised colour
        clip = torch.zeros(1, 4, 3, 32, 32)
        clip[0, 0] = (unit * torch.tensor([3.0, 0.0, 4.0])).view(3, 1, 1)
        clip[0, 2] = (unit * 2.0).view(3, 1, 1)
        motion = MicroMotion(learned=False, upsample="bilinear")(clip)
        assert motion.shape == (1, 3, 32, 32)
        means = motion.mean(dim=(0, 2, 3))
        torch.testing.assert_close(means, torch.tensor([5.0, 0.0, math.sqrt(12.0)]), atol=1e-4, rtol=0)

    def test_conv_diff_follows_equations_1_to_3(self):
        torch.manual_seed(1)
        module = MicroMotion(learned=True, upsample="nearest")
        clip = torch.randint(0, 256, (2, 4, 3, 16, 16), dtype=torch.uint8)
        pooled = [nn.functional.max_pool2d(normalise(clip[:, i]), 3, 2, 1) for i in range(4)]
        filtered = [module.filters(frame) for frame in pooled]
        for i in range(3):
            expected = ((filtered[i] - filtered[3] + 1e-6) ** 2).sum(1).sqrt()
            got = module(clip)[:, i, ::2, ::2]
            torch.testing.assert_close(got, expected)

    def test_conv_diff_begins_as_diff_and_all_its_filters_learn(self):
        torch.manual_seed(2)
        module, plain = (MicroMotion(learned=learned, upsample="nearest") for learned in (True, False))
        clip = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
        motion = module(clip)
        assert (motion - plain(clip)).norm() < 0.02 * motion.norm()
        motion.square().sum().backward()
        assert (module.filters.weight.grad.flatten(1).norm(dim=1) > 0).all()

    def test_bias_cancels(self):
        module = MicroMotion(learned=True, upsample="bilinear")
        clip = torch.randint(0, 256, (1, 4, 3, 16, 16), dtype=torch.uint8)
        before = module(clip)
        with torch.no_grad():
            module.filters.bias += 7.0
        torch.testing.assert_close(module(clip), before, atol=1e-4, rtol=1e-4)

    def test_still_clip_has_a_finite_gradient(self):
        module = MicroMotion(learned=True, upsample="bilinear")
        clip = torch.ones(1, 4, 3, 16, 16, requires_grad=True)
        module(clip).sum().backward()
        assert torch.isfinite(clip.grad).all()
        assert torch.isfinite(module.filters.weight.grad).all()

    def test_longer_clips_compare_the_first_three_frames(self):
        clip = torch.randint(0, 256, (1, 5, 3, 16, 16), dtype=torch.uint8)
        module = MicroMotion(learned=False, upsample="bilinear")
        before = module(clip)
        clip[:, 3] //= 2
        torch.testing.assert_close(module(clip), before)


class TestDeformableConv:
    def test_at_start_it_is_half_an_ordinary_convolution(self):
        torch.manual_seed(0)
        layer = DeformableConv2d(5, 4)
        x = torch.randn(2, 5, 6, 7)
        expected = 0.5 * nn.functional.conv2d(x, layer.weight, padding=1)
        torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)

    def test_moved_taps_sample_bilinearly_with_zeros_outside(self):
        """Against the definition, sample by sample."""
        torch.manual_seed(0)
        layer = DeformableConv2d(2, 3)
        nn.init.normal_(layer.offsets.weight, std=0.3)
        nn.init.normal_(layer.offsets.bias, std=1.0)
        nn.init.normal_(layer.bias)
        x = torch.randn(1, 2, 4, 5)
        offsets = layer.offsets(x)[0]
        expected = torch.zeros(3, 4, 5)
        for row in range(4):
            for column in range(5):
                for tap in range(9):
                    y = row + tap // 3 - 1 + offsets[2 * tap, row, column].item()
                    x_ = column + tap % 3 - 1 + offsets[2 * tap + 1, row, column].item()
                    value = _bilinear(x[0], y, x_) * offsets[18 + tap, row, column].sigmoid()
                    expected[:, row, column] += layer.weight[:, :, tap // 3, tap % 3] @ value
        expected += layer.bias.view(3, 1, 1)
        torch.testing.assert_close(layer(x)[0], expected, atol=1e-4, rtol=1e-4)


def _bilinear(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    total = torch.zeros(image.shape[0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def test_fusion_blends_one_way_and_keeps_its_share_within_bounds():
    net = network(small(fusion_stages=1))
    frames, motion = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        net.backbone.appearance_share.fill_(1.7)
        alone = net.backbone(frames, motion)
        torch.testing.assert_close(net.backbone(frames, torch.zeros_like(motion)), alone)
        net.backbone.appearance_share.fill_(-3.0)
        torch.testing.assert_close(
            net.backbone(torch.randn_like(frames), motion), net.backbone(frames, motion)
        )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_halving_is_max_pooling(dtype):
    frames = torch.randint(0, 256, (2, 3, 12, 16), dtype=torch.uint8)
    expected = nn.functional.max_pool2d(frames.float(), kernel_size=3, stride=2, padding=1)
    halved = halve(frames.to(dtype))
    assert halved.dtype == dtype
    assert torch.equal(halved.float(), expected)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_late_fusion_mixes_in_what_the_deep_stages_see_of_motion_alone(backbone):
    nets = [network(small(backbone=backbone, late_fusion=share)) for share in (0.0, 1.0, 0.25)]
    nn.init.normal_(nets[1].backbone.still)
    nets[2].load_state_dict(nets[1].state_dict())
    nets[0].load_state_dict(nets[1].state_dict(), strict=False)
    motion, *frames = torch.rand(3, 2, 3, 64, 64)
    with torch.no_grad():
        without, alone, both = (net.backbone(frames[0], motion) for net in nets)
        assert torch.equal(nets[1].backbone(frames[1], motion), alone)
    torch.testing.assert_close(both, 0.75 * without + 0.25 * alone)


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_stages_have_the_channels_that_are_said(backbone):
    x, channels = torch.rand(1, 3, 64, 64), []
    with torch.no_grad():
        for stage in BACKBONES[backbone]():
            x = stage.eval()(x)
            channels.append(x.shape[1])
    assert tuple(channels) == CHANNELS[backbone]


def test_normalise_standardises_bgr():
    frames = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    expected = [(1 - 0.40789654) / 0.28863828, (1 - 0.44719302) / 0.27408164, (1 - 0.47026115) / 0.27809835]
    torch.testing.assert_close(normalise(frames)[0, :, 0, 0], torch.tensor(expected))


class TestConfig:
    def test_knows_the_backbones_that_exist(self):
        assert set(FUSIBLE_STAGES) == set(BACKBONES)

    def test_no_motion_and_no_fusion_imply_each_other(self):
        assert small(motion="none").fusion_stages == 0
        assert small(fusion_stages=0).motion == "none"
        assert small(motion="none", late_fusion=0.3).late_fusion == 0

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"backbone": "vgg"}, "backbone is 'vgg', but must be one of resnet18"),
            ({"fusion_stages": 4}, "fusion_stages is 4, but must be from 0 to 3 for mobilenet_v2"),
            ({"late_fusion": 1.5}, "late_fusion is 1.5, but must be from 0.0 to 1.0"),
            ({"input_size": 100}, "input_size is 100, but must be a multiple of 32"),
            ({"clip_length": 3}, "clip_length is 3"),
        ],
    )
    def test_refuses_what_cannot_be_built(self, change, message):
        with pytest.raises(AmmaError, match=message):
            small(**change)

    def test_survives_a_file(self):
        config = small()
        assert NetworkConfig.from_dict(config.to_dict(), "x.yaml") == config
        with pytest.raises(AmmaError, match=r"x\.yaml: unknown network setting 'depth'"):
            NetworkConfig.from_dict(config.to_dict() | {"depth": 3}, "x.yaml")
        with pytest.raises(AmmaError, match=r"x\.yaml: clips is '5'"):
            NetworkConfig.from_dict(config.to_dict() | {"clips": "5"}, "x.yaml")
        with pytest.raises(AmmaError, match="num_classes is missing"):
            NetworkConfig.from_dict({"clips": 5}, "x.yaml")
