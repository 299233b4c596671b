"""Shuffled batches of activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_torch.activations.shards import Activations
from sae_torch.errors import InputError


@dataclass(frozen=True)
class ActivationReader:
    """Batches of activations in an order drawn once from a seed.

    Every pass over the reader gives the same batches. All rows are permuted, so a batch mixes tokens of
    the whole set; memory holds the permutation (8 bytes per token) and one batch, the rest stays mapped.

    Parameters
    ----------
    activations
        Where the rows come from.
    batch_size
        Tokens per batch.
    seed
        Seed of the permutation.
    dtype
        Of the batches.
    drop_last
        Whether to leave out an incomplete last batch.

    Raises
    ------
    InputError
        If there is not one full batch.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.activations.shards import Activations, Shard
    >>> none = torch.zeros(0, dtype=torch.int32)
    >>> shard = Shard(torch.randn(10, 4).half(), none, none, none[None], none[None])
    >>> [tuple(x.shape) for x in ActivationReader(Activations((shard,), 10), batch_size=4)]
    [(4, 4), (4, 4)]
    """

    activations: Activations
    batch_size: int
    seed: int = 0
    dtype: torch.dtype = torch.float32
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, expected at least 1")
        if len(self) == 0:
            raise InputError(
                f"{len(self.activations)} tokens do not fill one batch of {self.batch_size}: "
                "harvest more tokens or take a smaller batch"
            )

    def __len__(self) -> int:
        batches, rest = divmod(len(self.activations), self.batch_size)
        return batches + (0 if self.drop_last or not rest else 1)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.activations), generator=generator)
        for step in range(len(self)):
            rows = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.activations.gather(rows, self.dtype)
