"""From actions seen to events: rules with patience, so that a robot reacts once and not to every flicker."""

import difflib
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import yaml

from amma_core import boxes as box
from amma_core.errors import AmmaError
from amma_core.types import Floats

SAME_PERSON_IOU = 0.5
"""Two actions whose boxes overlap more than this are of one person."""
LONGEST = 86_400.0
_SECOND = 1_000_000_000


@dataclass(frozen=True)
class Rule:
    """When something has happened that is worth a reaction.

    The rule is *fulfilled* by what is seen at one moment if `people` or more do one of `labels`, each with a
    score of `min_score` or more and the middle of the box inside `region`. Its event begins when that has
    lasted for `hold` seconds, of which no interruption may be longer than `gap`, and ends with the first
    interruption that is. The next event begins `cooldown` seconds after that at the earliest.

    Raises AmmaError for values out of range.
    """

    name: str
    labels: tuple[str, ...]
    """Names of actions, any of which will do."""
    min_score: float = 0.5
    keep_score: float | None = None
    """The score that is enough while the event lasts; 0.8 times `min_score` where not given."""
    people: int = 1
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    """x1, y1, x2, y2 as shares of the image's width and height, from its top left corner."""
    hold: float = 0.3
    gap: float = 0.5
    """Seconds for which the rule may be unfulfilled without anything changing."""
    cooldown: float = 2.0
    do: tuple[dict, ...] = ()
    """What is to be done, as it stands in the file: the library only tells when."""

    def __post_init__(self):
        labels = self.labels
        if not labels or not all(isinstance(label, str) and label for label in labels):
            raise AmmaError(f"labels is {list(labels)!r}, but must be names of actions; put them in quotes")
        _within("min_score", self.min_score, 0.0, 1.0)
        if self.keep_score is None:
            object.__setattr__(self, "keep_score", 0.8 * self.min_score)
        _within("keep_score", self.keep_score, 0.0, self.min_score, ", the rule's min_score")
        if type(self.people) is not int or self.people < 1:
            raise AmmaError(f"people is {self.people!r}, but must be a whole number from 1 on")
        for name in ("hold", "gap", "cooldown"):
            _within(name, getattr(self, name), 0.0, LONGEST, " seconds")
        region = self.region
        if len(region) != 4 or not all(map(_is_number, region)):
            raise AmmaError(f"region is {list(region)!r}, but must be four numbers, x1, y1, x2, y2")
        if not (0 <= region[0] < region[2] <= 1 and 0 <= region[1] < region[3] <= 1):
            raise AmmaError(
                f"region is {list(region)!r}, but must be x1, y1, x2, y2 with x1 < x2 and y1 < y2, "
                "as shares of the image's size from 0 to 1"
            )
        if not all(isinstance(entry, dict) for entry in self.do):
            raise AmmaError("do must be a list of reactions, each with fields of its own")


@dataclass(frozen=True, eq=False)
class Sightings:
    """The actions seen at one moment: N tubes that have just grown."""

    stamp: int
    """Nanoseconds."""
    image_size: tuple[int, int]
    """Width and height in pixels; (0, 0) where not known, and then nothing is inside a smaller region."""
    tubes: list[str]
    """(N,) names of the tubes."""
    labels: list[str]
    """(N,)"""
    scores: Floats
    """(N,) in 0..1."""
    boxes: Floats
    """(N, 4) in pixels."""


@dataclass(frozen=True)
class Event:
    """The begin or the end of what a rule waits for."""

    rule: str
    begins: bool
    stamp: int
    """Nanoseconds: of the sightings that made it begin or end."""
    people: int
    """How many did it, when the rule was last fulfilled."""
    tube: str
    label: str
    score: float
    box: tuple[float, float, float, float]
    """The tube with the highest score among them, then."""


class BehaviorEngine:
    """Applies rules to a stream of sightings. Time is what the stamps say and nothing else.

    Each rule's events begin and end in turn. Stamps that run backwards (a bag begins again) end all events
    at the newest stamp before, and everything is forgotten, cool-downs too. While no sightings come,
    nothing changes; with the first ones after more than `max_gap` seconds, what was seen before them
    is over, unless the rule's own gap is longer.
    """

    def __init__(self, rules: list[Rule], max_gap: float = 1.0):
        self._rules, self._max_gap = list(rules), round(max_gap * _SECOND)
        self._stamp: int | None = None
        self._behaviors: list[_Behavior] = []

    def update(self, seen: Sightings) -> list[Event]:
        """Take what is seen now; returns what begins or ends with it, in the order of the rules."""
        events = []
        if self._stamp is None or seen.stamp < self._stamp:
            events = [event for behavior in self._behaviors for event in behavior.end(self._stamp)]
            self._behaviors = [_Behavior(rule, self._max_gap) for rule in self._rules]
        self._stamp = seen.stamp
        return events + [event for behavior in self._behaviors for event in behavior.update(seen)]


class _Behavior:
    """One rule and where it stands."""

    def __init__(self, rule: Rule, max_gap: int):
        self.rule = rule
        self._hold, self._gap, self._cooldown = (
            round(seconds * _SECOND) for seconds in (rule.hold, rule.gap, rule.cooldown)
        )
        self._max_gap = max(max_gap, self._gap)
        self._on = False
        self._stamp: int | None = None
        self._since: int | None = None
        """When the rule began to be fulfilled, interruptions forgiven; None while it is not."""
        self._newest: Event | None = None
        """What fulfilled it last."""
        self._missing_since: int | None = None
        """When the present interruption began."""
        self._ready_at: int | None = None

    def update(self, seen: Sightings) -> list[Event]:
        events, now = [], seen.stamp
        hole = self._stamp is not None and now - self._stamp > self._max_gap
        self._stamp = now
        if hole or (self._missing_since is not None and now - self._missing_since > self._gap):
            events = self.end(now)
        found = self._look(seen)
        if found is None:
            if self._since is not None and self._missing_since is None:
                self._missing_since = now
            # Unfulfilled still, so the interruption is going to be longer than this.
            if self._missing_since is not None and now - self._missing_since >= self._gap:
                events += self.end(now)
            return events
        self._newest, self._missing_since = found, None
        if self._since is None:
            self._since = now
        ready = self._ready_at is None or now >= self._ready_at
        if not self._on and ready and now - self._since >= self._hold:
            self._on = True
            events.append(found)
        return events

    def end(self, stamp: int) -> list[Event]:
        """The event is over, if there is one, and what was held for counts no more."""
        events = []
        if self._on:
            events = [replace(self._newest, begins=False, stamp=stamp)]
            self._ready_at = stamp + self._cooldown
        self._on, self._since, self._newest, self._missing_since = False, None, None, None
        return events

    def _look(self, seen: Sightings) -> Event | None:
        rule = self.rule
        enough = rule.keep_score if self._on else rule.min_score
        named = np.isin(seen.labels, rule.labels) if seen.labels else np.zeros(0, bool)
        chosen = np.flatnonzero(named & (seen.scores >= enough) & self._inside(seen))
        chosen = chosen[np.argsort(-seen.scores[chosen], kind="stable")]
        people = _count_people(seen.boxes[chosen])
        if people < rule.people:
            return None
        best = chosen[0]
        return Event(
            rule=rule.name,
            begins=True,
            stamp=seen.stamp,
            people=people,
            tube=seen.tubes[best],
            label=seen.labels[best],
            score=float(seen.scores[best]),
            box=tuple(seen.boxes[best].tolist()),
        )

    def _inside(self, seen: Sightings) -> np.ndarray:
        if self.rule.region == (0, 0, 1, 1):
            return np.ones(len(seen.scores), bool)
        x1, y1, x2, y2 = np.multiply(self.rule.region, np.tile(seen.image_size, 2))
        x, y = ((seen.boxes[:, :2] + seen.boxes[:, 2:]) / 2).T
        return (x1 <= x) & (x < x2) & (y1 <= y) & (y < y2)


def _count_people(boxes: Floats) -> int:
    """How many people the boxes (N, 4) of different actions show."""
    one = box.iou_matrix(boxes, boxes) > SAME_PERSON_IOU
    people: list[int] = []
    for row in range(len(boxes)):
        if not one[row, people].any():
            people.append(row)
    return len(people)


# Files of rules --------------------------------------------------------------------------------------


def read_rules(path: str | Path) -> list[Rule]:
    """The rules of a YAML file, in its order; docs/behaviors.md describes it.

    Raises AmmaError, which names the file, the rule and the cure.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise AmmaError(
            f"the rules in {path} cannot be read: {reason}; give the path of a YAML file"
        ) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise AmmaError(f"{path}, line {line}: {error.problem}; mend the YAML there") from None
    except yaml.YAMLError as error:
        raise AmmaError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or list(content) != ["rules"] or not isinstance(content["rules"], dict):
        raise AmmaError(f"{path} must hold one mapping, 'rules', from each rule's name to its fields")
    if not content["rules"]:
        raise AmmaError(f"{path} holds no rule; write at least one under 'rules'")
    return [_rule(str(name), values, f"{path}: rule '{name}'") for name, values in content["rules"].items()]


def _rule(name: str, values: object, where: str) -> Rule:
    known = [f.name for f in fields(Rule) if f.name != "name"]
    if not isinstance(values, dict):
        raise AmmaError(f"{where} has no fields; it needs 'labels' at least")
    strange = [str(key) for key in values if key not in known]
    if strange:
        near = difflib.get_close_matches(strange[0], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
        raise AmmaError(f"{where} has an unknown field '{strange[0]}'; {hint}")
    if "labels" not in values:
        raise AmmaError(f"{where} has no labels; list the actions that it waits for")
    values = dict(values)
    if isinstance(values["labels"], str):
        values["labels"] = [values["labels"]]
    for key in {"labels", "region", "do"} & set(values):
        if not isinstance(values[key], list):
            raise AmmaError(f"{where}: {key} is {values[key]!r}, but must be a list")
        values[key] = tuple(values[key])
    try:
        return Rule(name, **values)
    except AmmaError as error:
        raise AmmaError(f"{where}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Refuses what YAML loaders mostly let pass: of two equal keys the first one lost."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value]
        for key, _ in node.value:
            if keys.count(key.value) > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is there twice", problem_mark=key.start_mark
                )
        return super().construct_mapping(node, deep)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(name: str, value: object, low: float, high: float, what: str = "") -> None:
    if not _is_number(value) or not low <= value <= high:
        raise AmmaError(f"{name} is {value!r}, but must be a number from {low:g} to {high:g}{what}")
