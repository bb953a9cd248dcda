"""Pre-trained weights for the backbones, from packages or from files.

Every source is brought into one form, a list of (convolution, batch norm) pairs in the order in which the
image passes them; `load_backbone` copies it into both streams (section 4.1).

The networks behind the packages were trained with TensorFlow, and three things differ from ours:

- their input is RGB, scaled to about -1..1: the scaling and the order of the channels are folded into the
  first convolution and its batch norm, which is exact but for the colour of the padding (ours is the mean);
- their batch norms add 0.001 to the variance, ours 0.00001: the difference goes into the variances;
- they pad a strided convolution of an even-sized map below and to the right only. Ours pads all sides and
  so computes the same features of a moved image; for sizes of 32 n + 1 pixels the two agree.
"""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from amma_core.errors import AmmaError, packages_for
from amma_core.network.amma import Amma
from amma_core.network.micro_motion import normalise
from amma_core.training.packages import PACKAGES, fetch

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
        layers = _READERS[source](*fetch(package, cache))
    else:
        layers = layers_of_checkpoint(Path(source))
    load_backbone(network, layers, source)


def layers_of_ssdlite(graph: bytes) -> list[Layer]:
    """The MobileNetV2 of a TensorFlow object-detection graph, up to its 1280 channels."""
    constants = _constants(graph)
    prefix = "FeatureExtractor/MobilenetV2/"

    def layer(scope: str) -> Layer:
        depthwise = scope.endswith("depthwise")
        weight = constants[f"{prefix}{scope}/{'depthwise_weights' if depthwise else 'weights'}"]
        norm = [
            constants[f"{prefix}{scope}/BatchNorm/{n}"]
            for n in ("gamma", "beta", "moving_mean", "moving_variance")
        ]
        return _layer(weight, depthwise, *norm)

    scopes = ["Conv", *_parts("expanded_conv", "expanded_conv_{}", "/"), "Conv_1"]
    # x / 127.5 - 1
    return _from_tensorflow([layer(scope) for scope in scopes], scale=255 / 127.5, shift=-1.0)


def layers_of_movenet(model: bytes, values: bytes) -> list[Layer]:
    """The MobileNetV2 of MoveNet in TensorFlow.js' format, up to its 1280 channels.

    Its batch norms are part of the convolutions there, so that their statistics are not known: these are
    0 and 1 here, and :func:`settle_norms` finds better ones.
    """
    constants = _weights_of_tfjs(model, values)
    prefix = "StatefulPartitionedCall/center_net_mobile_net_v2fpn_feature_extractor/model_1/model/"

    def layer(scope: str) -> Layer:
        kind = "depthwise" if scope.endswith("depthwise") else "Conv2D"
        shift = constants[f"{prefix}{scope}/{kind}_bn_offset"]
        none, one = np.zeros_like(shift), np.ones_like(shift)
        weight = constants[f"{prefix}{scope}/{kind}_weights"]
        return _layer(weight, kind == "depthwise", one, shift, none, one - EPSILON)

    scopes = ["Conv1", *_parts("expanded_conv", "block_{}", "_"), "Conv_1"]
    layers = [layer(scope) for scope in scopes]
    # x / 127.5 - 1
    layers[0] = _fold_input(layers[0], torch.full((3,), 2.0), torch.full((3,), -1.0))
    return layers


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
    for wrapper in ("state_dict", "model"):  # CenterNet's, and that of torchvision's own training
        state = state.get(wrapper, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AmmaError(f"{path} holds no table of weights (a state_dict): give a checkpoint that does")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith(("deconv_layers.", "hm.")) for key in state):
        # CenterNet's: its decoder and heads follow the backbone; ours start anew.
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


_READERS: dict[str, Callable[..., list[Layer]]] = {
    "ssdlite": layers_of_ssdlite,
    "movenet": layers_of_movenet,
    "efficientnet_lite0": layers_of_efficientnet_lite0,
}
"""What makes layers of a package's files."""
WITHOUT_STATISTICS = {"movenet"}
"""Those that want :func:`settle_norms` before they are trained."""


@torch.no_grad()
def settle_norms(network: Amma, images: Tensor) -> None:
    """Give the batch norms the statistics that the appearance stream finds in `images`.

    Their weights make up for it, so that the stream computes what it did before; the motion stream gets the
    same. This is for weights whose norms have no statistics: in training, which goes by those of the batch,
    they would mean something else.

    images: (N, 3, S, S) uint8 BGR.
    """

    def settle(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += slope * (mean - norm.running_mean)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)

    backbone = network.backbone.eval()
    norms = [module for module in backbone.appearance.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    x = normalise(images)
    for stage in backbone.appearance:
        x = stage(x)
    for hook in hooks:
        hook.remove()
    for ours, theirs in zip(backbone.motion, backbone.appearance, strict=False):
        ours.load_state_dict(theirs.state_dict())


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


def _parts(first: str, other: str, separator: str) -> list[str]:
    """How TensorFlow calls the convolutions in MobileNetV2's blocks, of which the first does not expand."""
    blocks = [first, *(other.format(i) for i in range(1, 17))]
    parts = ("expand", "depthwise", "project")
    return [f"{block}{separator}{part}" for block in blocks for part in parts][1:]


def _layer(weight: np.ndarray, depthwise: bool, *norm: np.ndarray) -> Layer:
    """A layer of TensorFlow's arrays: (H, W, in, out) or, depthwise, (H, W, channels, 1)."""
    weight = weight.transpose(2, 3, 0, 1) if depthwise else weight.transpose(3, 2, 0, 1)
    return Layer(*(torch.from_numpy(a.copy()) for a in (weight, *norm)))


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


def _weights_of_tfjs(model: bytes, values: bytes) -> dict[str, np.ndarray]:
    weights = {}
    start = 0
    for entry in (entry for group in json.loads(model)["weightsManifest"] for entry in group["weights"]):
        stored = entry.get("quantization", entry)["dtype"]
        array = np.frombuffer(values, stored, int(np.prod(entry["shape"])), start)
        weights[entry["name"]] = array.reshape(entry["shape"]).astype(entry["dtype"])
        start += array.nbytes
    return weights


def _constants(graph: bytes) -> dict[str, np.ndarray]:
    with packages_for("reading these weights", "tensorboard"):
        from tensorboard.compat.proto.graph_pb2 import GraphDef
        from tensorboard.util.tensor_util import make_ndarray

    definition = GraphDef.FromString(graph)
    return {
        node.name: make_ndarray(node.attr["value"].tensor) for node in definition.node if node.op == "Const"
    }
