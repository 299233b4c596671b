"""Cheap products whose error is bounded and decides nothing."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as hyp
from torch import Tensor

import allocation as al
import sae_torch as st
from sae_torch import product_dtype as types
from sae_torch.exact_products import ExactProducts
from sae_torch.rough_scores import RoughScores, rough_scores
from sae_torch.score_blocks import ChunkedScores

BOTH = (torch.bfloat16, torch.float32)
CHOICES = {
    "token": lambda: st.TokenChoice(4),
    "mutual": lambda: st.MutualChoice(4),
    "feature": lambda: st.FeatureChoice(4, switch=0.5),
    "floors": lambda: st.BalancedChoice(4, feature_floors=0.01),
    "caps": lambda: st.BalancedChoice(4, feature_floors=0.01, feature_caps=0.2),
}


class Reading:
    """What somebody else reads of scores, as a matrix."""

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        assert scores.mean().isfinite()


class Own(Reading, st.MutualChoice):
    """A choice of one's own by a class it also inherits from."""


def adversarial(seed: int, tokens: int = 120, d_model: int = 24, features: int = 60) -> ExactProducts:
    """Rows of very different norms, duplicates, opposites, zeros, and numbers that bfloat16 holds exactly."""
    draw = torch.Generator().manual_seed(seed)
    x, w = torch.randn(tokens, d_model, generator=draw), torch.randn(features, d_model, generator=draw)
    x *= 10.0 ** torch.randint(-2, 3, (tokens, 1), generator=draw)
    w *= 10.0 ** torch.randint(-3, 2, (features, 1), generator=draw)
    x[3], x[5], w[7], w[9], w[11] = x[2], 0.0, w[6], -w[6], 0.0
    x[6:9], w[12:15] = x[6:9].bfloat16().float(), w[12:15].bfloat16().float()
    bias = torch.randn(features, generator=draw) * 10.0 ** torch.randint(-3, 3, (features,), generator=draw)
    return ExactProducts(x, w, bias, 0.5 + torch.rand(features, generator=draw))


def rough(products: ExactProducts, dtype: torch.dtype) -> RoughScores:
    scores = rough_scores(products, dtype)
    assert isinstance(scores, RoughScores)
    return scores


@given(hyp.integers(0, 10**6), hyp.sampled_from(BOTH), hyp.sampled_from([1e-6, 1.0, 1e5]))
def test_no_error_exceeds_its_bound(seed: int, dtype: torch.dtype, unit: float) -> None:
    given = adversarial(seed, tokens=12, d_model=8, features=20)
    given = ExactProducts(given.centred * unit, given.encoder, given.bias * unit, given.norms)
    scores = rough(given, dtype)
    bound = np.multiply.outer(scores.rough.per_token, scores.rough.per_feature)
    near = scores.near.double().numpy()
    assert np.all(np.abs(given.all().double().numpy() - near) <= bound + scores.rough.relative * np.abs(near))


@pytest.mark.parametrize("dtype", BOTH)
@pytest.mark.parametrize(
    "limits",
    [
        {"budget": 400},
        {"token_caps": 4},
        {"feature_caps": 5},
        {"budget": 400, "feature_floors": 2},
        {"budget": 400, "feature_floors": 3, "feature_caps": 30},
    ],
    ids=lambda limits: "+".join(limits),
)
def test_the_matches_are_those_of_the_exact_matrix(dtype: torch.dtype, limits: dict[str, int]) -> None:
    for seed in range(6):
        given = adversarial(seed)
        scores = rough(given, dtype)
        problem = al.Problem(scores.rough, **limits)
        found = al.solve(problem)
        expected = al.solve(al.Problem(given.all(), **limits))
        for one, other in ((found.tokens, expected.tokens), (found.features, expected.features)):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(found.values, expected.values)
        assert al.verify(problem, found).optimal


@pytest.mark.parametrize("dtype", BOTH)
def test_thresholds_are_counted_and_exceeded_as_in_the_exact_matrix(dtype: torch.dtype) -> None:
    for seed in range(6):
        given = adversarial(seed)
        dense, scores = given.all(), rough(given, dtype)
        ties = dense[torch.arange(60) % len(dense), torch.arange(60)]  # thresholds that are scores
        for theta in (ties, ties.abs(), torch.tensor(1.0), torch.tensor(0.0)):
            above = dense > theta
            counts = scores.count_above(theta)
            assert torch.equal(counts, above.sum(0) if theta.ndim else above.sum())
            assert torch.equal(torch.stack(scores.above(theta)), above.nonzero().T)


@pytest.mark.parametrize("dtype", BOTH)
def test_parts_are_parts_of_the_exact_matrix(dtype: torch.dtype) -> None:
    given = adversarial(0)
    dense, scores = given.all(), rough(given, dtype)
    assert torch.equal(scores.dense, dense)
    assert torch.equal(scores[::7].dense, dense[::7])
    features = torch.tensor([40, 3, 9])
    factors = torch.tensor([0.5, 0.3, 0.0])
    part = scores.part(slice(10, 50), features, factors)
    assert torch.equal(part.dense, dense[10:50][:, features] * factors)
    assert al.verify(al.token_choice(part.rough, 2), al.solve(al.token_choice(part.rough, 2))).optimal


def test_numbers_beyond_any_bound_are_all_computed_exactly() -> None:
    draw = torch.Generator().manual_seed(0)
    x, w = torch.randn(20, 8, generator=draw), torch.randn(30, 8, generator=draw)
    for left, right in ((x * 1e20, w), (x, w * 1e18), (x * 0, w), (x[:0], w)):
        given = ExactProducts(left, right, torch.zeros(30), torch.ones(30))
        scores = rough_scores(given, torch.bfloat16)
        assert isinstance(scores, Tensor)
        assert torch.equal(scores, given.all())


@pytest.mark.parametrize("dtype", BOTH)
def test_rows_next_to_nothing_are_bounded_too(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w, bias = torch.randn(300, 16, generator=draw), torch.randn(40, 16, generator=draw), torch.zeros(40)
    w[3], w[4], w[5] = w[3] * 1e-22, w[4] * 1e-30, w[5] * 1e-41
    for left, right in ((x, w), (x * 1e9, w * 1e-24), (x * 1e-6, w * 1e-18)):
        given = ExactProducts(left, right, bias, torch.ones(40))
        scores = rough(given, dtype)
        expected = al.solve(al.token_choice(given.all(), 20))
        assert np.array_equal(al.solve(al.token_choice(scores.rough, 20)).mask(), expected.mask())
        tiny = scores.part(slice(None), None, torch.full((40,), 1e-44))
        assert np.array_equal(
            al.solve(al.token_choice(tiny.rough, 5)).values, al.solve(al.token_choice(tiny.dense, 5)).values
        )


def test_scores_belong_to_the_weights_of_their_forward() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4), score_dtype="auto")
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    out = sae(x, return_pre=True)
    with torch.no_grad():
        sae.encoder.mul_(1.1)
    with pytest.raises(st.InputError, match="expected the weights of the forward pass, found that they have changed"):
        st.losses.aux_k_loss(out, x, sae, torch.ones(64, dtype=torch.bool), 4)


def test_infinite_activations_say_where_they_are() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4), score_dtype="auto")
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    x[5, 3] = torch.inf
    with pytest.raises(al.InvalidProblemError, match="token 5"):
        sae(x)


def test_other_default_types_change_nothing() -> None:
    sae = st.SparseAutoencoder(16, 64, st.MutualChoice(4), score_dtype="auto")
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    expected, scores = sae(x).codes.values, sae.scores(x)
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = sae(x).codes.values, sae.scores(x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], scores)


def weights_after(steps: int, name: str, dtype: torch.dtype | str, threads: int = 2, **options: object) -> bytes:
    """All parameters and statistics of a short training."""
    draw = torch.Generator().manual_seed(1)
    sae = st.SparseAutoencoder(24, 96, CHOICES[name](), score_dtype=dtype, **options)  # type: ignore[arg-type]
    batches = [torch.randn(260, 24, generator=draw) * 3.0 for _ in range(steps)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    finally:
        torch.set_num_threads(before)
    return b"".join(value.contiguous().numpy().tobytes() for value in sae.state_dict().values())


@pytest.mark.parametrize("name", CHOICES)
def test_training_ends_at_the_same_bits_whichever_product_was_taken(name: str) -> None:
    one = weights_after(12, name, torch.float32)
    assert weights_after(12, name, "auto", threads=1) == one
    blocks = {"feature_chunk": 60} if name in ("token", "mutual", "feature") else {}
    assert weights_after(12, name, torch.bfloat16, **blocks) == one


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_two_hundred_steps_end_at_the_same_bits(name: str) -> None:
    assert weights_after(200, name, torch.bfloat16) == weights_after(200, name, torch.float32)


@pytest.mark.parametrize("name", CHOICES)
def test_evaluation_and_calibration_do_not_hang_on_the_product(name: str) -> None:
    draw = torch.Generator().manual_seed(2)
    sae = st.SparseAutoencoder(24, 96, CHOICES[name](), score_dtype=torch.float32)
    batches = [torch.randn(300, 24, generator=draw) * 3.0 for _ in range(10)]
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    other = copy.deepcopy(sae)
    other.score_dtype = torch.bfloat16
    for each in (sae, other):
        st.calibrate(each, batches[:3])
    whole, cut = sae.eval()(batches[0]).codes, [other.eval()(part).codes for part in torch.split(batches[0], 170)]
    assert torch.equal(whole.features, torch.cat([codes.features for codes in cut]))
    assert torch.equal(whole.values, torch.cat([codes.values for codes in cut]))


def test_rounding_that_torch_was_told_to_do_changes_nothing() -> None:
    sae = st.SparseAutoencoder(24, 96, st.MutualChoice(4), score_dtype="auto")
    x = torch.randn(300, 24, generator=torch.Generator().manual_seed(0))
    expected = sae(x).codes
    before = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("medium")
        try:
            rounded = [sae(x).codes, sae(x[:100]).codes]
        finally:
            torch.set_float32_matmul_precision(before)
    assert torch.equal(rounded[0].features, expected.features)
    assert torch.equal(rounded[0].values, expected.values)
    with torch.autocast("cpu"):
        assert torch.equal(sae(x).codes.values, expected.values)
        assert torch.equal(sae(x[:100]).codes.values, rounded[1].values)
    assert torch.equal(rounded[1].values, sae(x[:100]).codes.values)


def test_what_the_product_is_taken_in() -> None:
    sae = st.SparseAutoencoder(8, 16, st.MutualChoice(2), score_dtype="auto")
    many = torch.bfloat16 if types.multiplies_bfloat16() else torch.float32
    assert (sae.product_dtype(4), sae.product_dtype(4096)) == (torch.float32, many)
    print(f"This machine multiplies in {many}.")
    assert isinstance(sae.scores_or_blocks(torch.randn(5, 8)), RoughScores)
    as_it_comes = (
        st.SparseAutoencoder(8, 16, st.MutualChoice(2), score_dtype=None),
        st.SparseAutoencoder(8, 16, st.MutualChoice(2), dtype=torch.float64, score_dtype="auto"),
        st.SparseAutoencoder(8, 16, st.BalancedChoice(2, token_caps=3), score_dtype="auto"),
        st.SparseAutoencoder(8, 16, Own(2), score_dtype="auto"),
    )
    for sae in as_it_comes:
        scores = sae.scores_or_blocks(torch.randn(5, 8, dtype=sae.W_dec.dtype))
        assert isinstance(scores, Tensor)
        assert scores.dtype == sae.W_dec.dtype
    blocks = st.SparseAutoencoder(8, 16, st.MutualChoice(2), score_dtype="auto", feature_chunk=4)
    blocks = blocks.scores_or_blocks(torch.randn(5, 8))
    assert isinstance(blocks, ChunkedScores)
    assert all(isinstance(block, RoughScores) for _, _, block in blocks.blocks())
    for wrong in ("bf16", torch.int8, 16):
        with pytest.raises(st.InputError, match='score_dtype: expected "auto", a floating-point type or None'):
            st.SparseAutoencoder(8, 16, st.MutualChoice(2), score_dtype=wrong)  # type: ignore[arg-type]
