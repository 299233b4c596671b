from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_torch.activations import (
    CorruptShardError,
    HarvestConfig,
    LanguageModel,
    cache_folder,
    harvest,
    pack_windows,
    plan,
)
from sae_torch.activations import forward as module
from sae_torch.activations.shards import read_shard
from sae_torch.errors import InputError

ROWS_PER_SHARD = 8 * 15  # 8 windows of 16 tokens, position 0 dropped


def shard_files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.safetensors"))


def test_rows_are_the_models_hidden_states(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    found = harvest(tiny_harvest, "train", 200, cache=tmp_path, language_model=tiny_language_model)
    windows = pack_windows(tiny_language_model.tokenizer, tiny_harvest.text.documents("train"), 16)
    hidden = tiny_language_model.model(input_ids=windows.token_ids[:14].long(), output_hidden_states=True)
    expected = hidden.hidden_states[2][:, 1:].reshape(-1, 16)[:200]
    torch.testing.assert_close(found.tensor(torch.float32), expected, rtol=1e-3, atol=1e-3)
    assert found.tensor().dtype == torch.float16
    assert len(shard_files(tmp_path)) == 2


def test_the_header_says_where_it_comes_from(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    header = harvest(tiny_harvest, "dev", 50, cache=tmp_path, language_model=tiny_language_model).header
    assert header["site"] == "hidden_states[2]"
    assert header["split"] == "dev"
    assert header["window"] == "16"
    assert header["model"] == Path(tiny_harvest.model).name
    assert {"tokenizer", "text", "text_split", "code", "torch", "transformers", "sha256"} <= header.keys()
    assert json.loads(header["documents"]) == [document.name for document in tiny_harvest.text.documents("dev")]


def test_a_second_harvest_needs_no_model(
    tiny_harvest: HarvestConfig,
    tiny_language_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = harvest(tiny_harvest, "train", 200, cache=tmp_path, language_model=tiny_language_model)

    def refuse(*args: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("sae_torch.activations.harvesting.load_language_model", refuse)
    again = harvest(tiny_harvest, "train", 200, cache=tmp_path)
    assert torch.equal(again.tensor(), first.tensor())
    fewer = harvest(tiny_harvest, "train", 130, cache=tmp_path)
    assert torch.equal(fewer.tensor(), first.tensor()[:130])
    with pytest.raises(AssertionError, match="the model was loaded"):
        harvest(tiny_harvest, "train", 2 * ROWS_PER_SHARD + 1, cache=tmp_path)


@pytest.mark.parametrize("at_call", [1, 4, 8])
def test_an_interrupted_harvest_continues_to_the_same_shards(
    tiny_harvest: HarvestConfig,
    tiny_language_model: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_call: int,
) -> None:
    whole = harvest(tiny_harvest, "train", 300, cache=tmp_path / "whole", language_model=tiny_language_model)
    outputs_at: Callable[..., Any] = module.outputs_at
    calls: list[int] = []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return outputs_at(*args)

    monkeypatch.setattr(module, "outputs_at", interrupted)
    cache = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        harvest(tiny_harvest, "train", 300, cache=cache, language_model=tiny_language_model)
    finished = (at_call - 1) // 3  # three batches make a shard
    assert sorted(file.name for file in cache.rglob("*") if file.is_file()) == [
        f"{index:05d}.safetensors" for index in range(finished)
    ]
    calls.clear()
    monkeypatch.setattr(module, "outputs_at", lambda *args: calls.append(1) or outputs_at(*args))
    resumed = harvest(tiny_harvest, "train", 300, cache=cache, language_model=tiny_language_model)
    assert len(calls) == 3 * (3 - finished)
    assert torch.equal(resumed.tensor(), whole.tensor())
    for one, other in zip(shard_files(cache), shard_files(tmp_path / "whole"), strict=True):
        # the header holds the digest of all tensors
        assert read_shard(one).header == read_shard(other).header


def test_more_tokens_only_add_shards(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    harvest(tiny_harvest, "train", 100, cache=tmp_path, language_model=tiny_language_model)
    before = {file: file.stat().st_mtime_ns for file in shard_files(tmp_path)}
    assert len(before) == 1
    harvest(tiny_harvest, "train", 300, cache=tmp_path, language_model=tiny_language_model)
    after = {file: file.stat().st_mtime_ns for file in shard_files(tmp_path)}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_other_settings_never_share_shards(tiny_harvest: HarvestConfig, tmp_path: Path) -> None:
    base = plan(tiny_harvest, "train", 10, tmp_path).folder
    changes: list[dict[str, Any]] = [
        {"site": "hidden_states[1]"},
        {"window": 8},
        {"seed": 1},
        {"norm_multiple": 3.0},
        {"dtype": torch.bfloat16},
        {"windows_per_batch": 2},
        {"text": dataclasses.replace(tiny_harvest.text, seed=1)},  # type: ignore[type-var]
    ]
    folders = {plan(dataclasses.replace(tiny_harvest, **change), "train", 10, tmp_path).folder for change in changes}
    folders |= {base, plan(tiny_harvest, "test", 10, tmp_path).folder}
    assert len(folders) == len(changes) + 2
    assert plan(tiny_harvest, "train", 999, tmp_path).folder == base


def test_a_damaged_shard_is_named(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    harvest(tiny_harvest, "train", 300, cache=tmp_path, language_model=tiny_language_model)
    victim = shard_files(tmp_path)[1]
    victim.write_bytes(victim.read_bytes()[:-3])
    with pytest.raises(CorruptShardError, match=r"00001\.safetensors is damaged .* delete it and harvest again"):
        harvest(tiny_harvest, "train", 300, cache=tmp_path, language_model=tiny_language_model)
    victim.unlink()
    assert len(harvest(tiny_harvest, "train", 300, cache=tmp_path, language_model=tiny_language_model)) == 300


def test_extreme_norms_are_dropped(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    def enlarge(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[0, 3] *= 100  # one token of every forward pass
        output[:, 0] *= 1000  # position 0 must not move the median
        return output

    block = tiny_language_model.model.get_submodule("model.layers.1")
    handle = block.register_forward_hook(enlarge)
    try:
        found = harvest(tiny_harvest, "train", 100, cache=tmp_path, language_model=tiny_language_model)
    finally:
        handle.remove()
    (shard,) = found.shards
    assert len(shard) == ROWS_PER_SHARD - 3  # 8 windows go through in 3 forward passes
    lost = {(window, 3) for window in (0, 3, 6)} | {(window, 0) for window in range(8)}
    kept = set(zip(shard.window.tolist(), shard.position.tolist(), strict=True))
    assert kept == {(window, position) for window in range(8) for position in range(16)} - lost


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_what_float16_cannot_hold_is_refused(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, value: float
) -> None:
    block = tiny_language_model.model.get_submodule("model.layers.1")
    handle = block.register_forward_hook(lambda module, inputs, output: torch.full_like(output, value))
    try:
        with pytest.raises(
            InputError, match=r"activations at hidden_states\[2\]: expected finite values of at most 65504,"
        ):
            harvest(tiny_harvest, "train", 100, cache=tmp_path, language_model=tiny_language_model)
    finally:
        handle.remove()
    assert shard_files(tmp_path) == []


def test_more_tokens_than_the_split_holds_are_refused(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    # 600 words make 37 windows of 15 kept tokens
    assert len(harvest(tiny_harvest, "test", 555, cache=tmp_path, language_model=tiny_language_model)) == 555
    with pytest.raises(
        InputError, match=r"tokens: expected at most what the test split holds, 555 tokens .*, found 556"
    ):
        harvest(tiny_harvest, "test", 556, cache=tmp_path, language_model=tiny_language_model)


def test_bad_settings_are_refused(tiny_harvest: HarvestConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="window: expected at least 2, found 1"):
        dataclasses.replace(tiny_harvest, window=1)
    with pytest.raises(InputError, match="norm_multiple: expected more than 1, found 1"):
        dataclasses.replace(tiny_harvest, norm_multiple=1)
    with pytest.raises(InputError, match="tokens: expected at least 1, found 0"):
        plan(tiny_harvest, "train", 0, tmp_path)


def test_an_unwritable_cache_fails_before_the_model_loads(
    tiny_harvest: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "activations").write_text("a file where a folder should be")
    monkeypatch.setattr("sae_torch.activations.harvesting.load_language_model", lambda *_: pytest.fail("loaded"))
    with pytest.raises(
        InputError, match=r"cache: expected a folder that can be made.* \((Not a directory|File exists)"
    ):
        harvest(tiny_harvest, "train", 100, cache=tmp_path)


def test_cache_folder_follows_the_standard_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/sae-allocation")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/sae-allocation")
