"""Thresholds measured on frozen weights: the scores of all batches, handed to `Choice.calibrate`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_torch.adapter import Adapter, choice_in, scores_in
from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError
from sae_torch.sparse_coder import Batch, SparseCoder


def calibrate(sae: SparseCoder | Adapter | nn.Module, batches: Iterable[Batch]) -> None:
    """Set the thresholds of the choice to the prices of one pooled problem over all batches.

    ::

        lam (or nu_j) = price of the budget k N (or of the quota p_j N) over the N tokens of all batches together

    Mutual and feature choice select the pooled scores as a stream, block by block, and never hold them together.
    Balanced choice takes the first tokens whose scores fit a quarter of a gigabyte in float32, and solves their problem
    at once. Choices without thresholds stay as they are. The module's mode is left as found.

    Of several processes each passes tokens of its own, in as many batches as the others.

    Parameters
    ----------
    sae : SparseAutoencoder, Transcoder, or a module of your own
        One with a single choice that its forward calls, ``self.choice(scores)``: the scores are read there.
    batches : iterable of (tokens, d_model) tensors
        Of a transcoder pairs (x, y), or x alone; of a module of your own what its forward takes. Best not trained on,
        which lowers their price, nor to be judged on. They are kept, since feature choice encodes them as often as it
        shares out quotas anew, up to four times; mutual and balanced choice once.

    Raises
    ------
    InputError
        If there is no batch, or a module has no choice, several, or does not call it.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(8, 32, choice=st.MutualChoice(k=4))
    >>> x = torch.randn(1000, 8)
    >>> st.calibrate(sae, [x])
    >>> round(sae.eval()(x).codes.l0, 1)
    4.0
    """
    require_several(batches)
    if not isinstance(sae, SparseCoder):
        return _calibrate_module(sae.module if isinstance(sae, Adapter) else sae, list(batches))
    inputs = [sae.inputs_of(batch) for batch in batches]

    def scores(x: Tensor) -> Iterator[Any]:
        # where no memory holds the scores of a batch, as many tokens as fill one of its blocks
        rows = len(x) if sae.feature_chunk is None else max(1, len(x) * sae.feature_chunk // sae.width)
        return (sae.scores(part.to(sae.W_enc.device, sae.W_enc.dtype)) for part in torch.split(x, max(1, rows)))

    calibrate_choice(sae.choice, scores, inputs)


@torch.no_grad()
def _calibrate_module(module: nn.Module, batches: list[Any]) -> None:
    """Read the scores where the module's forward hands them to its choice."""
    if not isinstance(module, nn.Module):
        raise InputError(f"sae: expected an autoencoder or a module that holds a choice, found {module!r}")
    choice, tokens = choice_in(module), 0
    for number, batch in enumerate(batches):
        if isinstance(batch, list | tuple):
            raise InputError(
                f"batches: expected what the module takes, found a {type(batch).__name__} as batch {number}; of a "
                "DataLoader over a TensorDataset pass (x for x, in loader)"
            )
        if isinstance(batch, np.ndarray):
            raise InputError(f"batches: expected tensors, found an array of NumPy as batch {number}")
        scores = scores_in(module, batch)
        choice.build(scores.shape[1])
        tokens += len(scores)
    _require_tokens(tokens)
    choice.calibrate(_ScoreBlocks(lambda batch: [scores_in(module, batch)], batches), tokens)


@torch.no_grad()
def calibrate_choice(choice: Choice, scores: Callable[[Tensor], Iterable[Any]], batches: Iterable[Tensor]) -> None:
    """Set the thresholds of a choice as `calibrate` does, whatever computes the scores.

    Parameters
    ----------
    choice : Choice
    scores : function of a batch
        Its scores, in one or more blocks of tokens; called anew on each pass over the batches.
    batches : iterable of (tokens, d_model) tensors

    Raises
    ------
    InputError
        If there is no batch.
    """
    all_batches = list(batches)
    tokens = choice.world.total(sum(x.shape[0] for x in all_batches))
    _require_tokens(tokens)
    choice.calibrate(_ScoreBlocks(scores, all_batches), tokens)


def require_several(batches: Any) -> None:
    """Refuse one tensor in place of batches, whose rows would be taken for them.

    Raises
    ------
    InputError
        If it is one, or an array.
    """
    if isinstance(batches, (Tensor, np.ndarray)) and batches.ndim < 3:
        raise InputError(
            f"batches: expected several (tokens, d_model) tensors, found one {type(batches).__name__} of shape "
            f"{tuple(batches.shape)}; pass x.split(2048) of a tensor x"
        )


def _require_tokens(tokens: int) -> None:
    if tokens == 0:
        raise InputError("batches: calibration needs at least one token of activations, found none")


@dataclass(frozen=True)
class _ScoreBlocks:
    """The scores of every batch, as often as they are read."""

    scores: Callable[[Any], Iterable[Any]]
    batches: list[Any]

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(map(self.scores, self.batches))
