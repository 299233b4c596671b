"""What the batch does: the allocation of training, in batches of other sizes and about one topic."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import allocation as al
from sae_torch.activations.pairs import Pairs
from sae_torch.activations.rows import Rows
from sae_torch.activations.shards import Activations
from sae_torch.choices.choice import SOLVER, Choice
from sae_torch.evaluation.metrics import batch_free
from sae_torch.matches import matches_of
from sae_torch.plain_numbers import whole
from sae_torch.sparse_coder import SparseCoder


@dataclass(frozen=True)
class BatchMode:
    """Batch allocation at one batch size.

    Parameters
    ----------
    batch_size : int
        Tokens allocated together.
    order : {"shuffled", "topical"}
        ``"shuffled"``: every batch mixes the documents; ``"topical"``: document by document.
    nmse, l0 : float
        As in `Quality`.
    agreement : float
        Matches shared with the batch-free mode over matches of either, from 0 to 1.
    """

    batch_size: int
    order: str
    nmse: float
    l0: float
    agreement: float


@contextlib.contextmanager
def batch_allocation(sae: SparseCoder) -> Iterator[None]:
    """Training mode without gradients, while the context lasts.

    The mode, the statistics and the ledgers of quotas are restored afterwards.
    """
    training = sae.training
    kept = [(buffer, buffer.clone()) for buffer in sae.choice.buffers()]
    sae.train()
    try:
        with torch.no_grad():
            yield
    finally:
        sae.train(training)
        for buffer, before in kept:
            buffer.copy_(before)


def batch_sensitivity(
    sae: SparseCoder,
    activations: Rows,
    *,
    batch_sizes: Sequence[int] = (256, 1024, 4096),
    tokens: int = 16_384,
    seed: int = 0,
) -> list[BatchMode]:
    """Allocate the same tokens in batches of several sizes, shuffled and by document.

    ``agreement = |A and A'| / |A or A'|`` with the matches `A` of the batch and `A'` of each token by itself

    Quotas below one match a batch are carried from batch to batch, as in training. Both orders hold the same tokens, so
    a difference between them comes from who shares a batch.

    Plain arrays have no text, so that the topical order is left out. An incomplete last batch is left out. Thresholds
    per feature without their quotas, as folders of other libraries have them, say nothing of batches: the list is
    empty.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
        The autoencoder; mode and statistics stay as they are.
    activations : Rows
        Held-out activations.
    batch_sizes : sequence of int
        Tokens per batch, to be compared; sizes above the number of tokens are left out.
    tokens : int
        How many tokens, whole documents first.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    list of BatchMode
        By size, and for each size by order.
    """
    if not sae.choice.has_batch_problem:
        return []
    read = activations.inputs if isinstance(activations, Pairs) else activations
    topical = document_order(read) if isinstance(read, Activations) else None
    chosen = (torch.arange(len(activations)) if topical is None else topical)[:tokens]
    shuffled = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
    orders = {"shuffled": shuffled} if topical is None else {"shuffled": shuffled, "topical": chosen}
    return [
        _measure(sae, activations, rows, size, order)
        for size in (whole("batch_sizes", size) for size in batch_sizes)
        if size <= len(chosen)
        for order, rows in orders.items()
    ]


def document_order(activations: Activations) -> Tensor:
    """Row indices document by document, ``(len(activations),)`` int64.

    Documents come in the order in which the shards name them, the rows of one as they lie. Windows are shuffled before
    they are stored, so that this is not the order of the text.
    """
    numbers: dict[str, int] = {}
    documents = []
    for shard in activations.shards:
        # each shard numbers its own documents
        names: list[str] = json.loads(shard.header["documents"])
        number = torch.tensor([numbers.setdefault(name, len(numbers)) for name in names], dtype=torch.int64)
        documents.append(number[shard.documents[shard.window.long(), shard.position.long()].long()])
    return torch.cat(documents)[: len(activations)].argsort(stable=True)


def _measure(sae: SparseCoder, activations: Rows, rows: Tensor, size: int, order: str) -> BatchMode:
    error = squares = 0.0
    total = torch.zeros(sae.d_out, dtype=torch.float64)
    matches = shared = either = count = 0
    with batch_allocation(sae):
        for start in range(0, len(rows) - size + 1, size):
            part = activations.gather(rows[start : start + size], sae.W_enc.dtype).to(sae.W_enc.device)
            x, y = sae.sides_of(part)
            with batch_free(sae):
                scores = sae.scores(x)
                alone = sae.codes_at(x, scores, *sae.choice.select(scores))
            codes = sae.codes_at(x, scores, *_together(sae.choice, scores))
            error += float((y - sae.decode(codes, x)).double().square().sum())
            both = [_positive(c.tokens, c.features, c.values, sae.n_features) for c in (codes, alone)]
            common = int(torch.isin(both[0], both[1], assume_unique=True).sum())
            matches += len(both[0])
            shared += common
            either += len(both[0]) + len(both[1]) - common
            total += y.double().sum(0).cpu()
            squares += float(y.double().square().sum())
            count += size
    variation = squares - float(total.square().sum()) / count
    return BatchMode(size, order, error / variation, matches / count, shared / max(either, 1))


def _together(choice: Choice, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and features of a batch's matches; unlike `select` without gradients it moves quotas on to the next."""
    problem = choice.problem(scores, advance=True)
    return matches_of(al.solve(problem, SOLVER, warm_start=choice.expected_prices(len(scores))))


def _positive(tokens: Tensor, features: Tensor, values: Tensor, n_features: int) -> Tensor:
    return (tokens * n_features + features)[values > 0]
