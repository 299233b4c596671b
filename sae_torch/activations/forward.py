"""Windows of text through a language model: activations at every site asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn

from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.layout import token_rows
from sae_torch.activations.model_call import text_config
from sae_torch.activations.shards import Shard
from sae_torch.activations.sites import hidden_state, outputs_at
from sae_torch.activations.windows import Windows
from sae_torch.errors import InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from sae_torch.activations.config import HarvestConfig


def require_length(language_model: LanguageModel, window: int) -> None:
    """Refuse windows longer than the model's context.

    Raises
    ------
    InputError
        If they are.
    """
    longest = _positions(language_model.model)
    if longest is not None and window > longest:
        raise InputError(f"window: expected at most the {longest} positions of {language_model.name}, found {window}")


def _positions(model: nn.Module) -> int | None:
    """Tokens that a window may have; None where the configuration names no limit."""
    config = text_config(model)
    names = ("max_position_embeddings", "max_seq_len", "max_target_positions")
    longest = next((value for name in names if (value := getattr(config, name, None)) is not None), None)
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        # RoBERTa and its kin count positions from the row after that of padding
        if name.endswith("position_embeddings") and padding is not None and module.weight.shape[0] == longest:
            return int(longest - padding - 1)
    return longest


def shards_of(
    config: HarvestConfig,
    sites: Sequence[str],
    language_model: LanguageModel,
    windows: Windows,
    headers: Mapping[str, dict[str, str]],
    bar: tqdm[NoReturn],
) -> dict[str, Shard]:
    """Activations of the windows of a shard at every site, from one pass through the model.

    Parameters
    ----------
    config : HarvestConfig
        How they are harvested.
    sites : sequence of str
        Where they are taken.
    language_model : LanguageModel
        The model.
    windows : Windows
        Those of the shard.
    headers : mapping of str to dict
        Provenance by site; the names of the documents are added.
    bar : tqdm
        Progress bar, moved on by the tokens after position 0.

    Returns
    -------
    dict of str to Shard

    Raises
    ------
    InputError
        If an activation is not finite or too large for the type in the shards.
    """
    token_ids = windows.token_ids
    read = tuple(dict.fromkeys([*sites, *([] if config.rows_of is None else [config.rows_of])]))
    hidden: dict[str, list[Tensor]] = {site: [] for site in read}
    for batch in torch.split(token_ids, config.windows_per_batch):
        outputs = outputs_at(language_model.model, read, batch.to(language_model.device))
        for site, output in zip(read, outputs, strict=True):
            rows = token_rows(hidden_state(output), *batch.shape)
            hidden[site].append(rows.to("cpu", torch.float32))
        bar.update(batch.shape[0] * (batch.shape[1] - 1))
    documents, names = _named(windows)
    whole = {site: torch.cat(parts) for site, parts in hidden.items()}
    usable = {site: _usable(config, whole[config.rows_of or site]) for site in sites}
    return {
        site: _shard(
            config, site, whole[site], usable[site], token_ids, documents, headers[site] | {"documents": names}
        )
        for site in sites
    }


def _usable(config: HarvestConfig, hidden: Tensor) -> Tensor:
    """The tokens that are neither at position 0 nor of extreme norm, (windows, length) bool."""
    first = 0 if config.keep_first else 1
    norms = hidden.norm(dim=-1)
    usable = torch.zeros(norms.shape, dtype=torch.bool)
    # position 0 never moves the median; not "norms <= ...": a NaN must reach the check below, not leave in silence
    usable[:, first:] = ~(norms[:, first:] > config.norm_multiple * norms[:, 1:].median())
    return usable


def _shard(
    config: HarvestConfig, site: str, hidden: Tensor, usable: Tensor, token_ids: Tensor, documents: Tensor,
    header: dict[str, str],
) -> Shard:  # fmt: skip
    """The rows that are used, and the text they come from."""
    window, position = usable.nonzero(as_tuple=True)
    stored = hidden[usable].to(config.stored)
    if not torch.isfinite(stored).all():
        largest, name = float(hidden[usable].abs().max()), str(config.stored).removeprefix("torch.")
        raise InputError(
            f"activations at {site}: expected finite values of at most {torch.finfo(config.stored).max:.6g}, so that "
            f"{name} can hold them, found {largest:.3g}; choose another site or store another type"
        )
    return Shard(
        activations=stored,
        window=window.to(torch.int32),
        position=position.to(torch.int32),
        token_ids=token_ids.clone(),
        documents=documents,
        header=header,
    )


def _named(windows: Windows) -> tuple[Tensor, str]:
    """For each token the index of its document in the names that occur there, and those names as JSON."""
    occurring, documents = torch.unique(windows.documents, return_inverse=True)
    return documents.to(torch.int32), json.dumps([windows.names[index] for index in occurring.tolist()])
