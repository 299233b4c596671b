"""Intervals of the prices of many groups: from one pass over the scores, the same as from a pass for each group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import allocation as al
from allocation.solvers.two_sided import sensitivity


@given(st.integers(0, 10**6), st.integers(1, 6), st.booleans(), st.sampled_from([0, 1, 64]))
@settings(deadline=None, max_examples=15)
def test_one_pass_for_all_groups_gives_what_one_for_each_gives(seed: int, size: int, ties: bool, most: int) -> None:
    """Whether the pass finds too many edges or not."""
    rng = np.random.default_rng(seed)
    shape = 24, int(rng.integers(4, 40))
    scores = rng.integers(-2, 9, shape) if ties else rng.standard_normal(shape)
    parts = np.array_split(rng.permutation(24), 24 // size)
    groups = [al.Group(part, cap=int(rng.integers(1, 3 * part.size + 1))) for part in parts]
    problem = al.Problem(scores, token_caps=3, token_groups=groups, feature_caps=int(rng.integers(1, 5)))
    ends = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "MOST", most)
        patch.setattr(sensitivity, "DISTANCES", 200)
        for many in (1, 1 << 30):
            patch.setattr(sensitivity, "MANY", many)
            solution = al.solve(problem, al.TwoSided())
            ends.append([(price.lower, price.upper) for price in vars(solution.prices).values()])
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
