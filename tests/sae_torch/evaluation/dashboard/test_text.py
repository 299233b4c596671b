"""Text cut into the pieces of its tokens: together they are the text, whatever the tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sae_torch.evaluation.dashboard.text import pieces


class Bytes:
    """Tokens are bytes: most characters outside ASCII take several."""

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


class Words:
    """Tokens are words with the space before, which the first one of a text loses, as SentencePiece has it."""

    def decode(self, ids: list[int]) -> str:
        return "".join(f" w{token_id}" for token_id in ids).removeprefix(" ")


@given(some.binary(min_size=1, max_size=40) | some.text(min_size=1, max_size=20).map(str.encode))
def test_pieces_of_bytes_are_the_text(text: bytes) -> None:
    cut = pieces(Bytes(), list(text), {})
    assert len(cut) == len(text)
    assert "".join(cut) == text.decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("tokenizer", "ids", "expected"),
    [
        (Bytes(), list("aé€b".encode()), ["a", "", "é", "", "", "€", "b"]),
        (Words(), [1, 2, 3], ["w1", " w2", " w3"]),
    ],
)
def test_a_character_goes_to_the_token_that_completes_it(tokenizer: Any, ids: list[int], expected: list[str]) -> None:
    assert pieces(tokenizer, ids, {}) == expected
