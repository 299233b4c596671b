"""The text of windows, cut into the pieces that their tokens stand for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sae_torch.activations.shards import Activations

# What a decoder writes for bytes of a character that is not complete yet.
INCOMPLETE = "\ufffd"


def places(activations: Activations, tokens: int) -> tuple[Any, Any]:
    """Window of each of the first rows, numbered over all shards, and its position in the window; both int64."""
    windows, positions, before = [], [], 0
    for shard in activations.shards:
        windows.append(shard.window.numpy().astype(np.int64) + before)
        positions.append(shard.position.numpy().astype(np.int64))
        before += len(shard.token_ids)
    return np.concatenate(windows)[:tokens], np.concatenate(positions)[:tokens]


def window_texts(
    activations: Activations, tokenizer: Any, windows: int
) -> Iterator[tuple[list[str], list[tuple[int, str]]]]:
    """Pieces of text of the first windows, and where documents begin in them.

    Yields
    ------
    list of str, list of (int, str)
        A piece for each token, which together are the text; position and name of each document.
    """
    alone: dict[int, str] = {}
    for ids, documents, names in itertools.islice(_windows(activations), windows):
        starts = [i for i in range(len(ids)) if i == 0 or documents[i] != documents[i - 1]]
        yield pieces(tokenizer, ids, alone), [(start, names[documents[start]]) for start in starts]


def pieces(tokenizer: Any, ids: Sequence[int], alone: dict[int, str]) -> list[str]:
    """The part of the text that each token adds; a character goes to the token that completes it.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    ids : sequence of int
        Tokens of one window.
    alone : dict of int to str
        Tokens decoded before, to which others are added.

    Returns
    -------
    list of str
        As many as tokens; together they are the decoded window.
    """
    for token_id in ids:
        if token_id not in alone:
            alone[token_id] = tokenizer.decode([token_id])
    whole = tokenizer.decode(list(ids))
    parts = [alone[token_id] for token_id in ids]
    if "".join(parts) == whole and INCOMPLETE not in whole:
        return parts
    # tokens that change beside others, such as bytes of one character: the text of every beginning
    ends = [0]
    for count in range(1, len(ids)):
        text = tokenizer.decode(list(ids[:count])).rstrip(INCOMPLETE)
        # a beginning that later tokens change ends where both agree
        agreed = next(
            (i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), min(len(text), len(whole))
        )
        ends.append(max(agreed, ends[-1]))
    ends.append(len(whole))
    return [whole[start:end] for start, end in itertools.pairwise(ends)]


def _windows(activations: Activations) -> Iterator[tuple[list[int], list[int], list[str]]]:
    for shard in activations.shards:
        names: list[str] = json.loads(shard.header["documents"])
        for ids, documents in zip(shard.token_ids, shard.documents, strict=True):
            yield ids.tolist(), documents.tolist(), names
