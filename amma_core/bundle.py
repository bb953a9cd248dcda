"""A trained model as a folder: weights, labels, and how they came about.

my_model/
    config.yaml          labels, network, fps, training record, metrics
    model.safetensors    the weights
    README.md            the model card

A committee (:class:`amma_core.network.Committee`) has no weights of its own: its config.yaml names its
members' folders, seen from its own, and what each one's say is worth. Boxes are the first one's:

members: {../one_model: 0.6, ../other_model: 0.4}
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from amma_core.config import NetworkConfig
from amma_core.errors import AmmaError
from amma_core.files import make_folder, write_text_whole, written_whole

if TYPE_CHECKING:
    from amma_core.network import Amma, Committee

CONFIG, WEIGHTS = "config.yaml", "model.safetensors"
IN_COMMON = ("clips", "clip_length", "input_size")
"""Settings that the networks of a committee must have in common."""
DEFAULT = "amma_m_jhmdb21"
"""The shipped model that is taken where none is named."""


@dataclass(frozen=True, eq=False)
class Bundle:
    """What a model's configuration says. Loading it reads no weights and does not import torch."""

    path: Path
    labels: tuple[str, ...]
    network: NetworkConfig
    fps: float
    """Frames per second of the videos that the model was trained on."""
    trained: bool = True
    """False for a network with random weights: it shows that everything runs, and detects nothing."""
    training: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    members: tuple["Bundle", ...] = ()
    """Of a committee; `network` is the first one's then."""
    shares: tuple[float, ...] = ()
    """Of the members in what the committee says; they add up to 1."""

    @property
    def weights(self) -> list[Path]:
        """The files that hold the weights; none for a network that has random ones."""
        return [model.path / WEIGHTS for model in self.members or (self,) if model.trained]

    @property
    def name(self) -> str:
        return Path(os.path.abspath(self.path)).name  # a path like . has none of its own

    def build(self) -> "Amma | Committee":
        """The network with its weights, in evaluation mode, on the CPU; of a committee, all of them as one.

        Raises AmmaError if the weights are missing, damaged, or those of another network.
        """
        if self.members:
            from amma_core.network import Committee

            return Committee([member.build_one() for member in self.members], self.shares).eval()
        return self.build_one()

    def build_one(self) -> "Amma":
        """As :meth:`build`, for what needs a single network's weights; AmmaError for a committee."""
        import torch

        from amma_core.network import Amma

        if self.members:
            raise AmmaError(
                f"{self.path} is a committee, without weights of its own: name one of its members"
            )
        if not self.trained:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                return Amma(self.network).eval()
        network = Amma(self.network).eval()
        file = self.path / WEIGHTS
        weights = _read_weights(file)
        expected = network.state_dict()
        for name, tensor in expected.items():
            if name not in weights:
                raise AmmaError(f"{file}: {name} is missing, which the network that {CONFIG} describes has")
            found, wanted = tuple(weights[name].shape), tuple(tensor.shape)
            if found != wanted:
                raise AmmaError(
                    f"{file}: {name} has shape {found}, but {CONFIG} asks for {wanted}; "
                    "the two files do not belong together"
                )
        unknown = sorted(set(weights) - set(expected))
        if unknown:
            raise AmmaError(f"{file}: {unknown[0]} has no place in the network that {CONFIG} describes")
        network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})
        return network


def load(model: str | Path) -> Bundle:
    """Find a model by name or path, and read its configuration.

    Raises AmmaError, naming the file and the cure, where something is missing or wrong.
    """
    path = find(model)
    values = _read_yaml(path / CONFIG)
    return _committee(path, values) if "members" in values else _single(path, values)


def _single(path: Path, values: dict) -> Bundle:
    bundle = _parse(path, values)
    if bundle.trained and not (path / WEIGHTS).is_file():
        raise AmmaError(f"{path}: {WEIGHTS} is missing; copy the whole folder of the model")
    return bundle


def _committee(path: Path, values: dict) -> Bundle:
    """Raises AmmaError for members that can't answer as one."""
    config = path / CONFIG
    shares = _shares(config, values["members"])
    members = tuple(_member(config, path / name) for name in shares)
    first = members[0]
    for member in members:
        for what, mine, other in (
            ("labels", list(member.labels), list(first.labels)),
            ("fps", member.fps, first.fps),
            *((name, getattr(member.network, name), getattr(first.network, name)) for name in IN_COMMON),
        ):
            if mine != other:
                raise AmmaError(f"{config}: {what} is {mine} of {member.path}, but {other} of {first.path}")
    inherited = {"labels": list(first.labels), "fps": first.fps, "network": first.network.to_dict()}
    trained = all(member.trained for member in members)
    own = _parse(path, values | inherited)
    return replace(own, trained=trained, members=members, shares=tuple(shares.values()))


def _shares(config: Path, members: object) -> dict[str, float]:
    """Each member's folder and share, as written down."""
    fit = isinstance(members, dict) and len(members) > 1
    if not fit or not all(type(share) in (int, float) and share > 0 for share in members.values()):
        raise AmmaError(
            f"{config}: members is {members!r}, but must name two or more models' folders, each with its "
            "share, as in {../one_model: 0.6, ../other_model: 0.4}"
        )
    if not math.isclose(sum(members.values()), 1.0, abs_tol=1e-6):
        raise AmmaError(f"{config}: the members' shares add up to {sum(members.values()):g}, but must to 1")
    return {str(name): float(share) for name, share in members.items()}


def _member(config: Path, folder: Path) -> Bundle:
    path = find(folder)
    values = _read_yaml(path / CONFIG)
    if "members" in values:
        raise AmmaError(f"{config}: {path} is a committee itself; name its members instead")
    return _single(path, values)


def _parse(path: Path, values: dict) -> Bundle:
    """The bundle that a configuration describes. Raises AmmaError for what is missing or wrong in it."""
    config = path / CONFIG
    labels = values.get("labels")
    _check_labels(config, labels)
    if not isinstance(values.get("network"), dict):
        raise AmmaError(
            f"{config}: network is missing; it must hold the network's settings, backbone for instance"
        )
    network = NetworkConfig.from_dict({"num_classes": len(labels)} | values["network"], str(config))
    if network.num_classes != len(labels):
        raise AmmaError(
            f"{config}: there are {len(labels)} labels, but network says num_classes: {network.num_classes}"
        )
    fps = values.get("fps", 30.0)
    if type(fps) not in (int, float) or not 0 < fps < math.inf:
        raise AmmaError(f"{config}: fps is {fps!r}, but must be a positive number")
    trained = values.get("trained", True)
    if not isinstance(trained, bool):
        raise AmmaError(f"{config}: trained is {trained!r}, but must be true or false")
    records = {name: values.get(name) or {} for name in ("training", "metrics")}
    for name, record in records.items():
        if not isinstance(record, dict):
            raise AmmaError(f"{config}: {name} is {record!r}, but must be a mapping; it may be left out")
    return Bundle(
        path=path,
        labels=tuple(labels),
        network=network,
        fps=float(fps),
        trained=trained,
        **records,
    )


def _check_labels(config: Path, labels: object) -> None:
    if not isinstance(labels, list) or not labels:
        raise AmmaError(
            f"{config}: labels is missing; it must be the list of class names, in the order of training"
        )
    for label in labels:
        if not isinstance(label, str):
            # YAML has words for true and false.
            raise AmmaError(
                f"{config}: one of the labels is {label!r}, which is no text; words like no and on, and "
                "numbers, must stand in quotes"
            )
        if not label.strip():
            raise AmmaError(f"{config}: one of the labels is blank; give each class a name")
        if labels.count(label) > 1:
            raise AmmaError(f"{config}: the label {label!r} stands there twice; give each class its own name")


def save(
    path: str | Path,
    network: "Amma",
    labels: Sequence[str],
    fps: float,
    *,
    training: Mapping | None = None,
    metrics: Mapping | None = None,
) -> Bundle:
    """Write a bundle; matrices in half precision, vectors (statistics, biases) in full.

    Each file appears whole or not at all. Raises AmmaError, with nothing written, for weights that are not
    finite, labels that are none, or a folder that cannot be made.
    """
    import torch
    from safetensors.torch import save as to_bytes

    path = Path(path).expanduser()
    tensors = {
        name: tensor.detach().cpu().to(torch.float16 if tensor.ndim > 1 else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
    }
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise AmmaError(
                f"{path} is not written, as {name} holds values that are not finite or too large for half "
                "precision; train the network with a lower rate"
            )
    settings = {
        "labels": list(labels),
        "fps": float(fps),
        "network": network.config.to_dict(),
        "training": dict(training or {}),
        "metrics": dict(metrics or {}),
    }
    made = _parse(path, settings)
    # Both before either is written: what cannot be written down must not tear the model that is there.
    weights, config = to_bytes(tensors), yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    make_folder(path)
    with written_whole(path / WEIGHTS) as file:
        file.write(weights)
    write_text_whole(path / CONFIG, config)
    return made


def find(model: str | Path) -> Path:
    """The folder of a model: a path, or the name of a shipped one. Raises AmmaError if there is none.

    A file or folder that is no model does not hide a shipped one of its name.
    """
    try:
        path = Path(model).expanduser()
        if (path / CONFIG).is_file():
            return path
        is_file, is_folder = path.is_file(), path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, no permission, a null byte
        raise AmmaError(f"a model's folder cannot be looked for at {str(model)!r}: {error}") from None
    shipped = {
        config.parent.name: config.parent
        for place in reversed(_places())
        for config in place.glob(f"*/{CONFIG}")
    }
    if str(model) in shipped:
        return shipped[str(model)]
    if is_file:
        raise AmmaError(f"{path} is a file, but a model is a folder with {CONFIG} and {WEIGHTS} in it")
    if is_folder:
        raise AmmaError(f"{path}: {CONFIG} is missing, so this folder is no model")
    names = ", ".join(sorted(shipped)) or "none"
    raise AmmaError(
        f"there is no model {str(model)!r}; give the path of a model's folder or a shipped one ({names})"
    )


def _places() -> list[Path]:
    """Where shipped models may lie, nearest first: the source tree, workspaces, this Python environment."""
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    return [
        Path(__file__).parents[1] / "models",
        *(Path(p) / "share" / "amma_ros" / "models" for p in prefixes),
    ]


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AmmaError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise AmmaError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise AmmaError(f"{path} is nested too deeply to be a model's configuration") from None
    if not isinstance(values, dict):
        raise AmmaError(f"{path} holds no settings; it must be a mapping with labels and network in it")
    return values


def _read_weights(path: Path) -> dict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise AmmaError(
            f"{path} is not a whole safetensors file ({error}); copy or train the model again"
        ) from None
