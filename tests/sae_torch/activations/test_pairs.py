"""Two sites of the same tokens from one pass: what a transcoder is trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_torch.activations import (
    ActivationReader,
    ArrayRows,
    HarvestConfig,
    LanguageModel,
    LiveReader,
    Pairs,
    harvest,
    harvest_pairs,
    open_activations,
    plan,
)
from sae_torch.activations import forward as module
from sae_torch.errors import InputError

INPUT, TARGET = "model.layers.1.self_attn.o_proj", "model.layers.1.mlp"


@pytest.fixture
def at_input(tiny_harvest: HarvestConfig) -> HarvestConfig:
    """Norms that drop some tokens at the input, and others at the target."""
    return dataclasses.replace(tiny_harvest, site=INPUT, norm_multiple=1.2)


def test_both_sites_keep_the_tokens_of_the_input(
    at_input: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    outputs_at = module.outputs_at
    monkeypatch.setattr(module, "outputs_at", lambda *args: calls.append(1) or outputs_at(*args))
    pairs = harvest_pairs(at_input, TARGET, "train", 300, tmp_path / "a", tiny_language_model)
    passes = len(calls)
    alone = harvest(at_input, "train", 300, tmp_path / "b", tiny_language_model)
    assert len(calls) == 2 * passes  # one pass gives both
    x, y = pairs.sides_of(pairs.gather(torch.arange(300)))
    assert torch.equal(x, alone.gather(torch.arange(300)))
    shard, everything = pairs.by_site[TARGET].shards[0], dataclasses.replace(at_input, site=TARGET, norm_multiple=1e9)
    whole = harvest(everything, "train", 120, tmp_path, tiny_language_model).shards[0]
    assert 20 < len(shard) < len(whole) - 5
    kept = shard.window * 15 + shard.position - 1
    assert torch.equal(shard.activations, whole.activations[kept])
    by_norm_of_its_own = harvest(
        dataclasses.replace(at_input, site=TARGET), "train", 300, tmp_path, tiny_language_model
    )
    assert not torch.equal(by_norm_of_its_own.gather(torch.arange(300)), y)


def test_shards_of_the_input_are_those_of_an_autoencoder(
    at_input: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harvest(at_input, "train", 200, tmp_path, tiny_language_model)
    asked: list[tuple[str, ...]] = []
    outputs_at = module.outputs_at
    monkeypatch.setattr(module, "outputs_at", lambda *args: asked.append(tuple(args[1])) or outputs_at(*args))
    pairs = harvest_pairs(at_input, TARGET, "train", 200, tmp_path, tiny_language_model)
    assert set(asked[0]) == {INPUT, TARGET}  # the input's norms say which tokens are kept
    again = harvest_pairs(at_input, TARGET, "train", 200, tmp_path)
    assert torch.equal(pairs.gather(torch.arange(200)), again.gather(torch.arange(200)))
    of_target = dataclasses.replace(at_input, site=TARGET, rows_of=INPUT)
    folders = [plan(config, "train", 1, tmp_path).folder for config in (at_input, of_target)]
    opened = Pairs(*(open_activations(folder) for folder in folders))
    assert torch.equal(opened.gather(torch.arange(200)), pairs.gather(torch.arange(200)))
    assert opened.header["site"] == INPUT
    assert opened.header["target"] == TARGET
    assert set(opened.by_site) == {INPUT, TARGET}


def test_a_live_reader_gives_what_a_harvest_stores(
    at_input: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    reader = LiveReader(at_input, 300, 100, language_model=tiny_language_model, target=TARGET)
    pairs = harvest_pairs(at_input, TARGET, "train", 300, tmp_path, tiny_language_model)
    live = torch.cat(list(reader.from_step(0)))
    stored = pairs.gather(torch.arange(300)).half().float()
    known = {tuple(row) for row in pairs.gather(torch.arange(len(pairs.inputs))).tolist()}
    assert (reader.d_in, reader.d_model, live.shape) == (16, 32, stored.shape)
    assert len(known & {tuple(row) for row in live.tolist()}) > 150  # the pool is larger than the harvest
    assert reader.header["target"] == TARGET


def test_a_reader_shuffles_pairs_together() -> None:
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    reader = ActivationReader(Pairs(ArrayRows((x,)), ArrayRows((x[:, :1] * 10,))), 7, seed=3)
    assert (reader.d_in, reader.d_model) == (2, 3)
    for rows in reader:
        assert torch.equal(rows[:, 2], rows[:, 0] * 10)


def test_pairs_of_other_tokens_are_refused(
    at_input: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="targets: expected as many rows as the 3 inputs, found 2"):
        Pairs(ArrayRows((np.eye(3),)), ArrayRows((np.eye(2),)))
    x = harvest(at_input, "train", 100, tmp_path, tiny_language_model)
    y = harvest(dataclasses.replace(at_input, site=TARGET), "train", 100, tmp_path, tiny_language_model)
    with pytest.raises(InputError, match="targets: expected the tokens of the inputs, found others in shard 0"):
        Pairs(x, y)
    with pytest.raises(InputError, match="target: expected another site than that of the inputs"):
        harvest_pairs(at_input, INPUT, "train", 100, tmp_path, tiny_language_model)
    with pytest.raises(InputError, match=r"site: expected .*nowhere"):
        harvest_pairs(at_input, "nowhere", "train", 100, tmp_path, tiny_language_model)
