"""Work on many small groups at once: rows sorted by group, one step of every group per call."""

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def expand(starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """All numbers of the ranges ``starts[i]`` to ``stops[i]`` (exclusive), and the i of each."""
    counts = stops - starts
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, starts[owner] + within


def first_of(groups: NDArray) -> NDArray[np.bool_]:
    """Whether each row is the first of its group, where equal values of ``groups`` stand together."""
    first = np.ones(len(groups), bool)
    first[1:] = groups[1:] != groups[:-1]
    return first


def followers(rows: Ints, first: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """The rows that are not first in their group, preceded by the first row of the group of each."""
    leaders = rows[first][np.cumsum(first) - 1]
    return leaders[~first], rows[~first]


def match(pairs: tuple[Ints, Ints], groups: Ints, overlaps: NDArray) -> tuple[Ints, Ints]:
    """Greedy one-to-one matching within every group.

    Detections choose in the order of their number; each takes, of the truths not yet taken, the one
    with the largest overlap (of equal ones, the first).

    Args:
        pairs: (P,) detection numbers and (P,) truth numbers of all pairs that may match.
        groups: (P,) group of each pair; detections and truths of different groups never pair.
        overlaps: (P,)

    Returns:
        The matched detections and, in parallel, their truths, in no particular order.
    """
    detections, truths = pairs
    live = np.lexsort((truths, -overlaps, detections, groups))
    taken = np.zeros(truths.max(initial=-1) + 1, bool)
    matched = []
    while len(live):
        # Every pair left is good enough, so the first detection of each group gets its best truth.
        first = first_of(groups[live])
        matched.append(live[first])
        taken[truths[live[first]]] = True
        leaders, live = followers(live, first)
        live = live[~taken[truths[live]] & (detections[live] != detections[leaders])]
    matched = np.concatenate([np.zeros(0, np.int64), *matched])
    return detections[matched], truths[matched]
