"""Matches of score 0 that no floor needs: they cost nothing, so an optimum may hold some, and a solution holds none."""

from __future__ import annotations

import numpy as np

from allocation.arrays import Array, Indices, Mask
from allocation.nesting import nesting_of
from allocation.problem import Group, Problem


def needed(problem: Problem, tokens: Indices, features: Indices, scores: Array) -> Mask:
    """Which matches stay when those of score 0 go, one after the other, as long as every floor is met."""
    keep = np.ones(scores.size, bool)
    idle = np.flatnonzero(scores == 0)
    if not idle.size:
        return keep
    floors = [
        *_floors(tokens[idle], tokens, problem.shape[0], problem.token_floors, problem.token_groups),
        *_floors(features[idle], features, problem.shape[1], problem.feature_floors, problem.feature_groups),
    ]
    for number, at in enumerate(idle.tolist()):
        own = [(room, limits[number]) for room, limits in floors if limits[number] >= 0]
        if all(room[limit] > 0 for room, limit in own):
            keep[at] = False
            for room, limit in own:
                room[limit] -= 1
    return keep


def _floors(
    idle: Indices, ends: Indices, size: int, floors: Indices | None, groups: tuple[Group, ...]
) -> list[tuple[list[int], list[int]]]:
    """Per level of one side what its counts exceed their floors by, and the floor over each idle match or -1."""
    counts = np.bincount(ends, minlength=size)
    levels: list[tuple[list[int], list[int]]] = []
    if floors is not None:
        levels.append(((counts - floors).tolist(), np.where(floors > 0, np.arange(size), -1)[idle].tolist()))
    if any(group.floor for group in groups):
        least = np.array([group.floor or 0 for group in groups])
        room = (np.array([counts[group.members].sum() for group in groups]) - least).tolist()
        for _, group_of in nesting_of([group.members for group in groups], size).levels:
            over = group_of[idle]
            levels.append((room, np.where((over >= 0) & (least[over] > 0), over, -1).tolist()))
    return levels
