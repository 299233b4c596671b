"""The best value of a small problem, by SciPy's integer programme on rows written down from the definition alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

import allocation as al


def best_value(scores: Any, limits: dict[str, Any]) -> float | None:
    """The largest sum of scores within the limits; None if nothing is within them."""
    scores = np.asarray(scores, np.float64)
    rows: list[np.ndarray[Any, Any]] = []
    least: list[float] = []
    most: list[float] = []

    def limit(block: Any, cap: Any, floor: Any) -> None:
        inside = np.zeros(scores.shape)
        inside[block] = 1
        rows.append(inside.reshape(-1))
        least.append(0 if floor is None else min(int(floor), scores.size + 1))
        most.append(scores.size if cap is None else min(int(cap), scores.size))

    limit(..., limits.get("budget"), None)
    for axis, side in enumerate(("token", "feature")):
        size = scores.shape[axis]
        caps, floors = (
            np.broadcast_to(np.asarray(limits.get(f"{side}_{kind}"), object), size) for kind in ("caps", "floors")
        )
        for line in range(size):
            limit((slice(None),) * axis + (line,), caps[line], floors[line])
        for group in limits.get(f"{side}_groups", ()):
            limit((slice(None),) * axis + (np.asarray(group.members, np.int64),), group.cap, group.floor)
    if scores.size == 0:
        return None if max(least) > 0 else 0.0
    allowed = (scores > -np.inf).reshape(-1)
    worth = np.where(allowed, scores.reshape(-1), 0.0)
    found = milp(
        -worth / (np.abs(worth).max() or 1.0),
        constraints=LinearConstraint(np.array(rows), np.array(least), np.array(most)),
        integrality=np.ones(worth.size),
        bounds=Bounds(0, allowed.astype(np.float64)),
        options={"mip_rel_gap": 0.0},
    )
    assert found.status in (0, 2), found.message
    return None if found.status == 2 else math.fsum(worth[found.x > 0.5])


def kind(scores: Any, limits: dict[str, Any]) -> str:
    """What a problem is good for in a test: "real" if it has an answer that is not found without its limits."""
    value = best_value(scores, limits)
    if value is None:
        return "infeasible"
    if min(np.shape(scores)) < 2:
        return "one line or none"
    wide = np.asarray(scores, np.float64)
    return "real" if value < math.fsum(wide[wide > 0]) else "no limit binds"


def limits_of(problem: al.Problem) -> dict[str, Any]:
    """The limits that a problem states."""
    names = ("budget", "token_caps", "token_floors", "feature_caps", "feature_floors")
    given = {name: getattr(problem, name) for name in names if getattr(problem, name) is not None}
    return {**given, "token_groups": problem.token_groups, "feature_groups": problem.feature_groups}
