"""Shares of the soft problem as a layer: gradients through the prices, and the exact allocation straight through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st_
from torch import Tensor

import allocation as al
import sae_torch as st

LIMITS: list[dict[str, Any]] = [
    {"k": 1.5},
    {"k": None, "token_caps": 2},
    {"k": None, "feature_caps": 0.4},
    {"k": 1.5, "token_caps": 2, "feature_caps": 0.6},
]


def scores_of(tokens: int, features: int, seed: int) -> Tensor:
    return torch.randn(tokens, features, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("form", ["entropy", "clipped"])
def test_gradients_are_those_of_finite_differences(limits: dict[str, Any], form: str) -> None:
    choice = st.SoftChoice(temperature=0.7, form=form, **limits)
    for shape, seed in (((5, 4), 0), ((1, 6), 1), ((6, 1), 2), ((7, 5), 3)):
        scores = scores_of(*shape, seed).requires_grad_()
        torch.autograd.gradcheck(choice, (scores,), eps=1e-6, atol=1e-5, rtol=1e-4)


@given(st_.integers(1, 6), st_.integers(2, 6), st_.integers(0, 2**31), st_.sampled_from(LIMITS))
@settings(max_examples=40)
def test_limits_hold_and_cold_shares_are_the_exact_matches(
    tokens: int, features: int, seed: int, limits: dict[str, Any]
) -> None:
    scores = scores_of(tokens, features, seed)
    choice = st.SoftChoice(temperature=0.5, **limits)
    problem = choice.problem(scores)
    shares = choice(scores)
    if problem.budget is not None:
        assert float(shares.sum()) <= problem.budget + 1e-6
    if problem.token_caps is not None:
        assert bool((shares.sum(dim=1) <= torch.tensor(problem.token_caps) + 1e-6).all())
    if problem.feature_caps is not None:
        assert bool((shares.sum(dim=0) <= torch.tensor(problem.feature_caps) + 1e-6).all())
    exact = al.solve(problem)
    assert al.verify(problem, exact).optimal
    cold = st.SoftChoice(temperature=1e-5, **limits)(scores)
    assert float((cold * scores).sum()) == pytest.approx(exact.objective, abs=1e-3)


def test_straight_through_is_hard_forward_and_soft_backward() -> None:
    scores = scores_of(6, 5, 4)
    upstream = scores_of(6, 5, 5)
    gradients, outputs = [], []
    for hard in (False, True):
        leaf = scores.clone().requires_grad_()
        out = st.SoftChoice(2, 0.5, token_caps=3, straight_through=hard)(leaf)
        out.backward(upstream)
        outputs.append(out.detach())
        gradients.append(leaf.grad)
    problem = al.balanced_choice(scores, budget=12, token_caps=3)
    assert torch.equal(outputs[1], torch.from_numpy(al.solve(problem).mask()).double())
    assert not torch.equal(outputs[0], outputs[1])
    assert gradients[0] is not None
    assert torch.equal(gradients[0], gradients[1])  # type: ignore[arg-type]
    assert bool((gradients[0] != 0).sum() > 12)  # refused scores get gradient too


def test_it_trains_scores_towards_wanted_matches() -> None:
    """With a budget, raising one share must lower others: the layer moves matches, not just their strengths."""
    wanted = torch.eye(5, dtype=torch.float64)
    scores = scores_of(5, 5, 6).requires_grad_()
    choice = st.SoftChoice(1, 0.3, straight_through=True)
    optimizer = torch.optim.Adam([scores], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (choice(scores) - wanted).pow(2).sum().backward()
        optimizer.step()
    assert torch.equal(choice(scores).detach(), wanted)


def test_float32_in_float32_out() -> None:
    scores = scores_of(4, 3, 7).float().requires_grad_()
    shares = st.SoftChoice(1, 0.5)(scores)
    shares.sum().backward()
    assert shares.dtype == torch.float32
    assert scores.grad is not None
    assert scores.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.SoftChoice(None, 1.0), "expected at least one of k, token_caps and feature_caps"),
        (lambda: st.SoftChoice(1, 0.0), "temperature: expected a positive number, found 0.0"),
        (lambda: st.SoftChoice(1, 1.0, form="soft"), 'form: expected "entropy" or "clipped"'),
        (lambda: st.SoftChoice(1, 1.0)(torch.ones(3)), r"scores: expected shape \(tokens, features\)"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        call()
