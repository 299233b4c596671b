"""Batches straight from the language model, without a disk."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_torch.activations.config import HarvestConfig
from sae_torch.activations.forward import require_length, shards_of
from sae_torch.activations.language_model import LanguageModel, load_language_model
from sae_torch.activations.window_parts import WindowParts, window_parts
from sae_torch.errors import InputError
from sae_torch.parallel.ranked import workers_of
from sae_torch.plain_numbers import seed_of, whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Tokens of the last batches that stay in memory, since calibration asks for them again.
LAST_TOKENS = 1 << 17


@dataclass(frozen=True, eq=False)
class LiveReader:
    """Harvest while training: the rows that `harvest` would write, shuffled within a pool in memory.

    Windows come in the order of their seed, so a pool mixes documents from everywhere. Nothing is stored. A run that is
    resumed reads on from about the window where it stopped, with other batches than it would have had: **it is not
    promised to end with the same bits**. For several runs on the same activations harvest once.

    Parameters
    ----------
    config : HarvestConfig
        What is harvested.
    tokens : int
        Activations in all, at least one batch.
    batch_size : int
        Tokens per batch, at least 1.
    seed : int
        Seed of the order within pools.
    pool_tokens : int
        Rows in memory that are shuffled with one another, at least 1.
    split : {"train", "dev", "test"}
        Of which documents.
    language_model : LanguageModel, optional
        A model that is already loaded; None loads it when the first batch is asked for.
    target : str, optional
        Site of the targets of a transcoder: batches then have them beside the inputs, as those of `Pairs`.
    mesh : torch.distributed.DeviceMesh, optional
        Processes of `st.parallel.mesh` that share the harvest: each passes other windows through a language model of
        its own and sends the rows to the others. All read in step, and get the batches of one process.

    Raises
    ------
    InputError
        If there is not one full batch; when the text is first read, if it holds fewer tokens.

    Examples
    --------
    >>> from sae_torch.activations import HarvestConfig, LiveReader
    >>> reader = LiveReader(HarvestConfig(), tokens=10_000, batch_size=1000)
    >>> for x in reader.from_step(0):  # doctest: +SKIP
    ...     print(x.shape)
    """

    config: HarvestConfig
    tokens: int
    batch_size: int
    seed: int = 0
    pool_tokens: int = 1 << 17
    split: str = "train"
    language_model: LanguageModel | None = None
    target: str | None = None
    mesh: DeviceMesh | None = None
    _last: deque[tuple[int, Tensor]] = field(default_factory=deque, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("tokens", 0), ("batch_size", 1), ("pool_tokens", 1)):
            object.__setattr__(self, name, whole(name, getattr(self, name), least))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if len(self) == 0:
            raise InputError(f"tokens: expected at least one batch of {self.batch_size}, found {self.tokens}")

    def __len__(self) -> int:
        return self.tokens // self.batch_size

    @property
    def header(self) -> Mapping[str, str]:
        """Where the activations come from."""
        found = self.config.provenance(self.split)
        return found if self.target is None else {**found, "target": self.target}

    @property
    def d_model(self) -> int:
        """Width of the batches; the first shard is harvested to find it."""
        return sum(self._widths)

    @property
    def d_in(self) -> int:
        """Width of what is read: of the inputs in batches of pairs, else of the whole."""
        return self._widths[0]

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        """Widths by site, for which the model runs once."""
        return tuple(side.shape[1] for side in self._sides(0))

    def batch(self, step: int) -> Tensor:
        """One of the last batches, or if it is gone another from about that window of the text."""
        for earlier, x in self._last:
            if earlier == step:
                return x
        # the ones after it are asked for next, and a pool holds them anyway
        self._last.clear()
        for _ in itertools.islice(self.from_step(step), self._last_batches):
            pass
        return self._last[0][1]

    def from_step(self, step: int) -> Generator[Tensor, None, None]:
        """Batches from step `step` on, from about the window where it would begin."""
        shard = step * self.batch_size // (self.config.windows_per_shard * (self.config.window - 1))
        generator = torch.Generator().manual_seed(self.seed + shard)
        pool: list[Tensor] = []
        ready: deque[Tensor] = deque()
        rest = torch.empty(0)
        while step < len(self):
            wanted = min(self.pool_tokens, (len(self) - step) * self.batch_size)
            while sum(len(rows) for rows in pool) + len(rest) < max(wanted, self.batch_size):
                if not ready:
                    ready.extend(self._next_rows(shard))
                    shard += len(ready)
                pool.append(ready.popleft())
            rows = torch.cat([rest, *pool] if len(rest) else pool)
            rows = rows[torch.randperm(len(rows), generator=generator)]
            pool, rest = [], rows[len(rows) // self.batch_size * self.batch_size :]
            for x in torch.split(rows[: len(rows) - len(rest)], self.batch_size):
                if step == len(self):
                    return
                x = x.float()
                self._keep(step, x)
                yield x
                step += 1

    def origin(self, step: int) -> str:
        """Where a batch comes from, for a message."""
        return f"batch {step} of seed {self.seed}: harvested from {self.config.model} at {self.config.site}, not stored"

    def _keep(self, step: int, x: Tensor) -> None:
        self._last.append((step, x))
        while len(self._last) > self._last_batches:
            self._last.popleft()

    @property
    def _last_batches(self) -> int:
        return max(1, LAST_TOKENS // self.batch_size)

    def _next_rows(self, shard: int) -> list[Tensor]:
        """Rows from this shard on, as many shards as there are processes."""
        world = workers_of(self.mesh)

        def there() -> list[int]:
            later = range(shard + 1, shard + world.count)
            return [shard, *(each for each in later if self._windows.holds(each))]

        shards, _ = world.agreed(there, len)
        return world.divided([partial(self._rows, each) for each in shards])

    def _rows(self, shard: int) -> Tensor:
        """Rows of some windows, as a harvest would store them; of pairs beside each other."""
        sides = self._sides(shard)
        return sides[0] if len(sides) == 1 else torch.cat(sides, dim=1)

    def _sides(self, shard: int) -> list[Tensor]:
        """The same by site."""
        from tqdm import tqdm

        config, windows = replace(self.config, rows_of=self.config.site), self._windows
        sites = (config.site, *([] if self.target is None else [self.target]))
        part = windows.part(shard)
        if part is None:
            most = windows.most()
            held = "windows" if most is None else f"{most} windows"
            raise InputError(
                f"tokens: expected at most what the {held} of the {self.split} split hold, found {self.tokens}"
                + (f"; {windows.ended}, which ends a mixture" if windows.ended else "")
            )
        with tqdm(disable=True) as bar:
            shards = shards_of(config, sites, self._model, part, {site: {} for site in sites}, bar)
        return [shards[site].activations for site in sites]

    @cached_property
    def _model(self) -> LanguageModel:
        config = self.config
        model = self.language_model or load_language_model(config.model, config.dtype, config.device)
        require_length(model, config.window)
        return model

    @cached_property
    def _windows(self) -> WindowParts:
        windows = window_parts(self.config, self.split, self._model.tokenizer)
        count = windows.most()
        if count is not None:
            most = count * (self.config.window - (0 if self.config.keep_first else 1))
            if most < self.tokens:
                raise InputError(
                    f"tokens: expected at most what the {self.split} split holds, {most} tokens, found {self.tokens}"
                )
        return windows
