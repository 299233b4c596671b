"""Balanced choice: the two-sided problem in a layer, its floors, its batch-free form."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st_

import allocation as al
import sae_torch as st
from sae_torch.choices import balanced
from tests.sae_torch.choices.test_choices import heavy_tailed


@given(st_.integers(1, 12), st_.integers(2, 9), st_.integers(0, 2**31), st_.integers(1, 2), st_.booleans())
@settings(max_examples=60)
def test_the_selection_is_that_of_the_solver(tokens: int, features: int, seed: int, k: int, floors: bool) -> None:
    scores = heavy_tailed(tokens, features, seed)
    densities = np.full(features, 0.5 * k / features)
    choice = st.BalancedChoice(
        k, token_caps=k + 1, token_floors=1 if floors else None, feature_caps=0.7,
        feature_floors=densities if floors else None,
    )  # fmt: skip
    caps = al.QuotaLedger(np.full(features, 0.7)).allot(tokens)
    least = al.QuotaLedger(densities).allot(tokens) if floors else None
    problem = al.balanced_choice(
        scores,
        budget=max(k * tokens, 0 if least is None else int(least.sum())),
        token_caps=k + 1,
        token_floors=1 if floors else None,
        feature_caps=caps if least is None else np.maximum(caps, least),
        feature_floors=least,
    )
    expected = al.solve(problem, throw=False)
    if expected.status is al.Status.INFEASIBLE:
        with pytest.raises(al.InfeasibleError, match=f"^{re.escape(str(expected.error))}"):
            choice.mask(scores)
        return
    assert al.verify(problem, expected).optimal
    np.testing.assert_array_equal(choice.mask(scores).numpy(), expected.mask())


def test_a_forced_match_has_value_zero_and_revives_its_feature() -> None:
    """Feature 0 has no positive score: only the floor matches it, and gradient reaches its encoder."""
    sae = st.SparseAutoencoder(6, 10, st.BalancedChoice(2, feature_floors=0.1))
    with torch.no_grad():
        sae.b_enc[0] = -100.0
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    out = sae(x)
    forced = out.codes.features == 0
    assert int(forced.sum()) == 4
    assert torch.all(out.codes.values[forced] == 0)
    assert bool((out.codes.values[~forced] > 0).all())
    st.losses.reconstruction(out, x).backward()
    assert sae.encoder.grad is not None
    assert sae.b_enc.grad is not None
    assert float(sae.b_enc.grad[0]) != 0
    assert float(sae.encoder.grad[0].norm()) > 0
    assert out.codes.l0 == pytest.approx(2 - 4 / 40)

    scores = torch.tensor([[-1.0, 2.0]], requires_grad=True)
    codes = st.BalancedChoice(2, feature_floors=1.0)(scores)
    assert codes.values.tolist() == [0.0, 2.0]
    codes.values.sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [[1.0, 1.0]]


def trained(choice: st.Choice) -> st.Choice:
    for seed in range(150):
        choice(heavy_tailed(256, 24, seed))
    return choice.eval()


@pytest.mark.parametrize("limits", [{"feature_caps": 0.3}, {"token_caps": 6, "token_floors": 1, "feature_caps": 0.3}])
def test_eval_is_the_tokens_own_problem_at_the_prices(limits: dict[str, Any]) -> None:
    choice = trained(st.BalancedChoice(3, **limits))
    scores = heavy_tailed(500, 24, 10**6)
    mask = choice.mask(scores)
    assert torch.equal(mask, torch.cat([choice.mask(row[None]) for row in scores]))
    theta = choice.state_dict()["tracker.theta"]
    cap, floor = limits.get("token_caps", 24), limits.get("token_floors", 0)
    for row, taken in zip(scores, mask, strict=True):
        profit = row - theta
        order = [j for j in profit.argsort(descending=True).tolist() if row[j] > 0]
        wanted = [j for n, j in enumerate(order) if n < floor or (n < cap and profit[j] > 0)]
        assert sorted(wanted) == taken.nonzero().flatten().tolist()


@pytest.mark.parametrize(
    "limits", [{"feature_floors": 0.02}, {"feature_caps": 0.3, "feature_floors": 0.01}, {"token_caps": 5}]
)
def test_a_fit_realises_k_on_held_out_tokens(limits: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, 16, generator=generator)
    density = 6.0 / (torch.arange(64) + 12.0)

    def batch(tokens: int) -> torch.Tensor:
        strength = torch.rand(tokens, 64, generator=generator) * (torch.rand(tokens, 64, generator=generator) < density)
        return strength @ directions

    sae = st.SparseAutoencoder(16, 96, st.BalancedChoice(4, **limits))
    st.Trainer(sae, st.TrainConfig(progress=False)).fit([batch(512) for _ in range(60)])
    codes = sae.eval()(batch(8192)).codes
    assert codes.l0 == pytest.approx(4.0, rel=0.02)
    assert int(codes.token_counts.max()) <= limits.get("token_caps", 96)


def test_buffers_survive_a_state_dict() -> None:
    first = st.BalancedChoice(2, token_caps=4, feature_caps=0.21, feature_floors=0.003)
    for seed in range(5):
        first(heavy_tailed(100, 16, seed))
    second = st.BalancedChoice(2, token_caps=4, feature_caps=0.21, feature_floors=0.003)
    second.load_state_dict(first.state_dict())
    scores = heavy_tailed(100, 16, 99)
    for _ in range(3):
        assert torch.equal(first.mask(scores), second.mask(scores))
        first(scores), second(scores)
    assert torch.equal(first.eval().mask(scores), second.eval().mask(scores))


def test_calibration_pools_the_first_tokens_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = heavy_tailed(100, 16, 0)
    thetas = []
    for chunks in (scores.split(30), [scores[:70]]):
        choice = st.BalancedChoice(2, feature_caps=0.4)
        choice.build(16)
        choice.calibrate(chunks, 100)
        thetas.append(choice.batch_free().theta)
        monkeypatch.setattr(balanced, "POOLED_ENTRIES", 70 * 16)
    assert not torch.equal(*thetas), "the last thirty matter"
    choice.calibrate(scores.split(30), 100)
    torch.testing.assert_close(choice.batch_free().theta, thetas[1])


def test_balanced_choice_without_limits_says_that_it_is_mutual_choice() -> None:
    scores = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    bare = st.BalancedChoice(8)
    with pytest.warns(UserWarning, match=r"no limits are given, .* feature_floors=0\.0312 \(k / \(4 \* n_features\)\)"):
        matches = bare(scores)
    mutual = st.MutualChoice(8)(scores)
    assert torch.equal(matches.features, mutual.features)
    assert torch.equal(bare(scores).features, mutual.features), "once"
    for limits in ({"token_caps": 9}, {"token_floors": 0}, {"feature_caps": 1.0}, {"feature_floors": 0.0}):
        st.BalancedChoice(8, **limits)(scores)  # in silence, since warnings are errors


def test_feature_limits_alone_are_thresholds_on_disk(tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(8, 24, st.BalancedChoice(3, feature_caps=0.3, feature_floors=np.full(24, 0.01)))
    generator = torch.Generator().manual_seed(0)
    st.Trainer(sae, st.TrainConfig(progress=False)).fit([torch.randn(200, 8, generator=generator) for _ in range(20)])
    again = st.load(st.save(sae, tmp_path / "sae"))
    x = torch.randn(100, 8, generator=generator)
    assert torch.equal(again(x).x_hat, sae.eval()(x).x_hat)
    assert repr(again.choice).splitlines()[1] == "  k=3, feature_caps=0.3, feature_floors=24 densities"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.BalancedChoice(2, token_caps=1.5), "token_caps: expected a whole number of features per token"),  # type: ignore[arg-type]
        (lambda: st.BalancedChoice(2, token_floors=3), "token_floors: 3 per token exceed the budget of k = 2"),
        (lambda: st.BalancedChoice(2, token_caps=0, token_floors=1), "token_caps: 0 is below token_floors = 1"),
        (lambda: st.BalancedChoice(2, feature_caps=2.0), "feature_caps: expected densities between 0 and 1"),
        (lambda: st.BalancedChoice(2, feature_floors=[0.5, -1]), "feature_floors: expected densities between 0 and 1"),
        (lambda: st.BalancedChoice(2, feature_floors=[0.5])(torch.ones(2, 4)), "feature_floors: expected 4 densities"),
        (lambda: st.BalancedChoice(1, feature_floors=0.5)(torch.ones(2, 4)), "they sum to 2, more than k = 1"),
        (
            lambda: st.BalancedChoice(2, feature_caps=0.1, feature_floors=0.2)(torch.ones(2, 4)),
            "feature_floors: 0.2 of feature 0 exceeds its cap 0.1",
        ),
        (lambda: st.BalancedChoice(2, feature_floors=0.1).eval()(torch.ones(2, 4)), "no thresholds for eval mode yet"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        call()


def on_few_features(floors_in_eval: bool) -> tuple[st.SparseAutoencoder, list[torch.Tensor], list[st.SparseCodes]]:
    """Trained while a quarter of the features has low scores; the batches, and their codes in training."""
    choice = st.BalancedChoice(2, feature_floors=2 / (4 * 24), floors_in_eval=floors_in_eval)
    sae = st.SparseAutoencoder(12, 24, choice)
    with torch.no_grad():
        sae.b_enc[:6] = -0.5
    seen: list[st.SparseCodes] = []
    hook = sae.register_forward_hook(lambda module, inputs, out: seen.append(out.codes))
    batches = [torch.randn(96, 12, generator=torch.Generator().manual_seed(seed)) for seed in range(10)]
    st.Trainer(sae, st.TrainConfig(learning_rate=1e-9, progress=False)).fit(batches)
    hook.remove()
    return sae, batches, seen[:10]


@pytest.mark.parametrize("floors_in_eval", [True, False])
def test_floors_hold_in_training_whatever_counts_in_eval_mode(floors_in_eval: bool) -> None:
    sae, batches, seen = on_few_features(floors_in_eval)
    assert all(int(torch.bincount(codes.features, minlength=24).min()) >= 2 for codes in seen)
    theta = sae.choice.tracker.theta  # type: ignore[union-attr]
    assert (theta.unique().numel() == 1) == (not floors_in_eval)
    assert sae.eval()(torch.cat(batches)).codes.l0 == pytest.approx(2, rel=0.05)


def test_without_floors_the_thresholds_are_the_price_of_the_budget() -> None:
    sae, batches, _ = on_few_features(floors_in_eval=False)
    st.calibrate(sae, batches)
    scores = torch.cat([sae.scores(x).detach() for x in batches])
    problem = al.mutual_choice(scores, budget=2 * len(scores))
    pooled = al.solve(problem)
    assert al.verify(problem, pooled).optimal
    theta = sae.choice.tracker.theta  # type: ignore[union-attr]
    assert theta.tolist() == [pytest.approx(float(pooled.prices.budget.value))] * 24


def test_what_counts_in_eval_mode_is_saved(tmp_path: Path) -> None:
    """What is loaded sets its thresholds as the trained one did."""
    for kept in (True, False):
        sae, batches, _ = on_few_features(kept)
        loaded = st.load(st.save(sae, tmp_path / str(kept)))
        assert isinstance(loaded.choice, st.BalancedChoice)
        assert loaded.choice.floors_in_eval == kept
        assert ("floors_in_eval=False" in repr(loaded.choice)) == (not kept)
        st.calibrate(loaded, batches)
        assert (loaded.choice.tracker.theta.unique().numel() == 1) == (not kept)
    with pytest.raises(st.InputError, match="floors_in_eval: expected True or False, found 1"):
        st.BalancedChoice(2, feature_floors=0.1, floors_in_eval=1)  # type: ignore[arg-type]
