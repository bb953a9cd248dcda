"""What the detector and the linker node do, by plain calls instead of a graph: the same messages come out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml
from std_msgs.msg import Header

from amma_core.bundle import Bundle
from amma_core.detector import ActionDetector
from amma_core.errors import AmmaError
from amma_core.runtime.torch_runtime import TorchRuntime
from amma_core.types import Tubelets
from amma_ros import conversions, parameters
from amma_ros.bag_reader import BagImage
from amma_ros.msg import TubeletArray
from amma_ros.parameters import Parameter, Value
from amma_ros.results import Results, check_classes

DETECTIONS, ACTION_TUBES, LABEL_INFO = "/detections", "/action_tubes", "/label_info"
Result = tuple[str, int, object]
"""Topic, time and message; the time is that at which the image was received, in nanoseconds."""


def load_settings(path: str | Path, node: str, given: Mapping[str, Value]) -> dict[str, Value]:
    """A node's parameters by name: defaults, then those of the file, then the given ones.

    Raises AmmaError where the file cannot be read or a value is not what the table wants.
    """
    values = _read_parameters(Path(path), node) | dict(given)
    fault = parameters.unknown(values)
    if fault:
        raise AmmaError(f"{path}: {fault}")
    return {p.name: _checked(path, p, values.get(p.name, p.default)) for p in parameters.NODES[node]}


def _read_parameters(path: Path, node: str) -> dict[str, Value]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        values: dict[str, Value] = {}
        for section in ("/**", node, f"/{node}", f"/**/{node}"):
            values |= _flatten(content.get(section, {}).get("ros__parameters", {}))
    except (OSError, UnicodeDecodeError) as error:
        raise AmmaError(f"{path} cannot be read: {error}") from None
    except (yaml.YAMLError, AttributeError) as error:
        raise AmmaError(f"{path} is no file of parameters: {' '.join(str(error).split())}") from None
    return values


def _flatten(values: dict, prefix: str = "") -> dict[str, Value]:
    flat = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _checked(path: str | Path, parameter: Parameter, value: object) -> Value:
    if isinstance(parameter.default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(parameter.default):
        raise AmmaError(f"{path}: {parameter.name} is {value!r}, but must be a {parameter.type}")
    fault = parameter.fault(value)
    if fault:
        raise AmmaError(f"{path}: {fault}")
    return value


class Offline:
    """Detector and linker for one topic of images.

    The detector's answers are appended to `found`, with the tubelets too weak to be passed on.
    """

    def __init__(
        self,
        model: Bundle,
        detector: Mapping[str, Value],
        linker: Mapping[str, Value],
        found: list[Tubelets] | None = None,
    ):
        check_classes(linker, model.labels)
        self._found = found
        self._labels = model.labels
        self._detector = ActionDetector(
            TorchRuntime(model.build(), **parameters.of_runtime(detector)),
            top=detector["top_tubelets"],
            **parameters.of_streams(detector, model.fps),
        )
        self._min_tubelet_score = detector["min_tubelet_score"]
        self._causal = detector["causal"]
        self._results = Results(linker)
        self._threshold = linker["min_score"]
        self._kind: tuple[str, str] | None = None
        self._times: list[int] = []
        self._settled = 0

    def take(self, image: BagImage) -> Iterator[Result]:
        """The next image that has a picture."""
        if not self._times:
            stamp = conversions.to_stamp(image.stamp)
            yield LABEL_INFO, image.time, conversions.label_info(self._labels, self._threshold, stamp)
        kind = (image.frame_id, image.encoding)
        if self._kind not in (None, kind):
            yield from self.end()
        self._kind, self._stamp = kind, image.stamp
        self._times.append(image.time)
        answers = self._detector.update(image.picture, image.stamp)
        yield from self._link(answers)
        if self._causal and self._settled < len(self._times):
            header = Header(stamp=conversions.to_stamp(image.stamp), frame_id=image.frame_id)
            yield from self._pass_on(
                conversions.announcement(self._detector.frames_seen, header, self._detector.stream)
            )

    def end(self) -> Iterator[Result]:
        """No image of the stream is left."""
        yield from self._link(self._detector.flush())
        if self._kind is not None:
            header = Header(stamp=conversions.to_stamp(self._stamp), frame_id=self._kind[0])
            yield from self._pass_on(TubeletArray(header=header, stream=self._detector.stream))
        self._kind = None

    def _link(self, answers: Sequence[Tubelets]) -> Iterator[Result]:
        for tubelets in answers:
            if self._found is not None:
                self._found.append(tubelets)
            kept = tubelets.scores >= self._min_tubelet_score
            strong = replace(
                tubelets,
                labels=tubelets.labels[kept],
                scores=tubelets.scores[kept],
                boxes=tubelets.boxes[kept],
            )
            yield from self._pass_on(conversions.tubelets_to_message(strong, self._labels, self._kind[0]))

    def _pass_on(self, message: TubeletArray) -> Iterator[Result]:
        frames, tubes = self._results.update(message)
        for frame in frames:
            yield DETECTIONS, self._times[self._settled], frame
            self._settled += 1
        if tubes is not None:
            yield ACTION_TUBES, self._times[self._settled - 1], tubes
