from __future__ import annotations

import pytest
import torch

from sae_torch.activations import ActivationReader, Activations
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
    with pytest.raises(InputError, match="5 tokens do not fill one batch of 8: harvest more tokens"):
        ActivationReader(numbered(5), batch_size=8)
    with pytest.raises(InputError, match="batch_size is 0, expected at least 1"):
        ActivationReader(numbered(5), batch_size=0)
