"""The logit lens: what a feature's direction says through the model's own head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.activations.language_model import LanguageModel

FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm")
ROWS_AT_ONCE = 256


def logit_lens(
    language_model: LanguageModel, W_dec: Tensor, features: Sequence[int], count: int = 6
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Tokens that the decoder rows of some features promote and suppress most.

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
        Tokens on each side.

    Returns
    -------
    list of (tuple of str, tuple of str)
        For each feature, the tokens it promotes, strongest first, and those it suppresses; empty if the model has no
        head.
    """
    head = _head(language_model.model)
    if head is None:
        return [((), ()) for _ in features]
    weight = next(head.parameters())
    norm = _final_norm(language_model.model)
    promoted_suppressed = []
    with torch.no_grad():
        for part in torch.split(torch.tensor(list(features), dtype=torch.int64), ROWS_AT_ONCE):
            rows = W_dec.detach()[part.to(W_dec.device)].to(weight.device, weight.dtype)
            logits = head(rows if norm is None else norm(rows)).float()
            top = logits.topk(count, dim=1).indices.tolist()
            bottom = logits.topk(count, dim=1, largest=False).indices.tolist()
            promoted_suppressed += [
                (_words(language_model.tokenizer, high), _words(language_model.tokenizer, low))
                for high, low in zip(top, bottom, strict=True)
            ]
    return promoted_suppressed


def _words(tokenizer: Any, token_ids: list[int]) -> tuple[str, ...]:
    return tuple(tokenizer.decode([token_id]) for token_id in token_ids)


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
