"""The activations that a run trains on, from its configuration."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sae_torch.activations import (
    ActivationReader,
    HarvestOptions,
    LiveReader,
    Pairs,
    Rows,
    Stream,
    harvest,
    harvest_pairs,
    open_activations,
)
from sae_torch.training.run_config import RunConfig

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def open_stream(config: RunConfig, progress: bool, mesh: DeviceMesh | None) -> Stream:
    """Batches of what was harvested already, of what is now, or of what the language model computes on the way.

    Raises
    ------
    InputError
        If activations cannot be read or harvested.
    """
    options, wanted = config.reader, config.harvest
    if config.live:
        return LiveReader(
            wanted.config(), wanted.tokens, options.batch_size, options.seed, options.pool_tokens,
            target=wanted.target, mesh=mesh,
        )  # fmt: skip
    if config.activations is None:
        rows: Any = harvested(wanted, "train", wanted.tokens, progress, mesh)
    else:
        rows = open_activations(config.activations, config.column)
        if config.targets is not None:
            rows = Pairs(rows, open_activations(config.targets))
    return ActivationReader(rows, **asdict(options))


def harvested(options: HarvestOptions, split: str, tokens: int, progress: bool, mesh: DeviceMesh | None) -> Rows:
    """Rows of one site, or pairs of two, from the cache where they are there.

    Raises
    ------
    InputError
        If they cannot be harvested.
    """
    given: Any = (split, tokens, options.cache, None, progress, mesh)
    if options.target is None:
        return harvest(options.config(), *given)
    return harvest_pairs(options.config(), options.target, *given)


def source_of(reader: Stream) -> dict[str, str]:
    """What identifies the stream; a folder may grow by shards, which changes the order of all rows."""
    rows = {"rows": str(len(reader.activations))} if isinstance(reader, ActivationReader) else {}
    return {**reader.header, **rows}
