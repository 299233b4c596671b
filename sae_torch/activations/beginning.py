"""The token that a model expects at the beginning of every text."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from sae_torch.activations.gguf_header import GgufHeader
from sae_torch.activations.language_model import load_tokenizer, located_model
from sae_torch.errors import InputError


def begins_texts(model: str) -> bool:
    """Whether the tokenizer of a model begins every text with its token for that, found without loading the model.

    Parameters
    ----------
    model : str
        Name, folder or GGUF file, see `load_language_model`.

    Raises
    ------
    InputError
        If transformers cannot load the tokenizer.
    """
    folder, gguf_file = located_model(model)
    if gguf_file is not None:
        return _gguf_begins(Path(folder) / gguf_file)
    place = Path(folder)
    # of a folder that is written anew the tokenizer is read anew
    written = max((file.stat().st_mtime_ns for file in place.iterdir()), default=0) if place.is_dir() else 0
    return _begins(_tokenizer(str(place.resolve()) if place.is_dir() else model, written))


def beginning(tokenizer: Any, bos: bool) -> int | None:
    """Token that windows begin with: the tokenizer's for the beginning, an encoder's ``[CLS]``; None without.

    Parameters
    ----------
    tokenizer : transformers tokenizer
        Any.
    bos : bool
        Whether windows begin with one.

    Raises
    ------
    InputError
        If one is asked for and the tokenizer has none.
    """
    if not bos:
        return None
    found = tokenizer.bos_token_id
    if found is None:
        found = tokenizer.cls_token_id
    if found is None:
        raise InputError(
            f"bos: expected a tokenizer with a token for the beginning of a text, found {type(tokenizer).__name__} "
            "without one; set it to no"
        )
    return int(found)


@functools.lru_cache(maxsize=8)
def _tokenizer(model: str, written: int) -> Any:
    return load_tokenizer(model)


def _begins(tokenizer: Any) -> bool:
    """Whether it puts its token for the beginning before a text; encoders' marks at both ends are left alone."""
    whole = tokenizer("a")["input_ids"]
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return bool(whole[:1] != plain[:1] and whole[:1] == [tokenizer.bos_token_id])


def _gguf_begins(path: Path) -> bool:
    """What the file itself says; by its kind of tokenizer where it says nothing, as its reference reader does."""
    entries = GgufHeader.read(path).entries
    return bool(entries.get("tokenizer.ggml.add_bos_token", entries.get("tokenizer.ggml.model") == "llama"))
