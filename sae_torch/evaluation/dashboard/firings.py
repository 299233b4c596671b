"""All activations of all features, sorted by feature, in files that memory need not hold."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sae_torch.activations.shards import Activations
from sae_torch.evaluation.metrics import batch_free
from sae_torch.sparse_coder import SparseCoder

STRONGEST = 5
# As `measure` has it: products of other shapes differ in their last bits.
BATCH = 2048


@dataclass(frozen=True)
class Firings:
    """Where each feature fires.

    Parameters
    ----------
    offsets : (n_features + 1,) int64
        Feature j has the entries from ``offsets[j]`` to ``offsets[j + 1]``.
    rows : (entries,) int32
        Rows of the activations, ascending for each feature.
    values : (entries,) float32
        The feature's activations there, all positive.
    features, strengths : (tokens, 5) int32, float32
        The strongest features of each token, strongest first, then smallest index; -1 where a token has fewer.
    """

    offsets: Any
    rows: Any
    values: Any
    features: Any
    strengths: Any

    def of(self, feature: int) -> tuple[Any, Any]:
        """Rows and values of one feature."""
        part = slice(int(self.offsets[feature]), int(self.offsets[feature + 1]))
        return np.asarray(self.rows[part]), np.asarray(self.values[part])


@contextlib.contextmanager
def firings(sae: SparseCoder, activations: Activations, tokens: int, progress: str | None = None) -> Iterator[Firings]:
    """Encode the first tokens once and sort what fires by feature, through files in the folder for temporary ones.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        Encodes each token by itself.
    activations : Activations
        What it reads.
    tokens : int
        How many of them, the first.
    progress : str, optional
        Label of a progress bar; None shows none.

    Yields
    ------
    Firings
        Its files are gone when the context ends.
    """
    counts = np.zeros(sae.n_features, np.int64)
    features = np.full((tokens, STRONGEST), -1, np.int32)
    strengths = np.zeros((tokens, STRONGEST), np.float32)
    lengths: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "by-token").open("wb") as file:
            for entries in _encoded(sae, activations, tokens, progress):
                entries.tofile(file)
                lengths.append(len(entries))
                counts += np.bincount(entries["feature"], minlength=sae.n_features)
                order = np.lexsort((entries["feature"], -entries["value"], entries["row"]))
                rows = entries["row"][order]
                rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
                first = rank < STRONGEST
                features[rows[first], rank[first]] = entries["feature"][order][first]
                strengths[rows[first], rank[first]] = entries["value"][order][first]
        offsets = np.concatenate([[0], counts.cumsum()])
        shape = (max(int(offsets[-1]), 1),)
        by_feature = np.memmap(folder / "rows", np.int32, "w+", shape=shape)
        values = np.memmap(folder / "values", np.float32, "w+", shape=shape)
        filled = offsets[:-1].copy()
        with (folder / "by-token").open("rb") as file:
            for length in lengths:
                entries = np.fromfile(file, _ENTRY, length)
                # stable, so that the rows of a feature stay ascending
                entries = entries[np.argsort(entries["feature"], kind="stable")]
                rank = np.arange(length) - np.searchsorted(entries["feature"], entries["feature"])
                to = filled[entries["feature"]] + rank
                by_feature[to], values[to] = entries["row"], entries["value"]
                filled += np.bincount(entries["feature"], minlength=sae.n_features)
        yield Firings(offsets, by_feature, values, features, strengths)


_ENTRY = np.dtype([("row", np.int32), ("feature", np.int32), ("value", np.float32)])


def _encoded(
    sae: SparseCoder, activations: Activations, tokens: int, progress: str | None
) -> Iterator[np.ndarray[Any, Any]]:
    """What fires on each batch, by row."""
    from tqdm import tqdm

    parameter = next(sae.parameters())
    bar = tqdm(total=tokens, desc=progress, unit=" tokens", unit_scale=True, disable=progress is None)
    with bar:
        for start in range(0, tokens, BATCH):
            rows = torch.arange(start, min(start + BATCH, tokens))
            with batch_free(sae):
                codes = sae.encode(activations.gather(rows, parameter.dtype).to(parameter.device))
            fires = codes.values > 0
            entries = np.empty(int(fires.sum()), _ENTRY)
            entries["row"] = (codes.tokens[fires] + start).cpu().numpy()
            entries["feature"] = codes.features[fires].cpu().numpy()
            entries["value"] = codes.values[fires].float().cpu().numpy()
            yield entries
            bar.update(len(rows))
