"""Work on many small groups at once: rows sorted by group, one step of every group per call."""

import numpy as np
from numpy.typing import NDArray

from amma_core.boxes import starts_of_runs

Ints = NDArray[np.int64]


def expand(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """All numbers of the ranges ``starts[i]`` to ``stops[i]`` (exclusive), and the i of each."""
    counts = stops - starts
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, starts[owner] + within


def followers(rows: Ints, first: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The rows that are not first in their group, preceded by the first row of the group of each."""
    leaders = rows[first][np.cumsum(first) - 1]
    return leaders[~first], rows[~first]


def match(ones: NDArray, others: NDArray, groups: NDArray) -> NDArray[np.int64]:
    """Greedy one-to-one matching within every group, all groups at once.

    Each row is a pair that may match. Rows of a group stand together, those of one detection stand
    together within it in the order in which detections choose, its favourite first. Each detection
    takes the first of its pairs whose other side is not taken.

    Args:
        ones: (P,) who chooses. Nobody is in two groups.
        others: (P,) what is chosen, likewise.
        groups: (P,)

    Returns:
        The rows of the pairs that were made, in no particular order.
    """
    live = np.arange(len(ones))
    taken = np.zeros(others.max(initial=-1) + 1, bool)
    made = [live[:0]]
    while len(live):
        first = starts_of_runs(groups[live])
        made.append(live[first])
        taken[others[live[first]]] = True
        leaders, live = followers(live, first)
        live = live[~taken[others[live]] & (ones[live] != ones[leaders])]
    return np.concatenate(made)
