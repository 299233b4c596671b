"""Choices as a user meets them: in their own loop, in eval mode, through a state dict."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st_
from torch import Tensor

import allocation as al
import sae_torch as st


def heavy_tailed(tokens: int, features: int, seed: int) -> Tensor:
    """Skewed scores: features differ in scale and shape, and most scores are not positive."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(torch.linspace(-1.0, 1.0, features))
    power = torch.linspace(1.0, 1.8, features)
    normal = torch.randn(tokens, features, generator=generator)
    return scale * normal.sign() * normal.abs() ** power - 0.3


@given(st_.integers(1, 8), st_.integers(1, 9), st_.integers(0, 2**31), st_.integers(1, 3))
def test_the_selection_is_that_of_the_solver(tokens: int, features: int, seed: int, k: int) -> None:
    k = min(k, features)
    scores = heavy_tailed(tokens, features, seed)
    cases: list[tuple[st.Choice, al.Problem]] = [
        (st.TokenChoice(k), al.token_choice(scores, k)),
        (st.MutualChoice(k), al.mutual_choice(scores, k * tokens)),
        (st.FeatureChoice(k, switch_tokens=math.inf), al.mutual_choice(scores, k * tokens)),
    ]
    densities = np.full(features, k / features)
    uniform = st.FeatureChoice(k, quotas="uniform", switch=0)
    cases.append((uniform, al.feature_choice(scores, al.QuotaLedger(densities).allot(tokens))))
    for choice, problem in cases:
        expected = al.solve(problem)
        mask = choice.mask(scores)
        np.testing.assert_array_equal(mask.numpy(), expected.mask())
        codes = choice(scores)
        np.testing.assert_array_equal(codes.tokens.numpy(), expected.tokens)
        np.testing.assert_array_equal(codes.features.numpy(), expected.features)
        assert torch.equal(codes.to_dense(), scores * mask)


def test_gradients_flow_through_selected_scores_only() -> None:
    scores = heavy_tailed(5, 6, 0).requires_grad_()
    codes = st.MutualChoice(2)(scores)
    codes.values.sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, codes.to_dense().detach().ne(0).float())


@pytest.mark.parametrize("mode", ["eval", "no_grad", "mask"])
def test_statistics_change_in_training_only(mode: str) -> None:
    choice = st.FeatureChoice(2, quotas="uniform", switch=0)
    choice(heavy_tailed(50, 8, 0))
    before = {name: value.clone() for name, value in choice.state_dict().items()}
    scores = heavy_tailed(50, 8, 1)
    if mode == "eval":
        choice.eval()(scores)
    elif mode == "no_grad":
        with torch.no_grad():
            choice(scores)
    else:
        choice.mask(scores)
    for name, value in choice.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
    choice.train()(scores)
    assert not torch.equal(choice.state_dict()["tracker.theta"], before["tracker.theta"])


@pytest.mark.parametrize("choice", [st.MutualChoice(2), st.FeatureChoice(2)])
def test_eval_without_training_names_the_way_out(choice: st.Choice) -> None:
    with pytest.raises(st.InputError, match=r"st\.calibrate\(sae, batches\)"):
        choice.eval()(torch.randn(3, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: st.TokenChoice(2),
        lambda: st.MutualChoice(2),
        lambda: st.FeatureChoice(2, switch_tokens=math.inf),
        lambda: st.FeatureChoice(2, quotas="uniform", switch=0),
        lambda: st.FeatureChoice(2, switch_tokens=1000),
        lambda: st.BalancedChoice(2, token_caps=5, feature_caps=0.3, feature_floors=0.004),
    ],
)
def test_buffers_survive_a_state_dict(make: Callable[[], st.Choice]) -> None:
    """A module that has seen nothing takes up where the other stands: ledger, thresholds, quotas and all."""
    first = make()
    for seed in range(12):
        first(heavy_tailed(100, 16, seed))
    second = make()
    second.load_state_dict(first.state_dict())
    scores = heavy_tailed(70, 16, 99)
    for _ in range(3):
        assert torch.equal(first.mask(scores), second.mask(scores))
        first(scores), second(scores)
    assert torch.equal(first.eval().mask(scores), second.eval().mask(scores))
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("make", [lambda: st.MutualChoice(3), lambda: st.FeatureChoice(3, quotas="uniform", switch=0)])
def test_where_a_search_starts_never_changes_its_answer(
    make: Callable[[], st.Choice], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warm starts from batches that have nothing to do with this one, shifted up, down and out of range."""
    warm, cold = make(), make()
    monkeypatch.setattr(cold, "expected_prices", lambda tokens: None)
    for seed in range(12):
        scores = heavy_tailed(600, 130, seed) * (1.0, 30.0, 0.01, 1.0)[seed % 4] - (0.0, 2.0, 0.0)[seed % 3]
        one, two = warm(scores), cold(scores)
        assert torch.equal(one.features, two.features)
        assert torch.equal(one.tokens, two.tokens)


def test_a_guess_of_prices_settles_where_a_few_more_scores_reach_it() -> None:
    choice = st.FeatureChoice(6.0, quotas="uniform", switch=0)
    choice.build(40)
    reaching = []
    for seed in range(60):
        scores = heavy_tailed(2000, 40, seed)
        guess = choice.expected_prices(2000)
        if guess is not None:
            reaching.append((scores >= torch.from_numpy(np.asarray(guess.features.value))).sum(dim=0))
        choice(scores)
    due = 6.0 / 40 * 2000
    counts = torch.stack(reaching[30:]).float()
    assert float(counts.mean()) == pytest.approx(due + 3 * due**0.5 + 5, rel=0.05)
    assert float((counts < due + 1).float().mean()) < 0.05


def test_quotas_below_one_token_per_batch_hold_in_the_long_run() -> None:
    features, tokens, batches = 40, 20, 200
    densities = torch.linspace(1.0, 0.1, features, dtype=torch.float64)
    densities /= densities.sum()
    assert float(densities.min()) * tokens < 0.1
    choice = st.FeatureChoice(1.0, quotas=densities, switch=0)
    counts = torch.zeros(features)
    for seed in range(batches):
        scores = heavy_tailed(tokens, features, seed).abs()  # all positive: every grant can be used
        counts += choice(scores).feature_counts
    assert torch.all((counts - densities * tokens * batches).abs() <= 2.0)


@pytest.mark.parametrize("kind", ["mutual", "zipf", "uniform", "rare"])
@pytest.mark.parametrize("eval_batch", [64, 1024])
def test_tracked_thresholds_realise_k_on_unseen_scores(kind: str, eval_batch: int) -> None:
    """Within 2 % of k without calibration, quotas down to 0.1 tokens per batch, whatever the batch size."""
    features, tokens, k = 64, 256, 4.0
    choice: st.Choice
    if kind == "mutual":
        choice = st.MutualChoice(k)
    elif kind == "rare":
        densities = torch.full((features,), 0.1 / tokens, dtype=torch.float64)
        densities[:32] = (k - float(densities[32:].sum())) / 32
        choice = st.FeatureChoice(k, quotas=densities, switch=0)
    else:
        choice = st.FeatureChoice(k, quotas=kind, switch_tokens=math.inf)
    for seed in range(1200):
        choice(heavy_tailed(tokens, features, seed))
        if seed == 100 and isinstance(choice, st.FeatureChoice) and kind != "rare":
            choice.fit_quotas()
    choice.eval()
    held_out = heavy_tailed(65536, features, 10**6)
    realised = sum(len(choice(block)) for block in held_out.split(eval_batch)) / len(held_out)
    assert realised == pytest.approx(k, rel=0.02)
    if kind == "rare":
        rare = torch.cat([choice(b).features for b in held_out.split(eval_batch)])
        assert int((rare >= 32).sum()) / len(held_out) == pytest.approx(32 * 0.1 / tokens, rel=0.25)


def test_eval_is_independent_of_the_batch() -> None:
    choice = st.FeatureChoice(2, quotas="uniform", switch=0)
    for seed in range(30):
        choice(heavy_tailed(100, 16, seed))
    choice.eval()
    scores = heavy_tailed(64, 16, 77)
    one_by_one = torch.cat([choice.mask(row[None]) for row in scores])
    assert torch.equal(choice.mask(scores), one_by_one)


def test_fit_quotas_follows_the_measured_ranks() -> None:
    choice = st.FeatureChoice(4, switch_tokens=math.inf)
    for seed in range(60):
        choice(heavy_tailed(500, 32, seed))
    choice.fit_quotas()
    measured, set_to = choice.densities, choice.quota_densities
    assert float(set_to.sum()) == pytest.approx(4.0)
    assert float(set_to.max()) <= 1.0
    assert torch.equal(measured.argsort(descending=True, stable=True), set_to.argsort(descending=True, stable=True))
    assert choice.zipf is not None


def test_the_switch_by_tokens_needs_no_trainer() -> None:
    choice = st.FeatureChoice(2, switch_tokens=300)
    for seed in range(2):
        choice(heavy_tailed(100, 16, seed))
    assert not bool(choice.has_quotas)
    choice(heavy_tailed(100, 16, 3))
    assert bool(choice.has_quotas)


def test_a_threshold_is_strict() -> None:
    scores = torch.tensor([[1.0, 1.5], [0.5, 1.0]])
    assert st.Threshold(1.0).mask(scores).tolist() == [[False, True], [False, False]]
    assert st.Threshold(torch.tensor([0.75, 1.5]))(scores).features.tolist() == [0]
    assert "theta" in st.Threshold(1.0).state_dict()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.TokenChoice(0), "k: expected a positive number of features per token, found 0"),
        (lambda: st.TokenChoice(1.5), "k: token choice takes a whole number"),
        (lambda: st.MutualChoice(float("nan")), "k: expected a positive number"),
        (lambda: st.FeatureChoice(2, quotas="fair"), 'quotas: expected "zipf", "uniform" or a vector'),
        (lambda: st.FeatureChoice(2, switch_tokens=0), "switch_tokens: expected a positive number .*, found 0"),
        (lambda: st.FeatureChoice(2, switch=2.0), "switch: expected a share of the steps from 0 to 1, found 2.0"),
        (lambda: st.FeatureChoice(2).fit_quotas(), "fit_quotas: no batch has been seen yet"),
        (lambda: st.FeatureChoice(2).set_quotas([1.5, 0.5]), "quotas: expected densities between 0 and 1"),
        (lambda: st.FeatureChoice(2).set_quotas([0.5, 0.5]), "quotas: densities must sum to k = 2, found 1"),
        *[
            (lambda choice=choice: choice(torch.ones(2, 4)), "k: expected at most the 4 features, found 20")
            for choice in (st.TokenChoice(20), st.MutualChoice(20), st.BalancedChoice(20), st.FeatureChoice(20))
        ],
        (lambda: st.MutualChoice(2)(torch.ones(4)), r"scores: expected shape \(tokens, features\) or .*, found \(4,\)"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(st.InputError, match=message):
        call()


def test_a_choice_keeps_to_its_number_of_features() -> None:
    choice = st.MutualChoice(2)
    choice(torch.randn(4, 8))
    with pytest.raises(st.InputError, match="built for 8 features, found 9"):
        choice(torch.randn(4, 9))


def test_few_tokens_calibrate_feature_choice_without_bias() -> None:
    """Quotas of 10 tokens: thresholds at the first score refused would let a tenth more pass."""
    generator = torch.Generator().manual_seed(0)
    choice = st.FeatureChoice(4, quotas="uniform", switch=0)
    choice.build(200)
    choice.calibrate([torch.randn(500, 200, generator=generator)], 500)
    fresh = torch.randn(20_000, 200, generator=generator)
    assert choice.eval()(fresh).l0 == pytest.approx(4.0, rel=0.02)


def test_a_loop_of_ones_own_is_told_that_nothing_fits_the_quotas() -> None:
    """Once, at the first batch that trains; not where someone has decided, and not under the trainer."""
    choice = st.FeatureChoice(2)
    scores = heavy_tailed(50, 8, 0)
    with torch.no_grad():
        choice(scores)
    with pytest.warns(UserWarning, match=r"until then it is mutual choice; .* pass switch_tokens="):
        choice(scores)
    choice(scores)
    sae = st.SparseAutoencoder(6, 8, st.FeatureChoice(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        st.Trainer(sae, st.TrainConfig(progress=False)).fit([torch.randn(40, 6) for _ in range(8)])
    assert bool(sae.choice.has_quotas)


@given(
    st_.sampled_from(["token", "mutual", "balanced"]), st_.integers(1, 3), st_.integers(1, 4), st_.integers(0, 2**31)
)
def test_more_axes_of_tokens_are_one_batch(name: str, batch: int, sequence: int, seed: int) -> None:
    makes = {"token": st.TokenChoice, "mutual": st.MutualChoice}
    scores = heavy_tailed(batch * sequence, 8, seed)
    deep = scores.view(batch, sequence, 8).clone().requires_grad_()
    found = []
    for given_scores in (scores.requires_grad_(), deep):
        choice = makes.get(name, lambda k: st.BalancedChoice(k, feature_floors=0.1))(2)
        mask = choice.mask(given_scores)
        codes = choice(given_scores)
        dense = codes.with_values(codes.values * 2).to_dense()
        assert dense.shape == mask.shape == given_scores.shape
        dense.square().sum().backward()
        found.append((codes.tokens, codes.features, codes.values, dense.view(-1, 8), given_scores.grad.view(-1, 8)))
        if name != "token":
            assert choice.eval()(given_scores).to_dense().shape == given_scores.shape
    for flat, more in zip(*found, strict=True):
        assert torch.equal(flat, more)


@pytest.mark.parametrize(
    "use",
    [
        lambda codes: codes @ torch.ones(8, 2),
        lambda codes: torch.ones(2, 4) @ codes,
        lambda codes: 2 * codes + 1,
        lambda codes: torch.ones(4, 8) - codes,
        lambda codes: codes > 0,
        lambda codes: codes[0],
        lambda codes: torch.relu(codes),
        lambda codes: torch.nn.Linear(8, 2)(codes),
        lambda codes: torch.nn.functional.mse_loss(codes, torch.ones(4, 8)),
        lambda codes: np.asarray(codes),
    ],
)
def test_codes_where_a_matrix_is_expected_say_what_to_do(use: Callable[[st.SparseCodes], object]) -> None:
    codes = st.TokenChoice(2)(heavy_tailed(4, 8, 0))
    with pytest.raises(
        st.InputError, match=r"expected a dense matrix, found SparseCodes: call codes\.to_dense\(\) first"
    ):
        use(codes)
    with pytest.raises(AttributeError, match=r"codes\.sum: .* call codes\.to_dense\(\) first"):
        codes.sum()  # type: ignore[attr-defined]
