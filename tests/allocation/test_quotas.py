"""Quotas sum exactly, stay below the number of tokens, and are honoured in the long run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import allocation as al

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(st.integers(1, 30), st.integers(1, 40), st.floats(0, 1), st.floats(0, 3), st.floats(-0.9, 200))
def test_quotas_sum_exactly_and_fit_the_tokens(
    features: int, tokens: int, filled: float, alpha: float, beta: float
) -> None:
    total = int(filled * features * tokens)
    for quotas in (
        al.uniform_quotas(total, features, tokens),
        al.zipf_quotas(total, features, alpha, beta, tokens),
    ):
        assert quotas.dtype == np.int64
        assert quotas.sum() == total
        assert quotas.max() <= tokens
        assert quotas.min() >= 0
        assert np.all(np.diff(quotas) <= 0)
    assert np.ptp(al.uniform_quotas(total, features)) <= 1


def test_plain_zipf_overflows_and_the_excess_is_shared() -> None:
    """At F = 12288 and k = 32 the first feature would need more than every token."""
    tokens, features, total = 4096, 12288, 4096 * 32
    free = al.zipf_quotas(total, features, alpha=1.0, beta=0.0)
    assert free[0] > 3.0 * tokens
    capped = al.zipf_quotas(total, features, alpha=1.0, beta=0.0, tokens=tokens)
    assert capped.sum() == total
    assert capped.max() == tokens
    assert capped[100] > free[100]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: al.uniform_quotas(10, 3, tokens=3),
            "total: expected at most 9 matches of 3 features of 3 tokens each, found 10",
        ),
        (lambda: al.uniform_quotas(1, 0), "total: expected at most 0 matches of 0 features, found 1"),
        (lambda: al.uniform_quotas(-1, 3), "total: expected 0 or more, found -1"),
        (lambda: al.uniform_quotas(1.5, 3), "total: expected an integer"),
        (lambda: al.zipf_quotas(3, 3, alpha=-1.0, beta=0.0), "alpha: expected 0 or more, found -1"),
        (lambda: al.zipf_quotas(3, 3, alpha=1.0, beta=-1.0), "beta: expected a number above -1"),
        (lambda: al.fit_zipf([0.1, 0.2]), "at least 3 firing features above the tail, found 2"),
        (lambda: al.fit_zipf([0.1, np.nan, 0.2]), r"densities\[1\]: expected a finite number of 0 or more, found nan"),
        (lambda: al.fit_zipf([[0.1]]), r"densities: expected a vector of numbers, found shape \(1, 1\)"),
        (lambda: al.fit_zipf([0.3, 0.2, 0.1], tail=1.0), "tail: expected a share from 0 up to 1, found 1.0"),
        (lambda: al.QuotaLedger([0.5, 1.5]), r"densities\[1\]: expected a share from 0 to 1, found 1.5"),
        (lambda: al.QuotaLedger([0.5], owed=[0.0, 0.0]), "owed: expected 1 numbers"),
        (lambda: al.QuotaLedger([0.5]).allot(-1), "tokens: expected 0 or more, found -1"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


@given(st.floats(0.3, 2.0), st.floats(0.0, 300.0), st.integers(0, 2**32 - 1))
def test_a_fit_recovers_the_curve_through_noise_and_a_low_tail(alpha: float, beta: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = 40.0 * (np.arange(1, 2001) + beta) ** -alpha
    curve[1850:] *= 0.2  # the low end does not follow the curve
    order = rng.permutation(curve.size)
    fit = al.fit_zipf((curve / curve.sum() * 20.0)[order])
    assert fit.alpha == pytest.approx(alpha, abs=0.02)
    assert fit.beta == pytest.approx(beta, rel=0.05, abs=0.5)
    assert fit.r_squared > 0.999
    assert 0.09 < fit.excluded < 0.11
    quotas = fit.quotas(total=5000, tokens=1000)
    assert quotas.sum() == 5000
    assert quotas.max() <= 1000
    assert np.all(np.diff(quotas[np.argsort(fit.ranks)]) <= 0)
    np.testing.assert_array_equal(order[np.argsort(fit.ranks, kind="stable")][:5], np.arange(5))
    assert fit.densities(32.0).sum() == pytest.approx(32.0)


def test_a_fit_leaves_silent_features_out_and_ranks_them_last() -> None:
    densities = np.concatenate([np.zeros(50), 0.1 / np.arange(1, 101)])
    fit = al.fit_zipf(densities)
    assert fit.alpha == pytest.approx(1.0, abs=0.01)
    assert fit.excluded == pytest.approx(60 / 150)
    assert set(fit.ranks[:50]) == set(range(100, 150))


@given(SHARES, st.lists(st.integers(0, 50), min_size=1, max_size=60))
def test_the_ledger_keeps_its_bounds_in_every_batch(densities: list[float], batches: list[int]) -> None:
    """Grants stay within 2 of what is due, each batch's sum within 1, and no quota exceeds the batch."""
    ledger = al.QuotaLedger(densities)
    due = np.zeros(len(densities))
    granted = np.zeros(len(densities))
    for tokens in batches:
        quotas = ledger.allot(tokens)
        assert quotas.dtype == np.int64
        assert np.all((quotas >= 0) & (quotas <= tokens))
        assert abs(quotas.sum() - sum(densities) * tokens) <= 1.0 + 1e-6
        due += np.array(densities) * tokens
        granted += quotas
        assert np.all(np.abs(granted - due) <= 2.0 + 1e-6)


def test_quotas_far_below_one_are_honoured_in_the_long_run() -> None:
    densities = np.geomspace(0.05, 1e-4, 300)
    ledger = al.QuotaLedger(densities)
    granted = sum(ledger.allot(1000) for _ in range(500))
    np.testing.assert_allclose(granted, densities * 500_000, atol=2.0)


def test_a_ledger_continues_from_its_state() -> None:
    first, second = al.QuotaLedger([0.3, 0.21]), al.QuotaLedger([0.3, 0.21])
    for _ in range(3):
        first.allot(1)
        second.allot(1)
    copy = al.QuotaLedger(second.densities, owed=second.owed)
    for _ in range(20):
        np.testing.assert_array_equal(first.allot(1), copy.allot(1))


def test_the_curve_of_unmeasured_densities_stands_once() -> None:
    weights = al.zipf_weights(1000)
    np.testing.assert_array_equal(weights, al.zipf_weights(1000, al.ZIPF_ALPHA, al.ZIPF_BETA))
    assert weights.sum() == pytest.approx(1.0, rel=1e-14)
    assert weights[0] / weights[849] == pytest.approx(1000 / 151)
    with pytest.raises(al.InvalidProblemError, match="features: expected 0 or more, found -1"):
        al.zipf_weights(-1)
