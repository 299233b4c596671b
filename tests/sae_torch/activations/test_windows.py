from __future__ import annotations

import pytest
import torch

from sae_torch.activations import Document, LanguageModel, pack_windows
from sae_torch.errors import InputError


def test_windows_are_the_concatenation_cut_and_shuffled(tiny_language_model: LanguageModel) -> None:
    words = [f"w{i % 60}" for i in range(105)]
    documents = [Document("first", " ".join(words[:33])), Document("second", " ".join(words[33:]))]
    windows = pack_windows(tiny_language_model.tokenizer, documents, length=10, seed=0)
    assert windows.token_ids.shape == (10, 10)  # 105 words: the last 5 do not fill a window
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    # word i has id i % 60 + 1, and no special token is added
    expected = (torch.arange(100) % 60 + 1).view(10, 10)[order]
    assert torch.equal(windows.token_ids.long(), expected)
    owners = (torch.arange(100) >= 33).view(10, 10)[order]
    assert torch.equal(windows.documents.bool(), owners)
    assert windows.names == ("first", "second")


def test_text_shorter_than_a_window_is_refused(tiny_language_model: LanguageModel) -> None:
    with pytest.raises(InputError, match="text: expected at least one window of 10 tokens, found 3 tokens"):
        pack_windows(tiny_language_model.tokenizer, [Document("short", "w1 w2 w3")], length=10)
