"""GGUF files whose tokenizer cuts text in a way that transformers does not know."""

from __future__ import annotations

import importlib
from pathlib import Path

import gguf
import pytest

from sae_torch.activations.gguf_text_cuts import require_known_cuts
from sae_torch.activations.language_model import load_tokenizer
from sae_torch.errors import InputError

DIGITS = "0123456789"
MERGES = ["4 5", "3 45", "1 2", "12 3"]


def file_with(folder: Path, cuts: str | None, kind: str = "gpt2") -> Path:
    """A file without weights, whose merges make 12 345 of 12345 uncut, and 123 45 of it in threes."""
    path = folder / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [*DIGITS, *(merge.replace(" ", "") for merge in MERGES), "<end>"]
    for name in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"llama.{name}", 8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(kind)
    if cuts is not None:
        writer.add_tokenizer_pre(cuts)
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(MERGES)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("cuts", "found"),
    [
        ("gpt-2", ["12", "345"]),
        ("llama-bpe", ["123", "45"]),
        ("qwen2", ["1", "2", "3", "4", "5"]),
    ],
)
def test_known_cuts_are_those_of_transformers(tmp_path: Path, cuts: str | None, found: list[str]) -> None:
    tokenizer = load_tokenizer(str(file_with(tmp_path, cuts)))
    assert tokenizer.tokenize("12345") == found


@pytest.mark.parametrize(("cuts", "said"), [(None, "nothing"), ("default", "default")])
def test_cuts_that_a_file_does_not_say_are_warned_of(tmp_path: Path, cuts: str | None, said: str) -> None:
    """llama.cpp cuts such a text in threes."""
    path = file_with(tmp_path, cuts)
    with pytest.warns(UserWarning, match=f"^{path}: tokenizer.ggml.pre: .* found {said}; it is cut as GPT-2 does"):
        tokenizer = load_tokenizer(str(path))
    assert tokenizer.tokenize("12345") == ["12", "345"]


@pytest.mark.parametrize("cuts", ["stablelm2", "deepseek-v3", "glm4", "no-such-name"])
def test_cuts_that_transformers_takes_for_gpt_2s_are_refused(tmp_path: Path, cuts: str) -> None:
    path = file_with(tmp_path, cuts)
    with pytest.raises(InputError, match=f"^{path}: tokenizer.ggml.pre: expected .*, found '{cuts}', .* GPT-2's"):
        load_tokenizer(str(path))


def test_pieces_of_sentencepiece_have_no_cuts(tmp_path: Path) -> None:
    require_known_cuts(file_with(tmp_path, "no-such-name", kind="llama"))


def test_digits_alone_and_a_transformers_without_a_table_pass(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    require_known_cuts(file_with(tmp_path, "smollm"))
    # a transformers without a table went by the family
    table = importlib.import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
    monkeypatch.delattr(table, "GGUF_PRE_TOKENIZER_SPLITS")
    require_known_cuts(file_with(tmp_path, "glm4"))
