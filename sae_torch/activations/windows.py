"""Packing of documents into context windows of one length."""

from __future__ import annotations

from collections.abc import Iterable
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
    token_ids : (windows, length) int32
        The tokens.
    documents : (windows, length) int32
        For each token the index of its document in `names`.
    names : tuple of str
        Names of the documents.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.activations import Windows
    >>> len(Windows(torch.zeros(3, 8, dtype=torch.int32), torch.zeros(3, 8, dtype=torch.int32), ("one",)))
    3
    """

    token_ids: Tensor
    documents: Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def part(self, start: int, stop: int) -> Windows:
        """Some of them, which lie one after another."""
        return Windows(self.token_ids[start:stop], self.documents[start:stop], self.names)


def pack_windows(
    tokenizer: Any, documents: Iterable[Document], length: int, seed: int = 0, begin: int | None = None
) -> Windows:
    """Tokenise documents, concatenate them, cut windows and shuffle the windows.

    No special token is added but `begin`. The incomplete window at the end is dropped. A window may cross from one
    document into the next, so that every window is full.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        A transformers tokenizer.
    documents : iterable of Document
        Documents in the order of concatenation.
    length : int
        Tokens per window.
    seed : int
        Seed of the torch permutation of the windows.
    begin : int, optional
        Token that every window begins with, at position 0, as a part of its length and of the document after it.

    Raises
    ------
    InputError
        If the documents together do not fill one window.

    Examples
    --------
    >>> from sae_torch.activations import Document, pack_windows
    >>> def tokenizer(text, **options):
    ...     return {"input_ids": [ord(letter) for letter in text]}
    >>> windows = pack_windows(tokenizer, [Document("one", "abc"), Document("two", "de")], length=2)
    >>> windows.token_ids.shape
    torch.Size([2, 2])
    """
    ids: list[Tensor] = []
    owners: list[Tensor] = []
    names: list[str] = []
    for index, document in enumerate(documents):
        ids.append(encoded(tokenizer, document.text))
        owners.append(torch.full((len(ids[-1]),), index, dtype=torch.int32))
        names.append(document.name)
    total = sum(len(part) for part in ids)
    own = length - (begin is not None)
    count = total // own
    if count == 0:
        raise InputError(f"text: expected at least one window of {own} tokens, found {total} tokens")
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    cut = slice(0, count * own)
    token_ids = torch.cat(ids)[cut].view(count, own)[order]
    places = torch.cat(owners)[cut].view(count, own)[order]
    return with_beginning(token_ids, places, tuple(names), begin)


def encoded(tokenizer: Any, text: str) -> Tensor:
    """Tokens of a text, int32, without special ones."""
    # verbose=False: the tokenizer would warn that a whole document exceeds the model's context
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.int32)


def with_beginning(token_ids: Tensor, documents: Tensor, names: tuple[str, ...], begin: int | None) -> Windows:
    """Windows of tokens, before each the one that begins it, which belongs to the document after it."""
    if begin is not None:
        token_ids = torch.cat([torch.full((len(token_ids), 1), begin, dtype=torch.int32), token_ids], dim=1)
        documents = torch.cat([documents[:, :1], documents], dim=1)
    return Windows(token_ids, documents, names)
