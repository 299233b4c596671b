"""What the strategies draw: mostly problems whose limits decide the answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.allocation.integer_program import kind
from tests.allocation.strategies import any_case, nested, one_sided

# strategy, and the least share of real and of infeasible problems among those it draws; well below what is usual, since
# Hypothesis draws constants of whatever modules are loaded too
LEAST: dict[str, tuple[st.SearchStrategy[Any], float, float]] = {
    "one side, caps": (one_sided(), 0.4, 0.0),
    "one side, nested": (nested(), 0.3, 0.003),
    "both sides": (any_case(max_side=5), 0.35, 0.01),
    "both sides, limits that contradict each other": (any_case(min_side=1, agreed=False), 0.12, 0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEAST)
def test_most_problems_have_an_answer_that_their_limits_decide(name: str) -> None:
    """`pytest -rP` prints the shares."""
    strategy, real, infeasible = LEAST[name]
    seen: Counter[str] = Counter()

    @given(strategy)
    @settings(max_examples=250)
    def draw(case: tuple[Any, dict[str, Any]]) -> None:
        seen[kind(*case)] += 1

    draw()
    shares = {kind: count / seen.total() for kind, count in seen.items()}
    print(name, {kind: f"{share:.0%}" for kind, share in shares.items()})
    assert shares["real"] >= real, shares
    assert shares.get("infeasible", 0.0) >= infeasible, shares
