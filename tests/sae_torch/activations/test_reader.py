from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_torch.activations import ActivationReader, Activations, ArrayRows, open_activations
from sae_torch.activations.shards import Shard
from sae_torch.errors import InputError


def numbered(*sizes: int) -> Activations:
    """Activations whose row i holds the number i."""
    none, start, shards = torch.zeros(0, dtype=torch.int32), 0, []
    for size in sizes:
        rows = torch.arange(start, start + size, dtype=torch.float16)[:, None]
        shards.append(Shard(rows, none, none, none[None], none[None]))
        start += size
    return Activations(tuple(shards), start)


def test_every_row_comes_once_and_shuffled() -> None:
    reader = ActivationReader(numbered(40, 1, 59), batch_size=7, drop_last=False)
    batches = list(reader)
    assert [len(batch) for batch in batches] == [7] * 14 + [2]
    assert len(reader) == 15
    rows = torch.cat(batches)[:, 0]
    assert rows.dtype == torch.float32
    assert torch.equal(rows.sort().values, torch.arange(100.0))
    assert not torch.equal(rows, torch.arange(100.0))
    # a batch mixes all shards: without shuffling across them the first 40 rows would come from one
    assert (rows[:40] >= 40).any()


def test_an_incomplete_batch_is_left_out_by_default() -> None:
    reader = ActivationReader(numbered(100), batch_size=30)
    assert [len(batch) for batch in reader] == [30, 30, 30]
    assert len(reader) == 3


def test_the_seed_fixes_the_order() -> None:
    activations = numbered(50, 50)
    first = torch.cat(list(ActivationReader(activations, 10, seed=3)))
    again = ActivationReader(activations, 10, seed=3)
    assert torch.equal(torch.cat(list(again)), first)
    assert torch.equal(torch.cat(list(again)), first)
    assert not torch.equal(torch.cat(list(ActivationReader(activations, 10, seed=4))), first)


def test_the_order_does_not_depend_on_how_rows_lie_in_shards() -> None:
    one = torch.cat(list(ActivationReader(numbered(100), 10)))
    many = torch.cat(list(ActivationReader(numbered(33, 33, 34), 10)))
    assert torch.equal(one, many)


def test_too_few_rows_for_one_batch_are_refused() -> None:
    with pytest.raises(InputError, match="expected at least one batch of 8 tokens, found 5; harvest more tokens"):
        ActivationReader(numbered(5), batch_size=8)
    with pytest.raises(InputError, match="batch_size: expected at least 1, found 0"):
        ActivationReader(numbered(5), batch_size=0)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    batch=st.integers(1, 30),
    pool=st.integers(1, 300),
    passes=st.integers(1, 3),
    drop_last=st.booleans(),
    seed=st.integers(0, 3),
)
def test_every_pass_holds_every_row_once_whatever_the_pool(
    sizes: list[int], batch: int, pool: int, passes: int, drop_last: bool, seed: int
) -> None:
    rows = numbered(*sizes)
    batch = min(batch, len(rows))
    reader = ActivationReader(rows, batch, seed, drop_last=drop_last, passes=passes, pool_tokens=pool, prefetch=0)
    batches = list(reader)
    assert len(batches) == len(reader)
    per_pass = reader.batches_per_pass
    for turn in range(passes):
        found = torch.cat(batches[turn * per_pass : (turn + 1) * per_pass])[:, 0]
        assert len(found.unique()) == len(found) == (len(rows) // batch * batch if drop_last else len(rows))
    step = len(reader) // 2
    assert all(torch.equal(x, y) for x, y in zip(batches[step:], reader.from_step(step), strict=True))
    ahead = dataclasses.replace(reader, prefetch=3)
    assert all(torch.equal(x, y) for x, y in zip(batches, ahead, strict=True))


def test_a_set_that_fits_one_pool_is_one_permutation() -> None:
    """The order of earlier versions, on which published figures rest."""
    found = torch.cat(list(ActivationReader(numbered(100), 10, seed=7)))[:, 0]
    assert torch.equal(found, torch.randperm(100, generator=torch.Generator().manual_seed(7)).float())


def test_passes_and_pools_differ_in_order() -> None:
    reader = ActivationReader(numbered(1000, 1000), 10, passes=2, pool_tokens=512)
    first, second = torch.cat(list(reader)).view(2, -1)
    assert not torch.equal(first, second)
    assert 400 < (first[:500] >= 1000).sum() * 2 < 600  # a pool draws its blocks from everywhere


def test_the_thread_ends_with_its_iterator() -> None:
    reader = ActivationReader(numbered(100), 10, prefetch=2)
    before = threading.active_count()
    iterator = iter(reader)
    next(iterator)
    assert threading.active_count() == before + 1
    iterator.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_errors_of_the_thread_reach_the_caller() -> None:
    class Broken(ArrayRows):
        def gather(self, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            raise OSError(5, "Input/output error", "shard")

    with pytest.raises(OSError, match="Input/output error"):
        list(ActivationReader(Broken((np.zeros((10, 2)),)), 5))


def test_the_origin_of_a_batch_is_named() -> None:
    text = ActivationReader(numbered(100), 10, seed=7).origin(2)
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(7))[20:24].tolist()
    assert text == f"batch 2 of seed 7: 10 rows ({', '.join(map(str, rows))}, ...) of the activations"


def test_memory_is_bounded_by_the_pool(tmp_path: Path) -> None:
    """A file of 400 MB is read with less than 60 MB of memory of our own; mapped pages are the system's."""
    path = tmp_path / "x.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(800_000, 256))
    rows[:, 0] = np.arange(800_000) % 1024
    rows.flush()
    del rows

    def own_megabytes() -> int:
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) // 1024  # type: ignore[index]

    reader = ActivationReader(open_activations(path), 1024, pool_tokens=1 << 17)
    before, most = own_megabytes(), 0
    for step, x in enumerate(reader.from_step(0)):
        if step % 50 == 0:
            most = max(most, own_megabytes())
        assert x.shape == (1024, 256)
    assert most - before < 60
