"""What is harvested: from which model, site and text, and how; as a recipe and as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch

from sae_torch.activations.beginning import begins_texts
from sae_torch.activations.corpora import SOTU, text_source
from sae_torch.activations.language_model import (
    SMOLLM2,
    forward_dtype,
    model_provenance,
)
from sae_torch.activations.streams import StreamedText
from sae_torch.activations.text import StateOfTheUnion, TextSource
from sae_torch.devices import AUTO, resolved_device
from sae_torch.errors import InputError

# raised when the same provenance gives other activations than before, so that old shards are not taken
_FORMAT = "1"


@dataclass(frozen=True)
class _Recipe:
    """What `HarvestConfig` and `HarvestOptions` share."""

    model: str = SMOLLM2
    """Packaged model, folder, GGUF file, or any model name that transformers knows."""
    site: str = "hidden_states[11]"
    """Hidden-state index as transformers numbers it, or the path of a module."""
    text: Any = None
    """Text source, which each says in its own way, as it does the types."""
    window: int = 128
    """Tokens per context window."""
    seed: int = 0
    """Seed of the order of the windows."""
    norm_multiple: float = 10.0
    """Tokens whose norm exceeds this multiple of their shard's median norm are dropped."""
    dtype: Any = None
    """Of the forward pass."""
    stored: Any = None
    """Of the activations in the shards."""
    keep_first: bool = False
    """Keep position 0 of each window, where many models hold outliers."""
    windows_per_shard: int = 128
    """Windows in one shard: what an interruption costs at most."""
    windows_per_batch: int = 16
    """Windows in one forward pass."""
    device: str = "cpu"
    """Where the language model runs."""
    bos: Any = None
    """Begin each window with the token that the model expects there."""


@dataclass(frozen=True)
class HarvestConfig(_Recipe):
    """What is harvested; everything that changes the activations.

    Parameters
    ----------
    model : str
        Model name, folder or GGUF file, see `load_language_model`.
    site : str
        Where activations are taken, see `sae_torch.activations.sites.resolve_site`.
    text : TextSource or StreamedText
        Text source with splits.
    window : int
        Tokens per context window.
    seed : int
        Seed of the shuffle of the windows.
    norm_multiple : float
        Tokens whose norm exceeds this multiple of their shard's median norm are dropped.
    dtype : torch.dtype or None
        Of the forward pass; None takes bfloat16 where the device has it, else float32.
    stored : torch.dtype
        Type in the shards.
    keep_first : bool
        Whether position 0 of each window is kept.
    windows_per_shard : int
        Windows in one shard: the unit of resuming.
    windows_per_batch : int
        Windows in one forward pass.
    device : str
        Where the forward pass runs.
    bos : bool or None
        Whether each window begins with the token that the model expects at the beginning of a text, at position 0; None
        asks its tokenizer. Shards whose header has no ``bos`` were harvested without.
    rows_of : str or None
        Site whose norms say which tokens are dropped; None for its own. Two sites by one rule keep the same tokens.
    """

    text: TextSource | StreamedText = field(default_factory=StateOfTheUnion)
    dtype: torch.dtype | None = None
    stored: torch.dtype = torch.float16
    bos: bool | None = None
    rows_of: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("window", 2), ("windows_per_shard", 1), ("windows_per_batch", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if not self.stored.is_floating_point:
            raise InputError(f"stored: expected a floating-point type, found {self.stored}")
        if not self.norm_multiple > 1:
            raise InputError(f"norm_multiple: expected more than 1, found {self.norm_multiple}")

    @property
    def begins(self) -> bool:
        """Whether windows begin with a token for that: `bos`, or what the tokenizer says."""
        return begins_texts(self.model) if self.bos is None else self.bos

    def provenance(self, split: str) -> dict[str, str]:
        """Identity of the activations of one split, found without loading the model."""
        dropped = f"norm above {self.norm_multiple:g} x median"
        found = {
            **model_provenance(self.model),
            **self.text.provenance,
            "site": self.site,
            "split": split,
            "window": str(self.window),
            "window_seed": str(self.seed),
            "windows_per_shard": str(self.windows_per_shard),
            "windows_per_batch": str(self.windows_per_batch),
            "dropped": dropped if self.keep_first else f"position 0, {dropped}",
            "forward_dtype": str(self.dtype or forward_dtype(self.device)).removeprefix("torch."),
            "format": _FORMAT,
        }
        if self.stored is not torch.float16:
            found["stored_dtype"] = str(self.stored).removeprefix("torch.")
        if self.begins:  # left out otherwise, so that harvests from before there was a choice are found
            found["bos"] = "yes"
        if self.rows_of not in (None, self.site):
            found["rows_of"] = self.rows_of
        return found


@dataclass(frozen=True)
class HarvestOptions(_Recipe):
    """Activations of a language model."""

    text: str = SOTU
    """sotu (State of the Union addresses), folder of .txt files, .jsonl file, or dataset as name or name:split."""
    device: str = AUTO
    """Where the language model runs; auto is the card where there is one, else the CPU."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; auto is bfloat16 where the device has it, else float32."""
    stored: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the activations in the shards."""
    tokens: int = 250_000
    """Activations to harvest."""
    text_field: str = "text"
    """Of JSON lines and datasets: where the text is."""
    stream: bool = False
    """Read the text as it is needed, for text larger than memory: windows are shuffled in blocks, not as a whole."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Several texts that stream, in place of one: each with its share of the tokens."""
    shuffle: int = 1 << 14
    """Text that streams: windows that are shuffled with one another, rounded up to whole shards."""
    held_out: float = 0.05
    """Share of the documents held out for test, and as many again for development; sotu has a split of its own."""
    cache: Path | None = None
    """Cache folder; by default sae-allocation in the user's cache folder."""
    target: str | None = None
    """Site of the targets of a transcoder, from the same pass and of the same tokens as the inputs at `site`."""
    bos: Literal["auto", "yes", "no"] = "auto"
    """Begin each window with the token that the model expects there; auto asks its tokenizer."""

    def config(self) -> HarvestConfig:
        """What is harvested."""
        shared = {part.name: getattr(self, part.name) for part in fields(_Recipe)}
        own = {
            "text": self._source(),
            "dtype": None if self.dtype == "auto" else getattr(torch, self.dtype),
            "stored": getattr(torch, self.stored),
            "device": resolved_device(self.device),
            "bos": None if self.bos == "auto" else self.bos == "yes",
        }
        return HarvestConfig(**(shared | own))

    def _source(self) -> TextSource | StreamedText:
        """The text."""
        if not (self.stream or self.mixture):
            return text_source(self.text, self.text_field, self.held_out)
        sources = tuple(self.mixture) or (self.text,)
        if SOTU in sources:
            raise InputError(f"stream: expected a text of your own, found {SOTU}, which is small and held in memory")
        given = (self.text_field, self.held_out)
        return StreamedText(sources, tuple(self.mixture.values()), *given, shuffle=self.shuffle)

    def __post_init__(self) -> None:
        if self.mixture and self.text != SOTU:
            raise InputError(f"mixture: expected it in place of text, found text {self.text} beside it")
        if self.mixture and len(self.mixture) < 2:
            raise InputError("mixture: expected at least two texts, found one; give it as text, with stream")
