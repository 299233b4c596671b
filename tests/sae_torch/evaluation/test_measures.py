"""Difficulty, collapse, batches, the null and the lens, each against its definition."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

import allocation as al
import sae_torch as st
from sae_torch.activations import Activations, ArrayRows, LanguageModel
from sae_torch.errors import InputError
from sae_torch.evaluation import (
    Evaluation,
    EvaluationFile,
    batch_sensitivity,
    collapse,
    decoder_cosines,
    edge_swap_null,
    evaluate,
    lens,
    logit_lens,
    measure,
    swap_edges,
    token_difficulty,
)
from sae_torch.evaluation.batch_mode import document_order

from .plain import make_activations

D, F, K = 6, 24, 3


def trained(choice: st.Choice) -> st.SparseAutoencoder:
    sae = st.SparseAutoencoder(D, F, choice)
    x = make_activations(200, seed=3).tensor(torch.float32)
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(list(torch.split(x, 100)))
    return sae.eval()


@pytest.fixture(scope="module", params=["token", "mutual", "feature"])
def sae(request: pytest.FixtureRequest) -> st.SparseAutoencoder:
    kinds: dict[str, Any] = {"token": st.TokenChoice, "mutual": st.MutualChoice, "feature": st.FeatureChoice}
    return trained(kinds[request.param](K))


def states(sae: st.SparseAutoencoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in sae.state_dict().items()}


def same_states(sae: st.SparseAutoencoder, before: dict[str, torch.Tensor]) -> None:
    for name, value in sae.state_dict().items():
        assert torch.equal(value.nan_to_num(-1.0), before[name].nan_to_num(-1.0)), name


def test_difficulty_is_the_error_at_equal_shares(sae: st.SparseAutoencoder) -> None:
    activations, before = make_activations(40), states(sae)
    found = token_difficulty(sae, activations, batch_size=37)
    same_states(sae, before)
    x = activations.tensor(torch.float32)
    with torch.no_grad():
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        top = pre.topk(K, dim=1)  # rows have norm 1
        equal = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu()) @ sae.W_dec + sae.b_dec
        own = sae(x)
    hard = (x - equal).square().sum(1)
    variance = (x - x.mean(0)).square().sum(1).mean()
    groups = np.array_split(hard.argsort(stable=True).numpy(), 10)
    assert found.k == K
    np.testing.assert_allclose(found.difficulty, [float(hard[g].mean() / variance) for g in groups], rtol=1e-4)
    counts = own.codes.token_counts.double()
    np.testing.assert_allclose(found.l0, [float(counts[g].mean()) for g in groups], rtol=1e-6)
    error = (x - own.x_hat).square().sum(1)
    np.testing.assert_allclose(found.error, [float(error[g].mean() / variance) for g in groups], rtol=1e-4)
    if isinstance(sae.choice, st.TokenChoice):
        assert found.error == found.difficulty
    else:
        assert found.correlation is not None
        assert -1 <= found.correlation <= 1


@given(some.integers(2, 40), some.integers(1, 8), some.integers(0, 1000), some.integers(1, 50))
@settings(deadline=None, max_examples=40)
def test_cosines_are_those_of_every_pair(rows: int, width: int, seed: int, at_once: int) -> None:
    W = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collapse, "ROWS_AT_ONCE", at_once)
        found = decoder_cosines(W)
    unit = torch.nn.functional.normalize(W, dim=1)
    cosines = unit @ unit.T
    off = ~torch.eye(rows, dtype=torch.bool)
    assert found.mean_absolute == pytest.approx(float(cosines.abs()[off].mean()), rel=1e-4, abs=1e-6)
    best = cosines.masked_fill(~off, -2).max(dim=1).values
    torch.testing.assert_close(found.cosine, best)
    assert (found.nearest != torch.arange(rows)).all()
    assert found.alike == pytest.approx(float((best > 0.9).double().mean()))


def test_a_copied_feature_is_seen() -> None:
    W = torch.eye(50)
    W[7] = W[3]
    found = decoder_cosines(W)
    assert found.alike == pytest.approx(2 / 50)
    assert (int(found.nearest[7]), int(found.nearest[3])) == (3, 7)


def test_the_batch_of_everything_is_the_allocation_of_training(sae: st.SparseAutoencoder) -> None:
    activations, before = make_activations(50), states(sae)
    (found,) = [m for m in batch_sensitivity(sae, activations, batch_sizes=(200,)) if m.order == "topical"]
    same_states(sae, before)
    assert not sae.training
    x = activations.tensor(torch.float32)
    with torch.no_grad():
        alone = sae(x).codes
        together = sae.train()(x)
        sae.eval()
    assert found.nmse == pytest.approx(float((x - together.x_hat).square().sum() / (x - x.mean(0)).square().sum()))
    assert found.l0 == together.codes.l0
    one = set(zip(alone.tokens.tolist(), alone.features.tolist(), strict=True))
    two = {
        (i, j)
        for i, j, v in zip(together.codes.tokens.tolist(), together.codes.features.tolist(),
                           together.codes.values.tolist(), strict=True)
        if v > 0
    }  # fmt: skip
    assert found.agreement == pytest.approx(len(one & two) / len(one | two))


def test_token_choice_depends_on_no_batch() -> None:
    modes = batch_sensitivity(trained(st.TokenChoice(K)), make_activations(50), batch_sizes=(8, 64, 5000))
    assert {mode.batch_size for mode in modes} == {8, 64}
    assert {mode.agreement for mode in modes} == {1}


def test_thresholds_without_quotas_say_nothing_of_batches() -> None:
    sae = trained(st.FeatureChoice(K))
    assert isinstance(sae.choice, st.FeatureChoice)
    sae.choice.has_quotas.fill_(False)
    assert batch_sensitivity(sae, make_activations(50), batch_sizes=(64,)) == []


def test_quotas_bend_topical_batches() -> None:
    """Two documents on two sides of the origin: a batch about one of them must spend quotas of the other's features."""
    activations = make_activations(40, 40)
    first, second = activations.shards
    first.activations.copy_((first.activations.float() * 0.3 + torch.tensor([3.0, 3, 3, 0, 0, 0])).half())
    second.activations.copy_((second.activations.float() * 0.3 + torch.tensor([0.0, 0, 0, 3, 3, 3])).half())
    # each shard's only document is its number 0
    activations = Activations((first, dataclasses.replace(second, header={"documents": '["other"]'})), len(activations))
    sae = st.SparseAutoencoder(D, F, st.FeatureChoice(K, switch=0.3))
    x = activations.tensor(torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(list(torch.split(x[order].repeat(8, 1), 64)))
    found = {m.order: m for m in batch_sensitivity(sae, activations, batch_sizes=(64,))}
    assert found["topical"].agreement < found["shuffled"].agreement
    assert found["topical"].nmse > found["shuffled"].nmse


def test_rows_come_by_document_whatever_number_a_shard_gives_it() -> None:
    activations = make_activations(3, 4)
    first, second = activations.shards
    first.documents.copy_(torch.tensor([[1] * 5, [0] * 5, [1] * 5]))
    second.documents.copy_(torch.tensor([[0] * 5, [0, 0, 2, 2, 2], [1] * 5, [2] * 5]))
    # the shards share "b" only, which is number 1 in one and 2 in the other
    named = tuple(
        dataclasses.replace(shard, header={"documents": json.dumps(names)})
        for shard, names in ((first, ["a", "b"]), (second, ["c", "d", "b"]))
    )
    order = document_order(Activations(named, 26))
    of_b = [0, 1, 2, 3, 8, 9, 10, 11, 17, 18, 19, 24, 25]
    assert order.tolist() == [4, 5, 6, 7, *of_b, 12, 13, 14, 15, 16, 20, 21, 22, 23]
    documents = [Activations(named, 26).context(row).document for row in order.tolist()]
    assert [name for name, _ in itertools.groupby(documents)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("kind", ["feature", "balanced"])
def test_small_quotas_come_due_in_later_batches(kind: str) -> None:
    size, batches = 8, 20
    choice: Any = st.FeatureChoice(K, quotas="uniform", switch=0)
    if kind == "balanced":
        choice = st.BalancedChoice(K, feature_caps=1.5 * K / 64)
    sae = st.SparseAutoencoder(D, 64, choice)
    activations = make_activations(size * batches // 4)
    x = activations.tensor(torch.float32)
    st.Trainer(sae, st.TrainConfig(progress=False)).fit(list(torch.split(x, size)))
    sae.eval()
    before = states(sae)
    assert max(float(value.abs().max()) for name, value in before.items() if name.endswith("owed")) > 0
    (found,) = [m for m in batch_sensitivity(sae, activations, batch_sizes=(size,)) if m.order == "topical"]
    same_states(sae, before)
    assert not sae.training
    # by hand, with a ledger outside of the choice
    name = "owed" if kind == "feature" else "caps_owed"
    densities = before["choice.quota_densities" if kind == "feature" else "choice.cap_densities"]
    assert float(densities.max()) * size < 0.6
    ledger = al.QuotaLedger(densities, owed=before[f"choice.{name}"])
    matched, error = torch.zeros(64), 0.0
    with torch.no_grad():
        for part in torch.split(x, size):
            caps, scores = ledger.allot(size), sae.scores(part)
            budget = None if kind == "feature" else K * size
            chosen = al.solve(al.balanced_choice(scores.numpy(), budget=budget, feature_caps=caps)).mask()
            codes = torch.where(torch.from_numpy(chosen), scores / sae.W_dec.norm(dim=1), 0.0).relu()
            matched += (codes > 0).sum(0)
            error += float((part - codes @ sae.W_dec - sae.b_dec).double().square().sum())
    assert found.l0 == pytest.approx(float(matched.sum()) / len(x), rel=1e-3)
    assert found.nmse == pytest.approx(error / float((x - x.mean(0)).double().square().sum()), rel=1e-3)
    assert int((matched > 0).sum()) > 40  # the caps of a single batch leave most features at 0
    assert int((al.QuotaLedger(densities, owed=before[f"choice.{name}"]).allot(size) > 0).sum()) < 40


def test_plain_arrays_have_no_topics(sae: st.SparseAutoencoder) -> None:
    x = make_activations(20).tensor(torch.float32).numpy()
    found = evaluate("plain", sae, ArrayRows((x,)), batch_sizes=(40,))
    assert [mode.order for mode in found.batch_modes] == ["shuffled"]
    assert found.features == ()


@given(some.integers(1, 30), some.integers(1, 30), some.floats(0, 1), some.integers(0, 99))
@settings(deadline=None, max_examples=100)
def test_swapping_keeps_every_count(n_tokens: int, n_features: int, share: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((n_tokens, n_features)) < share
    tokens, features = mask.nonzero()
    new = swap_edges(tokens, features, n_features, rounds=5, seed=seed)
    swapped = np.zeros_like(mask)
    swapped[tokens, new] = True
    assert np.array_equal(swapped.sum(0), mask.sum(0))
    assert np.array_equal(swapped.sum(1), mask.sum(1))
    assert np.array_equal(swap_edges(tokens, features, n_features, rounds=5, seed=seed), new)


def test_swapping_forgets_where_matches_were() -> None:
    """On a sparse matrix a match stays as often as chance puts it back."""
    mask = np.random.default_rng(0).random((300, 200)) < 0.05
    tokens, features = mask.nonzero()
    new = swap_edges(tokens, features, 200)
    swapped = np.zeros_like(mask)
    swapped[tokens, new] = True
    assert (swapped & mask).sum() / mask.sum() < 0.09
    assert np.array_equal(swap_edges(np.zeros(0, int), np.zeros(0, int), 5), np.zeros(0))


def test_swapped_matches_are_worse(sae: st.SparseAutoencoder) -> None:
    activations = make_activations(60)
    found = edge_swap_null(sae, activations, tokens=10_000)
    assert found.nmse == pytest.approx(measure(sae, activations).nmse, rel=1e-4)
    assert found.null_nmse > found.nmse + 3 * found.null_nmse_deviation
    assert found.null_total_score < found.total_score
    assert 0 < found.unmoved < 0.6


@pytest.mark.parametrize("at_once", [1, 256])
def test_the_lens_reads_directions_with_the_models_own_head(
    tiny_language_model: LanguageModel, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lens, "ROWS_AT_ONCE", at_once)
    model: Any = tiny_language_model.model
    W_dec = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    found = logit_lens(tiny_language_model, W_dec, [3, 1], count=4)
    for feature, (promotes, suppresses) in zip([3, 1], found, strict=True):
        normed = W_dec[feature] / W_dec[feature].square().mean().sqrt() * model.model.norm.weight
        logits = model.lm_head.weight @ normed
        order = logits.argsort(descending=True).tolist()
        assert promotes == tuple(tiny_language_model.tokenizer.decode([i]) for i in order[:4])
        assert suppresses == tuple(tiny_language_model.tokenizer.decode([i]) for i in order[::-1][:4])
    headless = LanguageModel("headless", model.model, tiny_language_model.tokenizer)
    assert logit_lens(headless, W_dec, [3]) == [((), ())]


def test_an_evaluation_goes_through_its_file(sae: st.SparseAutoencoder, tmp_path: Path) -> None:
    found = evaluate("one", sae, make_activations(50), batch_sizes=(64,), null_tokens=100)
    file = EvaluationFile((found,), {"Text": "none"})
    file.write(tmp_path / "deep" / "e.json")
    assert EvaluationFile.read(tmp_path / "deep" / "e.json") == file
    assert found.underused >= found.dead
    assert 0 < found.fvu <= found.nmse


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"format": 1, "facts": {}, "evaluations": [{}]}', "[1"])
def test_other_files_are_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text(content)
    with pytest.raises(InputError, match=r"e\.json: expected a file of `sae-torch evaluate`, found something else"):
        EvaluationFile.read(tmp_path / "e.json")
    (tmp_path / "e.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(InputError, match="expected format 1, found 99; evaluate again"):
        EvaluationFile.read(tmp_path / "e.json")
    with pytest.raises(InputError, match="found nothing"):
        EvaluationFile.read(tmp_path / "none.json")


def test_figures_that_do_not_exist_are_null(tmp_path: Path) -> None:
    sae = trained(st.TokenChoice(K))
    found = Evaluation.of("one", sae, measure(sae, make_activations(5)))
    object.__setattr__(found, "cosine", math.nan)
    EvaluationFile((found,), {}).write(tmp_path / "e.json")
    assert EvaluationFile.read(tmp_path / "e.json").evaluations[0].cosine is None
