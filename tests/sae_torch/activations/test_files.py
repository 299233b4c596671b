"""Activations that others wrote, and damaged or mixed files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_torch.activations import CorruptShardError, HarvestConfig, LanguageModel, harvest, open_activations, plan
from sae_torch.activations.shards import read_shard, write_shard
from sae_torch.errors import InputError

WINDOWS, LENGTH, WIDTH = 20, 8, 16


def saelens_cache(folder: Path, **more: Any) -> np.ndarray[Any, Any]:
    """What SAELens' CacheActivationsRunner writes, by the same calls of `datasets`."""
    import datasets

    x = np.random.default_rng(0).normal(size=(WINDOWS, LENGTH, WIDTH)).astype(np.float32)
    columns = {"blocks.2.hook_resid_post": list(x), **more}
    features = {name: datasets.Array2D(shape=(LENGTH, WIDTH), dtype="float32") for name in columns}
    features["token_ids"] = datasets.Sequence(datasets.Value("int32"), length=LENGTH)
    ids = [[index] * LENGTH for index in range(WINDOWS)]
    found = datasets.Dataset.from_dict(columns | {"token_ids": ids}, features=datasets.Features(features))
    found.save_to_disk(str(folder), num_shards=2)
    return x.reshape(-1, WIDTH)


def test_a_saelens_cache_is_read_row_by_row(tmp_path: Path) -> None:
    x = saelens_cache(tmp_path / "cache")
    found = open_activations(tmp_path / "cache")
    assert (len(found), found.d_model) == x.shape
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.gather(rows), torch.from_numpy(x)[rows])
    assert found.header["site"] == "blocks.2.hook_resid_post"


def test_a_cache_that_was_shuffled_and_mapped_is_read_once(tmp_path: Path) -> None:
    """SAELens' runner shuffles, which leaves row numbers in the folder; `map` leaves a copy of the rows."""
    import datasets

    x = saelens_cache(tmp_path / "cache")
    whole = datasets.load_from_disk(str(tmp_path / "cache"))
    whole.shuffle(seed=0)
    whole.map(lambda row: {"token_ids": row["token_ids"]})
    left = sorted(file.name for file in (tmp_path / "cache").glob("cache-*.arrow"))
    assert len(left) == 2
    found = open_activations(tmp_path / "cache")
    assert torch.equal(found.gather(torch.arange(len(found))), torch.from_numpy(x))


def test_a_cache_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    x = saelens_cache(tmp_path / "cache")
    change = json.loads((tmp_path / "cache" / "state.json").read_text())
    change["_data_files"].reverse()
    (tmp_path / "cache" / "state.json").write_text(json.dumps(change))
    found = open_activations(tmp_path / "cache")
    half = len(x) // 2
    assert torch.equal(found.gather(torch.arange(len(x))), torch.from_numpy(np.concatenate([x[half:], x[:half]])))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"state\.json: expected the _data_files of a dataset, found none"),
        ({"_data_files": []}, r"state\.json: expected the _data_files of a dataset, found none"),
        ({"_data_files": [{"filename": "gone.arrow"}]}, r"gone\.arrow: expected the data file that state\.json names"),
    ],
)
def test_a_state_without_its_files_is_named(state: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=message):
        open_activations(tmp_path)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_of_the_other_byte_order_are_read(dtype: Any, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", x[:5].astype(x.dtype.newbyteorder()))
    np.save(tmp_path / "b.npy", x[5:])
    found = open_activations(tmp_path)
    assert torch.equal(found.gather(torch.arange(12), torch.float64), torch.from_numpy(x).double())


def test_numbers_that_torch_does_not_have_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 4), np.longdouble))
    with pytest.raises(InputError, match=r"expected floating-point rows .* of 16, 32 or 64 bits, found float128"):
        open_activations(tmp_path)


def test_of_several_hooks_one_is_named(tmp_path: Path) -> None:
    other = list(np.ones((WINDOWS, LENGTH, WIDTH), np.float32))
    x = saelens_cache(tmp_path / "cache", **{"blocks.3.hook_resid_post": other})
    with pytest.raises(InputError, match=r"column: expected the name of one, .* found the columns \['"):
        open_activations(tmp_path / "cache")
    found = open_activations(tmp_path / "cache", column="blocks.2.hook_resid_post")
    assert torch.equal(found.gather(torch.arange(len(x))), torch.from_numpy(x))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numpy_files_in_order(tmp_path: Path, dtype: Any) -> None:
    whole = np.random.default_rng(1).normal(size=(30, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", whole[:10])
    np.save(tmp_path / "b.npy", whole[10:].reshape(4, 5, 4))  # windows of five tokens
    found = open_activations(tmp_path)
    assert torch.equal(found.gather(torch.arange(30), torch.float64), torch.from_numpy(whole).double())
    assert open_activations(tmp_path / "a.npy").d_model == 4


def test_shards_are_opened_by_folder(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    harvest(tiny_harvest, "train", 300, cache=tmp_path, language_model=tiny_language_model)
    folder = plan(tiny_harvest, "train", 300, tmp_path).folder
    found = open_activations(folder)
    assert len(found) >= 300
    assert found.header["site"] == "hidden_states[2]"

    other = harvest(tiny_harvest, "dev", 200, cache=tmp_path, language_model=tiny_language_model)
    assert len(other.shards) == 2
    foreign = plan(tiny_harvest, "dev", 200, tmp_path).folder / "00001.safetensors"
    victim = folder / "00001.safetensors"
    kept = victim.read_bytes()
    victim.write_bytes(foreign.read_bytes())
    with pytest.raises(CorruptShardError, match=r"00001\.safetensors is from another harvest: its \w+ is"):
        open_activations(folder)
    victim.write_bytes(kept[:-5])
    with pytest.raises(CorruptShardError, match=r"00001\.safetensors is damaged"):
        open_activations(folder)
    flipped = bytearray(kept)
    flipped[len(kept) // 2] ^= 1
    victim.write_bytes(flipped)
    with pytest.raises(CorruptShardError, match=r"00001\.safetensors is damaged \(its tensors do not match"):
        open_activations(folder)
    victim.unlink()
    with pytest.raises(CorruptShardError, match=r"expected shard 00001.safetensors next, found 00002.safetensors"):
        open_activations(folder)


@pytest.mark.parametrize("name", ["code", "torch", "transformers"])
def test_a_harvest_that_went_on_with_other_versions_is_one_set(
    tiny_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, name: str
) -> None:
    harvest(tiny_harvest, "train", 120, cache=tmp_path, language_model=tiny_language_model)
    folder = plan(tiny_harvest, "train", 120, tmp_path).folder
    first = folder / "00000.safetensors"
    shard = read_shard(first)
    older = {**shard.header, name: "older"}
    write_shard(first, dataclasses.replace(shard, header=older))
    whole = harvest(tiny_harvest, "train", 240, cache=tmp_path, language_model=tiny_language_model)
    found = open_activations(folder)
    assert torch.equal(found.gather(torch.arange(240), torch.float16), whole.tensor())


def test_what_is_no_set_of_activations_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder or a \.npy file, found nothing"):
        open_activations(tmp_path / "nowhere")
    (tmp_path / "dictionary").mkdir()
    (tmp_path / "dictionary" / "sae_weights.safetensors").touch()
    with pytest.raises(
        InputError, match=r"dictionary: expected the shards of a harvest, found sae_weights.safetensors"
    ):
        open_activations(tmp_path / "dictionary")
    with pytest.raises(InputError, match=r"expected \.safetensors, \.arrow or \.npy files, found none"):
        open_activations(tmp_path)
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.float16))
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.float32))
    with pytest.raises(
        InputError, match=r"b\.npy: expected float16 of width 4 like .*a\.npy, found float32 of width 4"
    ):
        open_activations(tmp_path)
    np.save(tmp_path / "b.npy", np.zeros((4, 5), np.float16))
    with pytest.raises(InputError, match=r"b\.npy: expected float16 of width 4 .*, found float16 of width 5"):
        open_activations(tmp_path)
    np.save(tmp_path / "b.npy", np.zeros((4, 4), np.int64))
    with pytest.raises(InputError, match=r"b\.npy: expected floating-point rows .*, found int64 of shape \(4, 4\)"):
        open_activations(tmp_path)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-9])
    with pytest.raises(CorruptShardError, match=r"b\.npy: expected an array of numbers, found .* or a damaged file"):
        open_activations(tmp_path)
    (tmp_path / "b.npy").write_bytes(b"")
    with pytest.raises(CorruptShardError, match=r"b\.npy: expected an array of numbers, found .* or a damaged file"):
        open_activations(tmp_path)
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object))
    with pytest.raises(CorruptShardError, match=r"b\.npy: expected an array of numbers, found something else"):
        open_activations(tmp_path)


def test_a_truncated_arrow_file_is_named(tmp_path: Path) -> None:
    saelens_cache(tmp_path / "cache")
    victim = sorted((tmp_path / "cache").glob("*.arrow"))[1]
    victim.write_bytes(victim.read_bytes()[:2000])
    with pytest.raises(CorruptShardError, match=r"data-00001-of-00002\.arrow: expected an Arrow file .* or a damaged"):
        open_activations(tmp_path / "cache")
