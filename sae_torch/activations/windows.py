"""Packing of documents into context windows of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_torch.activations.text import Document
from sae_torch.errors import InputError


@dataclass(frozen=True)
class Windows:
    """Shuffled context windows.

    Parameters
    ----------
    token_ids
        ``(windows, length)`` int32.
    documents
        ``(windows, length)`` int32, for each token the index of its document in `names`.
    names
        Names of the documents.
    """

    token_ids: Tensor
    documents: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.token_ids.shape[0]


def pack_windows(tokenizer: Any, documents: Sequence[Document], length: int, seed: int = 0) -> Windows:
    """Tokenise documents, concatenate them, cut windows and shuffle the windows.

    No special token is added; the incomplete window at the end is dropped. A window may cross from one
    document into the next, which keeps every window full.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    documents
        Documents in the order of concatenation.
    length
        Tokens per window.
    seed
        Seed of the torch permutation of the windows.

    Raises
    ------
    InputError
        If the documents together do not fill one window.
    """
    ids: list[Tensor] = []
    owners: list[Tensor] = []
    for index, document in enumerate(documents):
        # verbose=False: the tokenizer would warn that a whole document exceeds the model's context
        encoded = tokenizer(document.text, add_special_tokens=False, verbose=False)["input_ids"]
        ids.append(torch.tensor(encoded, dtype=torch.int32))
        owners.append(torch.full((len(encoded),), index, dtype=torch.int32))
    total = sum(len(part) for part in ids)
    count = total // length
    if count == 0:
        raise InputError(f"the text holds {total} tokens, expected at least one window of {length}")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = slice(0, count * length)
    return Windows(
        token_ids=torch.cat(ids)[cut].view(count, length)[order],
        documents=torch.cat(owners)[cut].view(count, length)[order],
        names=tuple(document.name for document in documents),
    )
