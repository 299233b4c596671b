"""Groups of one side as a forest: who lies inside whom, and which two cross."""

from __future__ import annotations

import numpy as np
import pytest

import allocation as al
from allocation.nesting import nesting_of


def test_every_group_and_line_knows_what_is_around_it() -> None:
    groups = [np.array([3, 4]), np.array([0, 1, 2, 3, 4]), np.array([0, 1]), np.array([0, 1]), np.array([], int)]
    nesting = nesting_of(groups, 7)
    assert nesting.around.tolist() == [1, -1, 1, 2, -1]
    assert nesting.depth.tolist() == [1, 0, 1, 2, 0]
    assert nesting.innermost.tolist() == [3, 3, 1, 0, 0, -1, -1]
    levels = [(of_depth.tolist(), group_of.tolist()) for of_depth, group_of in nesting.levels]
    assert levels == [
        ([1, 4], [1, 1, 1, 1, 1, -1, -1]),
        ([0, 2], [2, 2, -1, 0, 0, -1, -1]),
        ([3], [3, 3, -1, -1, -1, -1, -1]),
    ]


@pytest.mark.parametrize("groups", [[[0, 1, 2], [2, 3]], [[2, 3], [0, 1, 2]]])
def test_groups_that_cross_are_named_with_what_they_share(groups: list[list[int]]) -> None:
    with pytest.raises(al.InvalidProblemError, match=r"cross: they share 1 member\(s\), such as 2, and neither holds"):
        nesting_of([np.array(members) for members in groups], 4, "token_groups")
