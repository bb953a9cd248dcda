"""A training run's settings, as its YAML file gives them."""

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from amma_core.config import NetworkConfig
from amma_core.errors import AmmaError
from amma_core.training.augmentation import Augmentation


@dataclass(frozen=True)
class Data:
    annotations: str
    """A data set in the native format, or a benchmark's pickle."""
    train: str = "train1"
    """The split to train on."""
    test: str = "test1"
    """The split that is looked at once, after training."""
    validation: float = 0.1
    """Share of the training split, by groups, that is held out to choose the best epoch."""
    group: str = ""
    """Regular expression: videos whose names begin with the same match are one group, and all go to one side,
    as clips of one recording should. Empty: every video is a group of its own."""
    cache: str = "runs/cache"
    """Folder for the decoded frames."""
    max_side: int | None = None
    """Frames are cached with at most this many pixels on their longer side; null keeps them as they are."""


@dataclass(frozen=True)
class Sampling:
    windows: int = 1
    """Windows per sample, which share clips."""
    stride: int = 1
    """An epoch has one sample for so many frames with actions."""
    whole: float = 0.0
    """Share of the samples, beyond those that chance gives, whose key frames are all different ones. Many
    windows of a short video begin before its first frame, whose copies stand in and show no motion."""


@dataclass(frozen=True)
class Phase:
    epochs: int
    input_size: int = 288
    frozen_stages: int = 0
    """The first so many backbone stages of both streams keep their weights, which saves going back through
    them; so do the micro-motion filters and the shares. Layers without a pre-trained start always learn."""
    batch: int | None = None
    """Samples per step, where it differs from the optimisation's."""


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
        values = {**self.network, "num_classes": num_classes, "input_size": self.phases[-1].input_size}
        config = NetworkConfig.from_dict(values, "network")
        if self.optimisation.hidden_appearance and config.motion == "none":
            raise AmmaError(
                f"optimisation.hidden_appearance is {self.optimisation.hidden_appearance}, but a network "
                "without motion would see nothing then: make it 0"
            )
        return config

    def to_dict(self) -> dict:
        return asdict(self)


def load_recipe(path: Path, overrides: list[str]) -> Recipe:
    """Read a YAML file, with ``a.b=value`` overrides on top; raises AmmaError for what doesn't belong."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise AmmaError(f"there is no training configuration at {path}") from None
    except yaml.YAMLError as error:
        raise AmmaError(f"{path} is not YAML: {error}") from None
    for override in overrides:
        keys, found, value = override.partition("=")
        if not found:
            raise AmmaError(f"--set {override}: write it as name=value, for instance data.train=train2")
        *parents, last = keys.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(value)
    return _build(Recipe, values, str(path))


def _build(kind: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise AmmaError(f"{where}: expected names and values, found {values!r}")
    hints = get_type_hints(kind)
    known = {f.name for f in fields(kind)}
    if unknown := sorted(set(values) - known):
        raise AmmaError(f"{where}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(known))}")
    built = {}
    for name, value in values.items():
        hint, place = hints[name], f"{where}: {name}"
        if is_dataclass(hint):
            value = _build(hint, value, place)
        elif hint == list[Phase]:
            value = [_build(Phase, item, f"{place}[{i}]") for i, item in enumerate(value)]
        elif hint in (float, float | None) and isinstance(value, int | str) and not isinstance(value, bool):
            value = _number(value, place)  # YAML reads 5e-4 as text
        elif hint in (int, float, str, bool) and type(value) is not hint:
            raise AmmaError(f"{place} is {value!r}, but must be of type {hint.__name__}")
        built[name] = value
    try:
        return kind(**built)
    except TypeError as error:
        raise AmmaError(f"{where}: {error}") from None


def _number(value: int | str, place: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise AmmaError(f"{place} is {value!r}, but must be a number") from None
