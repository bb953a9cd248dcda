"""Precision, recall and the area below them, as the ACT line of work computes it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ERRORS = ("L", "C", "T", "O")
"""What an unmatched detection can be: wrong location, wrong class, wrong time, other."""

MISSED = "M"


@dataclass(frozen=True, eq=False)
class Curve:
    """One class at one threshold."""

    positives: int
    """Boxes or tubes of this class in the ground truth."""
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    """(n + 1,) after the first 0, 1, ... n detections. Starts at (precision 1, recall 0)."""
    ap: float
    """Average precision in percent; nan for a class without ground truth."""
    errors: dict[str, float]
    """Percent of average precision lost to each kind of error; with ``ap`` they sum to 100."""


def curve_of(outcomes: NDArray[np.int64], positives: int) -> Curve:
    """The curve of one class.

    The area is the plain trapezoid under the raw points, without an envelope. The share of each kind
    of error among the first i detections is integrated over recall in the same way; what recall
    never reaches is missed.

    Args:
        outcomes: (n,) of the detections, best score first: 0 is right, 1 + i an error ``ERRORS[i]``.
        positives: number of boxes or tubes to find.
    """
    if not positives:
        nothing = dict.fromkeys((*ERRORS, MISSED), math.nan)
        return Curve(0, np.ones(1), np.zeros(1), math.nan, nothing)
    right = outcomes == 0
    found = np.cumsum(right)
    seen = np.arange(1, len(outcomes) + 1)
    precision, recall = np.append(1, found / seen), np.append(0, found / positives)

    # Recall rises at the matches only, so the shares are needed just there and one detection before.
    at = np.flatnonzero(right)
    errors = {}
    for kind, name in enumerate(ERRORS, 1):
        count = np.searchsorted(np.flatnonzero(outcomes == kind), at)
        errors[name] = _percent(count / np.maximum(at, 1), count / (at + 1), positives)
    ap = _percent(precision[at], precision[at + 1], positives)
    return Curve(positives, precision, recall, ap, errors | {MISSED: 100 - 100 * float(recall[-1])})


def _percent(before: NDArray, after: NDArray, positives: int) -> float:
    """The trapezoids between each match and the detection before it; each is 1 / positives wide."""
    return float(50 * (before + after).sum() / positives)


def mean_over_classes(values: list[float]) -> float:
    """The unweighted mean of the classes that have ground truth; nan if none has."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
