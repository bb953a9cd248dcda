"""A training run's settings, as its YAML file gives them."""

import re
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from amma_core.config import NetworkConfig, within
from amma_core.errors import AmmaError
from amma_core.training.augmentation import Augmentation

MAY_CHANGE = ("machine.", "phases", "validate_every", "data.cache", "data.test")
"""Settings that may change before a run goes on: where and how long it trains, how it is judged."""


@dataclass(frozen=True)
class Data:
    annotations: str
    """A data set in the native format, or a benchmark's pickle."""
    train: str = "train1"
    """The split to train on."""
    test: str = "test1"
    """The split that benchmarks judge on. Training never looks at it."""
    validation: float = 0.1
    """Share of the training split, by groups, that is held out to choose the best epoch."""
    group: str = ""
    """Regular expression: videos whose names begin with the same match are one group, and all go to one side,
    as clips of one recording should. Empty: every video is a group of its own."""
    cache: str = "runs/cache"
    """Folder for the decoded frames."""
    max_side: int | None = None
    """Frames are cached with at most this many pixels on their longer side; null keeps them as they are."""

    def __post_init__(self):
        within("data.validation", self.validation, 0, 1)
        if self.max_side is not None:
            within("data.max_side", self.max_side, 1)
        try:
            re.compile(self.group)
        except re.error as error:
            raise AmmaError(f"data.group is {self.group!r}, no regular expression: {error}") from None


@dataclass(frozen=True)
class Sampling:
    windows: int = 1
    """Windows per sample, which share clips."""
    stride: int = 1
    """An epoch has one sample for so many frames with actions."""
    whole: float = 0.0
    """Share of the samples, beyond those that chance gives, whose key frames are all different ones. Many
    windows of a short video begin before its first frame, whose copies stand in and show no motion."""

    def __post_init__(self):
        within("sampling.windows", self.windows, 1)
        within("sampling.stride", self.stride, 1)
        within("sampling.whole", self.whole, 0, 1)


@dataclass(frozen=True)
class Phase:
    epochs: int
    input_size: int = 288
    frozen_stages: int = 0
    """The first so many backbone stages of both streams keep their weights, which saves going back through
    them; so do the micro-motion filters and the shares. Layers without a pre-trained start always learn."""
    only: str = ""
    """What the names of the weights begin with that learn at all, where the rest is as it shall be:
    ``branches.trajectory`` for instance, for a model that has been given more clips. Empty: all."""
    batch: int | None = None
    """Samples per step, where it differs from the optimisation's."""

    def __post_init__(self):
        within("epochs of a phase", self.epochs, 1)
        within("frozen_stages of a phase", self.frozen_stages, 0)
        if self.batch is not None:
            within("batch of a phase", self.batch, 1)


@dataclass(frozen=True)
class Optimisation:
    name: str = "adam"
    """adam, or adamw with `weight_decay`."""
    rate: float = 5e-4
    backbone_rate: float | None = None
    """Learning rate of the backbone where it differs."""
    weight_decay: float = 0.0
    batch: int = 16
    """Samples per step, over all devices."""
    schedule: str = "steps"
    """``steps`` multiplies the rate by `factor` after each epoch of `milestones`; ``cosine`` falls to 0."""
    milestones: list[int] = field(default_factory=list)
    factor: float = 0.1
    warmup: float = 0.0
    """Share of all steps in which the rate rises linearly."""
    box_weight: float = 0.1
    """Weight of the box loss."""
    overlap_weight: float = 0.0
    """Weight of our own loss on the IoU of the decoded boxes, at the centres and around them; the paper has
    none."""
    label_weight: float = 0.0
    """Weight of our own loss that lets the classes compete at the centres; the paper has none."""
    label_smoothing: float = 0.0
    """Share of that loss's target that is spread over all classes."""
    dropout: float = 0.0
    """Share of a clip's encoded channels that training hides at random."""
    hidden_appearance: float = 0.0
    """Share of the windows of which training shows the motion alone, so that what it tells is learned too,
    and not only what is quicker to learn by heart. Needs `frozen_norms`: others would take blank frames for
    usual."""
    clip_gradient: float = 0.0
    """Largest norm of the gradient; 0 leaves it alone."""
    frozen_norms: bool = False
    """Batch norms keep the statistics that they start with: for an `initial_model`, where a batch holds too
    few videos for statistics of its own. Layers without a trained start hardly learn that way."""
    ema: float = 0.0
    """Decay of the moving average of the weights that is evaluated and saved; 0: the weights themselves."""

    def __post_init__(self):
        if not self.rate > 0:
            raise AmmaError(f"optimisation.rate is {self.rate}, but nothing is learned unless it is above 0")
        within("optimisation.batch", self.batch, 1)
        for name in ("factor", "warmup", "label_smoothing", "dropout", "hidden_appearance", "ema"):
            within(f"optimisation.{name}", getattr(self, name), 0, 1)
        for name in ("weight_decay", "box_weight", "overlap_weight", "label_weight", "clip_gradient"):
            within(f"optimisation.{name}", getattr(self, name), 0)
        if self.hidden_appearance and not self.frozen_norms:
            raise AmmaError(
                f"optimisation.hidden_appearance is {self.hidden_appearance}, but that needs frozen_norms: "
                "others would take blank frames for usual"
            )

    @property
    def loss_weights(self) -> dict[str, float]:
        """As :meth:`~amma_core.training.losses.Losses.total` takes them."""
        names = ("box_weight", "overlap_weight", "label_weight")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Machine:
    accelerator: str = "auto"
    devices: int = 1
    """Processes, each with its own device; on a CPU each takes `threads` threads."""
    nodes: int = 1
    precision: str = "auto"
    """As Lightning Fabric names it; auto is bf16-mixed where the hardware multiplies bfloat16, else 32-true:
    in software it is many times slower."""
    threads: int = 0
    """Threads per process on a CPU; 0 leaves the choice to torch."""
    workers: int = 1
    """Loader processes per device."""

    def __post_init__(self):
        within("machine.devices", self.devices, 1)
        within("machine.nodes", self.nodes, 1)
        within("machine.threads", self.threads, 0)
        within("machine.workers", self.workers, 0)


@dataclass(frozen=True)
class Recipe:
    data: Data
    network: dict
    """Fields of NetworkConfig without num_classes and input_size."""
    phases: list[Phase]
    initial_weights: str | None = None
    """A name of `amma_core.training.packages.PACKAGES`, a checkpoint file, or null for random ones."""
    initial_model: str | None = None
    """A trained model to start from instead, by name or folder: one of the same backbone, with as many clips
    or one clip, with the same motion or none, and any labels. `initial_weights` do not count then, and
    `appearance_share` only where that model has no motion."""
    new_motion: bool = False
    """The motion stream of `initial_model` begins anew, as where that model has none; its shares are kept."""
    appearance_share: list[float] | None = None
    """Initial share of the appearance in each fusion; null starts all at the paper's 0.6. A larger one
    disturbs pre-trained appearance stages less, which matters where they are frozen."""
    sampling: Sampling = field(default_factory=Sampling)
    augmentation: Augmentation = field(default_factory=Augmentation)
    optimisation: Optimisation = field(default_factory=Optimisation)
    machine: Machine = field(default_factory=Machine)
    validate_every: int = 1
    """Epochs between two validations."""
    seed: int = 0

    def __post_init__(self):
        if self.new_motion and self.initial_model is None:
            raise AmmaError("new_motion is true, but there is no initial_model whose motion could begin anew")
        if not self.phases:
            raise AmmaError("phases is empty, but training needs at least one")
        if "input_size" in self.network:
            raise AmmaError("network.input_size does not count in a recipe: set that of the phases")
        if "num_classes" in self.network:
            raise AmmaError("network.num_classes does not count in a recipe: the data set has the classes")
        within("validate_every", self.validate_every, 1)
        within("seed", self.seed, 0, 2**32 - 1)

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    def phase_of(self, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase
            epoch -= phase.epochs
        raise IndexError(epoch)

    def network_config(self, num_classes: int) -> NetworkConfig:
        values = {**self.network, "num_classes": num_classes}
        sizes = [phase.input_size for phase in self.phases]
        # Of every phase, as each size has to fit; the last one's is the trained network's.
        config = [NetworkConfig.from_dict({**values, "input_size": size}, "network") for size in sizes][-1]
        if self.optimisation.hidden_appearance and config.motion == "none":
            raise AmmaError(
                f"optimisation.hidden_appearance is {self.optimisation.hidden_appearance}, but a network "
                "without motion would see nothing then: make it 0"
            )
        if config.late_fusion and not self.optimisation.frozen_norms:
            raise AmmaError(
                f"network.late_fusion is {config.late_fusion}, but its two looks have other statistics, "
                "which batch norms can't learn: set optimisation.frozen_norms, and start from a trained model"
            )
        return config

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "Recipe":
        """As :meth:`to_dict` gives it, or a part of it: what is missing has its default.

        Raises AmmaError, with `where` in front, for what doesn't belong.
        """
        return _build(cls, values, where)


def changed_setting(before: Recipe, now: Recipe) -> str | None:
    """The first setting, with both values, that differs between two recipes.

    Settings of `MAY_CHANGE` don't count. None where a run of the one can go on with the other.
    """
    before, now = _flat(before.to_dict()), _flat(now.to_dict())
    for name in before | now:
        if not name.startswith(MAY_CHANGE) and before.get(name) != now.get(name):
            return f"{name} is {before.get(name)!r}, not {now.get(name)!r}"
    return None


def _flat(values: dict) -> dict:
    """``{"data.train": "train1", ..., "seed": 0}``"""
    flat = {}
    for name, value in values.items():
        section = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{key}": inner for key, inner in section.items()} or {name: value}
    return flat


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a YAML file, with ``a.b=value`` overrides on top; raises AmmaError for what doesn't belong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AmmaError(f"there is no training configuration at {path}") from None
    except OSError as error:
        raise AmmaError(f"{path} cannot be read as a training configuration: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AmmaError(f"{path} is not YAML: {error}") from None
    values = {} if values is None else values
    for override in overrides:
        _set(values, override)
    return Recipe.from_dict(values, str(path))


def _set(values: Any, override: str) -> None:
    """Change `values` in place, as ``data.train=train2`` or ``phases.0.epochs=3`` says."""
    names, found, text = override.partition("=")
    if not found:
        raise AmmaError(f"--set {override}: write it as name=value, for instance data.train=train2")
    *parents, last = names.split(".")
    try:
        value = yaml.safe_load(text)
        for parent in parents:
            values = values[int(parent)] if isinstance(values, list) else values.setdefault(parent, {})
        values[int(last) if isinstance(values, list) else last] = value
    except yaml.YAMLError:
        raise AmmaError(f"--set {override}: {text!r} is not YAML; put quotes around a text") from None
    except (AttributeError, IndexError, TypeError, ValueError):
        raise AmmaError(f"--set {override}: there is no place for {names}") from None


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise AmmaError(f"{where}: expected names and values, found {values!r}")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    if unknown := [name for name in values if name not in known]:
        raise AmmaError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    needed = (f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING)
    if missing := [name for name in needed if name not in values]:
        raise AmmaError(f"{where}: the setting {missing[0]!r} is missing")
    built = {}
    for name, value in values.items():
        hint, place = hints[name], f"{where}: {name}"
        if is_dataclass(hint):
            value = _build(hint, value, place)
        elif hint == list[Phase]:
            if not isinstance(value, list):
                raise AmmaError(f"{place} is {value!r}, but must be a list")
            value = [_build(Phase, item, f"{place}[{i}]") for i, item in enumerate(value)]
        elif hint in (float, float | None) and isinstance(value, int | str) and not isinstance(value, bool):
            value = _number(value, place)  # YAML reads 5e-4 as text
        elif not _fits(value, hint):
            wanted = str(hint) if get_args(hint) else hint.__name__
            raise AmmaError(f"{place} is {value!r}, but must be of type {wanted}")
        built[name] = value
    return kind(**built)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a YAML file is of the type of a setting, `float | None` and `list[int]` included."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_fits(value, part) for part in parts)
    if kind is list:
        return isinstance(value, list) and all(_fits(item, *parts) for item in value)
    if kind is dict and parts:
        names, values = (list[part] for part in parts)
        return isinstance(value, dict) and _fits([*value], names) and _fits([*value.values()], values)
    return type(value) is kind or (kind is float and type(value) is int)


def _number(value: int | str, place: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise AmmaError(f"{place} is {value!r}, but must be a number") from None
