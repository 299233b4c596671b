"""The comparison with rivals at toy size: every family is solved, proved, and worth the same to all."""

import threading

import pytest

from benchmarks import rivals
from benchmarks.rivals_cases import GROUPS
from benchmarks.rivals_others import INFEASIBLE


@pytest.mark.parametrize("group", GROUPS)
def test_all_sides_agree(group: str) -> None:
    cases = list(GROUPS[group](0.02))
    assert cases
    for case in cases:
        ours = case.ours()
        case.check()
        for name, rival in case.rivals.items():
            rivals.agree(case, name, rival(), ours)


def test_totals_that_differ_are_found() -> None:
    case = next(iter(GROUPS["assignment"](0.02)))
    ours = case.ours()
    assert isinstance(ours, float)
    with pytest.raises(AssertionError):
        rivals.agree(case, "other", ours + 1.0, ours)
    with pytest.raises(AssertionError):
        rivals.agree(case, "other", INFEASIBLE, ours)


def test_a_side_without_end_is_stopped() -> None:
    assert rivals.in_process(lambda: 3, 60.0) == 3
    assert rivals.in_process(lambda: threading.Event().wait(), 0.2) is None
