"""How a GGUF file's tokenizer cuts text before it merges: where transformers does not know how, it cuts as GPT-2."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

from sae_torch.activations.gguf_header import GgufHeader
from sae_torch.errors import InputError

# By llama.cpp's source these cut as GPT-2 does.
_AS_GPT_2 = frozenset(
    {
        "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "modern-bert", "roberta-bpe", "jina-es", "jina-de",
        "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code", "exaone4", "mpt", "olmo", "jais", "trillion",
        "granite-docling",
    }
)  # fmt: skip
# These put every digit alone besides. Their merges join none, so that GPT-2's cuts give the same tokens.
_DIGITS_ALONE = frozenset(
    {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"}
)  # fmt: skip


def require_known_cuts(file: Path) -> None:
    """Refuse a file for whose text transformers would find other tokens than the model was trained with.

    A file that says nothing, or ``default``, does not tell how the model's text was cut. transformers cuts it as GPT-2
    does, llama.cpp puts numbers in threes and marks apart from letters.

    Warns
    -----
    UserWarning
        If the file merges bytes, and says ``default`` or nothing of how to cut text.

    Raises
    ------
    InputError
        If the file merges bytes, and names a way to cut text that is neither GPT-2's nor known to transformers.
    """
    entries = GgufHeader.read(file).entries
    cuts = entries.get("tokenizer.ggml.pre")
    if entries.get("tokenizer.ggml.model") != "gpt2" or cuts in (*_AS_GPT_2, *_DIGITS_ALONE):
        return
    known = _known_to_transformers()
    if cuts in (None, "default"):
        if known is not None and cuts not in known:
            warnings.warn(
                f"{file}: tokenizer.ggml.pre: expected how text is cut, found {cuts or 'nothing'}; it is cut as GPT-2 "
                "does, where llama.cpp cuts numbers in threes, so that numbers and marks may get other tokens",
                UserWarning,
                stacklevel=2,
            )
        return
    if known is not None and cuts not in known:
        raise InputError(
            f"{file}: tokenizer.ggml.pre: expected a way to cut text that transformers knows, found {cuts!r}, which it "
            "would take for GPT-2's, so that numbers and words get other tokens; use the model's own folder"
        )


def _known_to_transformers() -> frozenset[str] | None:
    """Names in its table; None before there was one, when the family decided."""
    try:
        module = importlib.import_module("transformers.integrations.gguf.gguf_tokenizer_mapping")
        return frozenset(module.GGUF_PRE_TOKENIZER_SPLITS)
    except (ImportError, AttributeError):
        return None
