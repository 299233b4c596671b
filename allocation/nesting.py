"""How the groups of one side lie inside one another: a laminar family, that is nested, equal or disjoint sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allocation.arrays import Indices
from allocation.errors import InvalidProblemError


@dataclass(frozen=True, eq=False)
class Nesting:
    """The groups of one side as a forest over its lines, the tokens or the features.

    Attributes
    ----------
    around : (groups,) int64
        The smallest group that holds each group, -1 where there is none; of equal groups the later lies inside.
    depth : (groups,) int64
        How many groups are around each.
    innermost : (lines,) int64
        The smallest group that holds each line, -1 where there is none.
    levels : tuple of (groups of one depth, (lines,) int64 with the group of each line or -1)
        The outermost groups first.
    """

    around: Indices
    depth: Indices
    innermost: Indices
    levels: tuple[tuple[Indices, Indices], ...]


def nesting_of(groups: Sequence[Indices], lines: int, name: str = "groups") -> Nesting:
    """The forest of groups given by their members; `InvalidProblemError` where two of them, called `name`, cross.

    From the largest group down, each must lie inside one innermost group so far.
    """
    around, depth = np.full(len(groups), -1), np.zeros(len(groups), np.int64)
    innermost = np.full(lines, -1)
    levels: list[tuple[list[int], Indices]] = []
    for group in sorted(range(len(groups)), key=lambda g: -len(groups[g])):
        members = groups[group]
        if len(members):
            outer = innermost[members]
            if (outer != outer[0]).any():
                raise _crossing(groups, group, outer, name)
            around[group] = outer[0]
            depth[group] = depth[outer[0]] + 1 if outer[0] >= 0 else 0
        innermost[members] = group
        if depth[group] == len(levels):
            levels.append(([], np.full(lines, -1)))
        of_depth, group_of = levels[depth[group]]
        of_depth.append(group)
        group_of[members] = group
    return Nesting(around, depth, innermost, tuple((np.array(of_depth), group_of) for of_depth, group_of in levels))


def _crossing(groups: Sequence[Indices], group: int, outer: Indices, name: str) -> InvalidProblemError:
    """The sentence about a group that lies partly in one of those around its members."""
    other = min((int(o) for o in np.unique(outer) if o >= 0), key=lambda g: len(groups[g]))
    shared = np.intersect1d(groups[group], groups[other])
    return InvalidProblemError(
        f"{name}[{other}] and {name}[{group}] cross: they share {shared.size} member(s), such as "
        f"{shared[0]}, and neither holds the other; groups of one side must be nested, equal or disjoint"
    )
