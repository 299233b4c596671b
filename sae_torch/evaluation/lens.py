"""The logit lens: what a feature's direction says through the model's own head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.activations.language_model import LanguageModel

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class LogitEffects:
    """What a feature's direction does to the logits of the model.

    Parameters
    ----------
    promotes, suppresses : tuple of str
        Tokens whose logits are highest, and lowest; strongest first. Empty if the model has no head.
    raised, lowered : tuple of float
        Their logits.
    """

    promotes: tuple[str, ...] = ()
    suppresses: tuple[str, ...] = ()
    raised: tuple[float, ...] = ()
    lowered: tuple[float, ...] = ()


def logit_lens(
    language_model: LanguageModel, W_dec: Tensor, features: Sequence[int], count: int = 6
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tokens that the decoder rows of some features promote and suppress most, see `logit_effects`.

    Parameters
    ----------
    language_model : LanguageModel
        The model whose activations the autoencoder explains.
    W_dec : (features, d_model) float tensor
        Decoder, on any device.
    features : sequence of int
        Which rows.
    count : int
        Tokens on each side.

    Returns
    -------
    list of (tuple of str, tuple of str)
        For each feature, the tokens it promotes, strongest first, and those it suppresses; empty if the model has no
        head.
    """
    return [(one.promotes, one.suppresses) for one in logit_effects(language_model, W_dec, features, count)]


def logit_effects(
    language_model: LanguageModel,
    W_dec: Tensor,
    features: Sequence[int],
    count: int = 6,
    words: dict[int, str] | None = None,
) -> list[LogitEffects]:
    """Logits of the decoder rows of some features, the highest and the lowest.

    ``logits_j = head(norm(W_dec_j))``, the final norm and the head of the model, nothing in between

    Source: nostalgebraist 2020, "interpreting GPT: the logit lens".

    Parameters
    ----------
    language_model : LanguageModel
        The model whose activations the autoencoder explains.
    W_dec : (features, d_model) float tensor
        Decoder, on any device.
    features : sequence of int
        Which rows.
    count : int
        Tokens on each side, as far as there are.
    words : dict of int to str, optional
        Tokens decoded before, to which others are added.

    Returns
    -------
    list of LogitEffects
        For each feature.
    """
    known = {} if words is None else words
    head = _head(language_model.model)
    if head is None:
        return [LogitEffects() for _ in features]
    weight = next(head.parameters())
    norm = _final_norm(language_model.model)
    effects = []
    with torch.no_grad():
        for part in torch.split(torch.tensor(list(features), dtype=torch.int64), ROWS_AT_ONCE):
            rows = W_dec.detach()[part.to(W_dec.device)].to(weight.device, weight.dtype)
            logits = head(rows if norm is None else norm(rows)).float()
            shown = min(count, logits.shape[1])
            top, bottom = logits.topk(shown, dim=1), logits.topk(shown, dim=1, largest=False)
            effects += [
                LogitEffects(
                    _words(language_model.tokenizer, high, known),
                    _words(language_model.tokenizer, low, known),
                    tuple(raised),
                    tuple(lowered),
                )
                for high, low, raised, lowered in zip(
                    top.indices.tolist(), bottom.indices.tolist(), top.values.tolist(), bottom.values.tolist(),
                    strict=True,
                )
            ]  # fmt: skip
    return effects


def _words(tokenizer: Any, token_ids: list[int], known: dict[int, str]) -> tuple[str, ...]:
    for token_id in token_ids:
        if token_id not in known:
            known[token_id] = tokenizer.decode([token_id])
    return tuple(known[token_id] for token_id in token_ids)


def _head(model: Any) -> nn.Module | None:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head if isinstance(head, nn.Module) else None


def _final_norm(model: Any) -> nn.Module | None:
    base = getattr(model, "base_model", model)
    for name in FINAL_NORMS:
        norm = getattr(base, name, None)
        if isinstance(norm, nn.Module):
            return norm
    return None
