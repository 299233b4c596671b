from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

from sae_torch.activations import Activations, CorruptShardError
from sae_torch.activations import shards as module
from sae_torch.activations.shards import TENSORS, Shard, read_shard, remove_leftovers, write_shard
from sae_torch.errors import InputError


def make_shard(windows: int, seed: int = 0, length: int = 5, d_model: int = 3) -> Shard:
    draw = torch.Generator().manual_seed(seed)
    kept = torch.rand(windows, length, generator=draw) < 0.7
    kept[:, 0] = False
    kept[0, 1] = True
    window, position = kept.nonzero(as_tuple=True)
    return Shard(
        activations=torch.randn(len(window), d_model, generator=draw).half(),
        window=window.int(),
        position=position.int(),
        token_ids=torch.randint(0, 99, (windows, length), generator=draw, dtype=torch.int32),
        documents=torch.randint(0, 2, (windows, length), generator=draw, dtype=torch.int32),
        header={"documents": json.dumps(["first", "second"]), "model": "tiny"},
    )


def test_a_shard_reads_back_bit_for_bit(tmp_path: Path) -> None:
    shard = make_shard(4)
    write_shard(tmp_path / "a.safetensors", shard)
    back = read_shard(tmp_path / "a.safetensors", expect={"model": "tiny"})
    for name in TENSORS:
        assert torch.equal(getattr(back, name), getattr(shard, name)), name
        assert getattr(back, name).dtype == getattr(shard, name).dtype
    assert back.header["model"] == "tiny"
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    def fail(descriptor: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(failure)):
        write_shard(tmp_path / "a.safetensors", make_shard(4))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_shard(path, make_shard(4, seed=1))
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        write_shard(path, make_shard(4, seed=2))
    assert torch.equal(read_shard(path).activations, make_shard(4, seed=1).activations)


@given(some.data())
def test_any_truncation_or_flipped_bit_is_named(
    tmp_path_factory: pytest.TempPathFactory, data: some.DataObject
) -> None:
    path = tmp_path_factory.mktemp("shard") / "00007.safetensors"
    write_shard(path, make_shard(4))
    content = bytearray(path.read_bytes())
    tensors_start = 8 + int.from_bytes(content[:8], "little")
    if data.draw(some.booleans(), label="truncate"):
        content = content[: data.draw(some.integers(0, len(content) - 1), label="length")]
    else:
        at = data.draw(some.integers(tensors_start, len(content) - 1), label="byte")
        content[at] ^= 1 << data.draw(some.integers(0, 7), label="bit")
    path.write_bytes(content)
    with pytest.raises(
        CorruptShardError, match=r"shard .*00007\.safetensors is damaged .*; delete it and harvest again"
    ):
        read_shard(path)


def test_a_shard_of_another_harvest_is_named(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.safetensors", make_shard(4))
    with pytest.raises(CorruptShardError, match="its model is 'tiny', expected 'large'"):
        read_shard(tmp_path / "a.safetensors", expect={"model": "large"})


def test_a_file_that_lacks_a_tensor_is_damaged(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"activations": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(CorruptShardError, match="is damaged"):
        read_shard(tmp_path / "a.safetensors")


def test_only_old_leftovers_are_removed(tmp_path: Path) -> None:
    old, new, shard = tmp_path / ".0.1.tmp", tmp_path / ".0.2.tmp", tmp_path / "0.safetensors"
    for file in (old, new, shard):
        file.write_bytes(b"x")
    os.utime(old, (time.time() - 7200,) * 2)
    os.utime(shard, (time.time() - 7200,) * 2)
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([new, shard])


def test_rows_are_those_of_the_shards_in_order() -> None:
    shards = tuple(make_shard(4, seed) for seed in range(3))
    whole = torch.cat([shard.activations for shard in shards])
    for n_tokens in (1, len(shards[0]), len(shards[0]) + 1, len(whole)):
        activations = Activations(shards, n_tokens)
        assert len(activations) == n_tokens
        assert torch.equal(activations.tensor(), whole[:n_tokens])
        rows = torch.randperm(n_tokens, generator=torch.Generator().manual_seed(n_tokens))
        assert torch.equal(activations.gather(rows), whole[rows].float())
    with pytest.raises(IndexError, match=f"expected 0 to {len(whole) - 1}"):
        activations.gather(torch.tensor([len(whole)]))
    with pytest.raises(
        InputError, match=f"n_tokens: expected between 1 and the {len(whole)} rows of the shards, found 99"
    ):
        Activations(shards, 99)


@pytest.mark.parametrize("at_once", [1, 7, 10**6])
def test_the_mean_is_that_of_all_rows(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", at_once)
    activations = Activations((make_shard(4, 0), make_shard(4, 1)), 25)
    torch.testing.assert_close(activations.mean(), activations.tensor().double().mean(0).float())


def test_context_is_the_text_around_the_row() -> None:
    shards = (make_shard(4, 0), make_shard(4, 1))
    activations = Activations(shards, sum(map(len, shards)))
    for row in range(len(activations)):
        shard, local = (shards[0], row) if row < len(shards[0]) else (shards[1], row - len(shards[0]))
        window, position = int(shard.window[local]), int(shard.position[local])
        context = activations.context(row, before=2, after=1)
        assert context.token_ids[context.index] == int(shard.token_ids[window, position])
        assert context.index == min(position, 2)
        start = max(0, position - 2)
        assert context.token_ids == tuple(shard.token_ids[window, start : position + 2].tolist())
        assert context.document == ["first", "second"][int(shard.documents[window, position])]
