"""What a network is made of: the part of a model's configuration that decides its shapes.

Kept apart from the network itself, so that reading a model's labels does not load torch.
"""

import math
from dataclasses import asdict, dataclass, fields

from amma_core.errors import AmmaError

FUSIBLE_STAGES = {"resnet18": 5, "mobilenet_v2": 3, "shufflenet_v2": 3, "efficientnet_lite0": 3}
"""The backbones, and how many stages of each, from the first, may have a motion twin."""
MOTIONS = ("conv_diff", "diff", "none")
UPSAMPLINGS = ("bilinear", "nearest")
COMPARED_FRAMES = 3
"""Motion maps per clip: pre-trained backbones want three channels."""


@dataclass(frozen=True)
class NetworkConfig:
    """The paper's settings by default (section 4.1); every field may differ in a trained model.

    A network without motion has ``motion == "none"`` and ``fusion_stages == 0``: either implies the other,
    and that there is no late fusion.
    """

    num_classes: int
    backbone: str = "resnet18"
    motion: str = "conv_diff"
    """``conv_diff``: shallow features are compared (MM_Conv_Diff); ``diff``: pixels (MM_Diff); ``none``."""
    fusion_stages: int = 3
    """Backbone stages after which motion is blended into appearance."""
    late_fusion: float = 0.0
    """Share in the backbone's outcome of what its deep stages see of the motion alone. The paper has none."""
    clips: int = 5
    """K: clips that the head sees at once (5 for JHMDB-21, 3 for UCF-24)."""
    clip_length: int = 4
    """t: frames of a clip; the first three are compared with the last."""
    input_size: int = 288
    """Side of the square network input in pixels, a multiple of 32."""
    upsample: str = "bilinear"
    """How maps are enlarged: ``bilinear`` as the paper says, ``nearest`` as the authors' weights want."""
    add_key_movement: bool = True
    """Whether the trajectory branch also corrects the newest centre (it is trained to give the part of
    the centre that rounding to a cell loses; the paper's text leaves the newest centre alone)."""

    def __post_init__(self):
        _one_of("backbone", self.backbone, tuple(FUSIBLE_STAGES))
        _one_of("motion", self.motion, MOTIONS)
        _one_of("upsample", self.upsample, UPSAMPLINGS)
        most = FUSIBLE_STAGES[self.backbone]
        within("fusion_stages", self.fusion_stages, 0, most, f" for {self.backbone}")
        within("late_fusion", self.late_fusion, 0.0, 1.0)
        within("num_classes", self.num_classes, 1, 10_000)
        within("clips", self.clips, 1, 64)
        within("clip_length", self.clip_length, COMPARED_FRAMES + 1, 64)
        within("input_size", self.input_size, 32, 4096)
        if self.input_size % 32:
            raise AmmaError(f"input_size is {self.input_size}, but must be a multiple of 32")
        if self.motion == "none" or self.fusion_stages == 0:
            object.__setattr__(self, "motion", "none")
            object.__setattr__(self, "fusion_stages", 0)
            object.__setattr__(self, "late_fusion", 0.0)

    @property
    def grid(self) -> int:
        """Side of the output maps in cells: one cell is R = 8 input pixels."""
        return self.input_size // 8

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict, where: str) -> "NetworkConfig":
        """Build from a mapping read from a file; `where` names the file in errors.

        Raises AmmaError for unknown, missing or unfit values.
        """
        known = {f.name: f.type for f in fields(cls)}
        unknown = sorted(set(values) - set(known), key=str)
        if unknown:
            raise AmmaError(f"{where}: unknown network setting {unknown[0]!r}; known are {', '.join(known)}")
        if "num_classes" not in values:
            raise AmmaError(f"{where}: the network setting num_classes is missing")
        for name, value in values.items():
            if type(value) is not known[name]:
                raise AmmaError(f"{where}: {name} is {value!r}, but must be of type {known[name].__name__}")
        try:
            return cls(**values)
        except AmmaError as error:
            raise AmmaError(f"{where}: {error}") from None


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise AmmaError(f"{name} is {value!r}, but must be one of {', '.join(choices)}")


def within(name: str, value: float, low: float, high: float = math.inf, where: str = "") -> None:
    """AmmaError unless ``low <= value <= high``."""
    if not low <= value <= high:
        allowed = f"{low} or more" if high == math.inf else f"from {low} to {high}"
        raise AmmaError(f"{name} is {value}, but must be {allowed}{where}")
