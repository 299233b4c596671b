from __future__ import annotations

import itertools

import torch

from sae_torch.activations import LanguageModel
from sae_torch.evaluation import FeatureContexts, Quality, TokenContext, feature_contexts, measure, spread_features

from .plain import PlainAutoencoder, make_activations


def test_contexts_are_the_words_around_the_largest_activations(tiny_language_model: LanguageModel) -> None:
    activations = make_activations(3, 5)
    quality = measure(PlainAutoencoder(6, 11, threshold=0.1), activations, top=3)
    feature = int(quality.counts.argmax())
    (found,) = feature_contexts(quality, activations, tiny_language_model.tokenizer, [feature], count=2)
    assert found.feature == feature
    assert found.rank == 1
    assert found.density == float(quality.counts[feature]) / 32
    assert len(found.contexts) == 2
    for context, row, value in zip(
        found.contexts, quality.top_rows[feature].tolist(), quality.top_values[feature].tolist(), strict=False
    ):
        shard, local = (activations.shards[0], row) if row < 12 else (activations.shards[1], row - 12)
        words = [f"w{token_id - 1}" for token_id in shard.token_ids[local // 4].tolist()]
        position = 1 + local % 4
        assert context.token.strip() == words[position].replace("w-1", "<unk>")
        whole = (context.before + context.token + context.after).split()
        assert whole == [word.replace("w-1", "<unk>") for word in words]
        assert context.value == value
        assert context.document == "only"


def test_a_notebook_shows_the_words_with_the_token_marked() -> None:
    context = TokenContext("a < b ", "&", " c", 1.25, "only")
    html = FeatureContexts(feature=7, rank=2, density=0.125, contexts=(context,))._repr_html_()
    assert "<strong>Feature 7</strong>, rank 2 by density, on 12.5 % of the tokens" in html
    assert ">1.25</th>" in html
    assert "a &lt; b <mark>&amp;</mark> c</td>" in html


def test_features_are_spread_over_ranks_and_fire_often_enough() -> None:
    counts = torch.arange(1000, 0, -1)
    quality = Quality(0.1, counts, torch.tensor([0, 1000]), torch.zeros(1000, 8).long(), torch.zeros(1000, 8))
    chosen = spread_features(quality, 6)
    assert len(chosen) == 6
    assert chosen == sorted(chosen)
    ratios = [(b + 1) / (a + 1) for a, b in itertools.pairwise(chosen)]
    assert max(ratios) / min(ratios) < 1.6
    rare = Quality(0.1, torch.tensor([7, 3, 9, 0]), torch.tensor([1, 1]), torch.zeros(4, 8).long(), torch.zeros(4, 8))
    assert spread_features(rare, 6) == [2]
    none = Quality(0.1, torch.tensor([7, 3]), torch.tensor([1, 1]), torch.zeros(2, 8).long(), torch.zeros(2, 8))
    assert spread_features(none, 6) == []
