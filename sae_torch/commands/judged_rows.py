"""The rows that autoencoders are judged on; those of transcoders have their targets beside them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from sae_torch.activations import Activations, Pairs, Rows, open_activations
from sae_torch.activations.files import targets_beside
from sae_torch.activations.sites import hook_name
from sae_torch.errors import InputError
from sae_torch.interop.description import layer_of
from sae_torch.launched import leads
from sae_torch.sparse_coder import SparseCoder

_HOOK = re.compile(r"blocks\.\d+\.(?:.+\.)?hook_\w+")


def opened_rows(
    saes: Mapping[str, SparseCoder],
    activations: Path,
    targets: Path | None,
    computed: Callable[[], set[str | None]],
    rows: Rows | None = None,
) -> Rows:
    """Activations, for transcoders with their targets.

    Parameters
    ----------
    saes : mapping of str to SparseAutoencoder or Transcoder
        By name; of one kind.
    activations : Path
        What they read.
    targets : Path, optional
        What transcoders compute; by default what was harvested with the activations.
    computed : callable
        The sites that transcoders say they compute.
    rows : Rows, optional
        The activations, where they are open already, with their targets.

    Raises
    ------
    InputError
        If autoencoders and transcoders are mixed, or no targets of their width are found.
    """
    pairs = {name: sae.takes_pairs for name, sae in saes.items()}
    if len(set(pairs.values())) > 1:
        one = next(name for name, takes in pairs.items() if takes)
        raise InputError(f"autoencoders: expected transcoders alone or none, found {one} among others")
    if targets is not None and not all(pairs.values()):
        raise InputError(f"targets: expected transcoders beside them, found {next(iter(saes))}, an autoencoder")
    if rows is not None:
        return rows
    rows = open_activations(activations)
    if not all(pairs.values()):
        return rows
    place = targets or _harvested_with(activations, next(iter(saes)), computed)
    pair = Pairs(rows, open_activations(place))
    for name, sae in saes.items():
        if sae.d_out != pair.targets.d_model:
            raise InputError(
                f"targets {place}: expected the width {sae.d_out} that {name} computes, found {pair.targets.d_model}"
            )
    return pair


def _harvested_with(activations: Path, name: str, computed: Callable[[], set[str | None]]) -> Path:
    """The targets that were harvested with the inputs, of what the transcoders say they compute."""
    beside = targets_beside(activations)
    if not beside:
        raise InputError(
            f"targets: expected what {name} computes, a transcoder, found no harvest of pairs beside "
            f"{activations}; say where they are with --targets"
        )
    said = {site for site in computed() if site is not None}
    named = {site: path for site, path in beside.items() if said == {hook_name(site)}}
    layers = {layer_of(site) for site in said} - {None}
    # of two hooks of one block each is another place, so that layers speak for module paths alone
    fitting = named or {
        site: path
        for site, path in beside.items()
        if layers <= {layer_of(hook_name(site)), None}
        and not (_HOOK.fullmatch(hook_name(site)) and any(map(_HOOK.fullmatch, said)))
    }
    if len(fitting) != 1:
        wanted = " and ".join(sorted(said)) or "no site that is recorded"
        raise InputError(
            f"targets: expected those of one site, that of {wanted}, found {', '.join(sorted(beside))} harvested "
            f"with {activations}; say which with --targets"
        )
    ((site, path),) = fitting.items()
    if leads():
        print(f"targets: {path} ({site}), harvested with the inputs")
    return path


def first_rows(activations: Rows, tokens: int | None) -> Rows:
    """So many of them, or all.

    Raises
    ------
    InputError
        If there are fewer.
    """
    if tokens is None or tokens == len(activations):
        return activations
    if tokens > len(activations):
        raise InputError(f"tokens: expected at most the {len(activations)} activations there are, found {tokens}")
    if isinstance(activations, Pairs):
        return Pairs(first_rows(activations.inputs, tokens), first_rows(activations.targets, tokens))
    if isinstance(activations, Activations):
        return Activations(activations.shards, tokens)
    return _Part(activations, tokens)


@dataclass(frozen=True)
class _Part:
    """The first rows of other ones."""

    rows: Rows
    count: int

    @property
    def d_model(self) -> int:
        return self.rows.d_model

    @property
    def header(self) -> dict[str, str]:
        return dict(self.rows.header)

    def __len__(self) -> int:
        return self.count

    def gather(self, rows: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return self.rows.gather(rows, dtype)
