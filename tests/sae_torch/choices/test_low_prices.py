"""Where a search under floors starts: answers stay, and fewer lines lack matches."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import allocation as al
import sae_torch as st
from allocation.solvers.laminar.candidates import Offers
from sae_torch.choices.low_prices import LowPrices


def prices(budget: float, *features: float) -> al.Prices:
    nothing = al.Price(np.empty(0))
    return al.Prices(al.Price(budget), nothing, al.Price(np.array(features)), nothing, nothing)


def test_a_low_price_is_remembered_for_some_batches() -> None:
    low = LowPrices()
    last = prices(2.0, -1.0, 0.0, -0.02)
    low.observe(last)
    assert low.expected(last).features.value.tolist() == [-1.0, 0.0, 0.0]  # the last is as good as the budget's
    for _ in range(10):
        low.observe(prices(4.0, 0.0, -0.4, 0.0))
    expected = low.expected(prices(4.0, 0.0, -0.4, 0.0)).features.value
    assert expected == pytest.approx([-4 * 0.5 * 0.95**10, -0.4, 0.0])


def test_what_says_nothing_is_passed_over() -> None:
    low, last = LowPrices(), prices(0.0, -1.0)
    low.observe(last)
    assert low.expected(last) is last
    low.observe(prices(1.0, -0.5))
    other = prices(1.0, -0.5, 0.0)
    assert low.expected(other) is other  # of another width
    low.observe(other)
    assert low.expected(other).features.value.tolist() == [-0.5, 0.0]


def batches(seed: int) -> list[torch.Tensor]:
    """Scores of 600 tokens and 300 features that differ in how often they fire."""
    draw = torch.Generator().manual_seed(seed)
    usual = torch.rand(300, generator=draw) * 2
    return [torch.randn(600, 300, generator=draw) + usual for _ in range(30)]


def test_matches_and_prices_do_not_depend_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        choice = st.BalancedChoice(8, feature_floors=8 / 300 / 4)
        found = []
        for scores in batches(0):
            codes = choice(scores)
            found.append((codes.tokens, codes.features, choice.tracker.theta.clone()))
        return found

    with_it = trained()
    monkeypatch.setattr(LowPrices, "expected", lambda self, prices: prices)
    for ours, plain in zip(with_it, trained(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_fewer_lines_lack_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by what is searched for beside what lies above the expected prices."""
    searched: list[int] = []
    lines = Offers._lines

    def counted(self: Offers, chosen: np.ndarray) -> np.ndarray:
        searched.append(len(chosen))
        return lines(self, chosen)

    monkeypatch.setattr(Offers, "_lines", counted)

    def total() -> int:
        searched.clear()
        choice = st.BalancedChoice(8, feature_floors=8 / 300 / 4)
        for scores in batches(1):
            choice(scores)
        return sum(searched)

    with_it = total()
    monkeypatch.setattr(LowPrices, "expected", lambda self, prices: prices)
    assert with_it < 0.7 * total()


def test_a_choice_that_was_pickled_without_it_goes_on() -> None:
    """As one is that an earlier release wrote."""
    choice = st.BalancedChoice(8, feature_floors=8 / 300 / 4)
    first, second = batches(2)[:2]
    choice(first)
    state = choice.__dict__.copy()
    del state["_low_prices"]
    older = st.BalancedChoice(8, feature_floors=8 / 300 / 4)
    older.__dict__.clear()
    older.__dict__.update(copy.deepcopy(state))
    again, expected = older(second), choice(second)
    assert torch.equal(again.tokens, expected.tokens)
    assert torch.equal(again.features, expected.features)
