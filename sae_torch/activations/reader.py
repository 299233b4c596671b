"""Shuffled batches of activations."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from sae_torch.activations.pairs import Pairs
from sae_torch.activations.rows import Rows
from sae_torch.errors import InputError
from sae_torch.plain_numbers import seed_of, whole

# A pool mixes at least this many blocks of rows from everywhere, each at most BLOCK_ROWS long, so that it is read in
# long strokes.
BLOCKS, BLOCK_ROWS = 256, 1024


class Stream(Protocol):
    """Batches by step, from which a run can go on anywhere: `ActivationReader`, or `LiveReader` without a disk."""

    @property
    def batch_size(self) -> int:
        """Tokens per batch."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the batches."""
        ...

    @property
    def d_in(self) -> int:
        """Width of what is read: of the inputs in batches of pairs, else of the whole."""
        ...

    @property
    def header(self) -> Mapping[str, str]:
        """Where the activations come from."""
        ...

    def __len__(self) -> int: ...

    def batch(self, step: int) -> Tensor:
        """One batch by its step, ``(tokens, d_model)``."""
        ...

    def from_step(self, step: int) -> Generator[Tensor, None, None]:
        """The batches from step `step` on."""
        ...

    def origin(self, step: int) -> str:
        """Where a batch comes from, for a message."""
        ...


@dataclass(frozen=True)
class ActivationReader:
    """Batches of activations in an order that a seed fixes.

    A set that fits one pool is permuted row by row. A larger one is cut into blocks of neighbouring rows. Blocks drawn
    from everywhere fill a pool, and the pool's rows are permuted. Every pass over the reader gives the same batches.
    Every batch can be had alone: `from_step` goes on anywhere.

    Memory holds one pool's permutation (8 bytes per row) and a few batches. The rows stay mapped to their files, where
    one pool's worth of them is read at a time.

    Parameters
    ----------
    activations : Rows
        Where the rows come from: `Activations`, or what `open_activations` returns.
    batch_size : int
        Tokens per batch, at least 1.
    seed : int
        Seed of the permutations.
    dtype : torch.dtype
        Type of the batches.
    drop_last : bool
        Whether to leave out an incomplete last batch of a pass.
    passes : int
        How often every row comes, each time in another order, at least 1.
    pool_tokens : int
        Rows that are shuffled with one another, at least 1.
    prefetch : int
        Batches that a thread reads ahead; 0 reads when asked.

    Raises
    ------
    InputError
        If there is not one full batch, or a number is too small.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_torch.activations.rows import ArrayRows
    >>> reader = ActivationReader(ArrayRows((np.random.randn(10, 4),)), batch_size=4)
    >>> [tuple(x.shape) for x in reader]
    [(4, 4), (4, 4)]
    >>> bool((next(reader.from_step(1)) == reader.batch(1)).all())
    True
    """

    activations: Rows
    batch_size: int
    seed: int = 0
    dtype: torch.dtype = torch.float32
    drop_last: bool = True
    passes: int = 1
    pool_tokens: int = 1 << 21
    prefetch: int = 2

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("passes", 1), ("pool_tokens", 1), ("prefetch", 0)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if len(self) == 0:
            raise InputError(
                f"activations: expected at least one batch of {self.batch_size} tokens, found {len(self.activations)}; "
                "harvest more tokens or take a smaller batch"
            )

    @property
    def d_model(self) -> int:
        """Width of the batches."""
        return self.activations.d_model

    @property
    def d_in(self) -> int:
        """Width of what is read: of the inputs in batches of pairs, else of the whole."""
        return self.activations.d_in if isinstance(self.activations, Pairs) else self.activations.d_model

    @property
    def header(self) -> Mapping[str, str]:
        """Where the activations come from."""
        return self.activations.header

    @property
    def batches_per_pass(self) -> int:
        """Batches in which every row comes once."""
        batches, rest = divmod(len(self.activations), self.batch_size)
        return batches + (0 if self.drop_last or not rest else 1)

    def __len__(self) -> int:
        return self.passes * self.batches_per_pass

    def __iter__(self) -> Iterator[Tensor]:
        return self.from_step(0)

    def batch(self, step: int) -> Tensor:
        """One batch by its step, ``(tokens, d_model)``; steps are counted from 0 over all passes.

        Raises
        ------
        IndexError
            If there is no such step.
        """
        return self._gathered(step, _Order(self))

    def from_step(self, step: int) -> Generator[Tensor, None, None]:
        """The batches from step `step` on."""
        order = _Order(self)
        steps = range(step, len(self))
        if not self.prefetch:
            for each in steps:
                yield self._gathered(each, order)
            return
        ahead: deque[Future[Tensor]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="activations") as thread:
            try:
                for each in steps:
                    ahead.append(thread.submit(self._gathered, each, order))
                    if len(ahead) > self.prefetch:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def origin(self, step: int) -> str:
        """Where a batch comes from, for a message."""
        rows = self._rows(step, _Order(self))
        header = self.activations.header
        source = ", ".join(str(header[name]) for name in ("activations", "model", "site", "split") if name in header)
        shown = ", ".join(str(row) for row in rows[:4].tolist())
        return f"batch {step} of seed {self.seed}: {len(rows)} rows ({shown}, ...) of {source or 'the activations'}"

    def _gathered(self, step: int, order: _Order) -> Tensor:
        return self.activations.gather(self._rows(step, order), self.dtype)

    def _rows(self, step: int, order: _Order) -> Tensor:
        if not 0 <= step < len(self):
            raise IndexError(f"step: expected 0 to {len(self) - 1}, found {step}")
        turn, step_of_pass = divmod(step, self.batches_per_pass)
        start = step_of_pass * self.batch_size
        stop = min(start + self.batch_size, len(self.activations))
        parts = []
        while start < stop:
            pool, within = order.locate(start)
            rows = order.pool(turn, pool)[within : within + stop - start]
            parts.append(rows)
            start += len(rows)
        return torch.cat(parts)


class _Order:
    """The permutations of a reader, one pool at a time."""

    def __init__(self, reader: ActivationReader) -> None:
        self.rows, self.seed = len(reader.activations), reader.seed
        wanted = -(-self.rows // reader.pool_tokens)
        # a set that fits one pool is one block of rows
        self.block = max(1, min(BLOCK_ROWS, reader.pool_tokens // BLOCKS)) if wanted > 1 else self.rows
        self.blocks = self.rows // self.block
        self.per_pool = -(-self.blocks // wanted)
        self.pools = -(-self.blocks // self.per_pool)
        self.pool = lru_cache(maxsize=2)(self._pool)

    def locate(self, position: int) -> tuple[int, int]:
        """The pool of a position in a pass, and the position in that pool; the last one takes the incomplete block."""
        pool = min(position // (self.per_pool * self.block), self.pools - 1)
        return pool, position - pool * self.per_pool * self.block

    def _pool(self, turn: int, pool: int) -> Tensor:
        """Row numbers of a pool, permuted."""
        rows = torch.arange(self.block)
        if self.pools > 1:
            drawn = torch.randperm(self.blocks, generator=self._generator(turn, self.pools))
            drawn = drawn[pool * self.per_pool : (pool + 1) * self.per_pool]
            rows = (drawn[:, None] * self.block + rows).reshape(-1)
        if pool == self.pools - 1:
            rows = torch.cat([rows, torch.arange(self.blocks * self.block, self.rows)])
        return rows[torch.randperm(len(rows), generator=self._generator(turn, pool))]

    def _generator(self, turn: int, draw: int) -> torch.Generator:
        # large odd steps keep the seeds of passes and draws apart
        seed = self.seed + 0x9E3779B97F4A7C15 * turn + 0xD1342543DE82EF95 * draw
        return torch.Generator().manual_seed(seed % (1 << 63))
