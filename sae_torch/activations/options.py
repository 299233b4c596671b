"""A harvest as plain values, for the command line and for files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from sae_torch.activations.corpora import SOTU, text_source
from sae_torch.activations.harvesting import HarvestConfig
from sae_torch.activations.language_model import SMOLLM2


@dataclass(frozen=True)
class HarvestOptions:
    """Activations of a language model."""

    tokens: int = 250_000
    """Activations to harvest."""
    model: str = SMOLLM2
    """Packaged model, folder, GGUF file, or any model name that transformers knows."""
    site: str = "hidden_states[11]"
    """Hidden-state index as transformers numbers it, or the path of a module."""
    text: str = SOTU
    """sotu (State of the Union addresses), folder of .txt files, .jsonl file, or dataset as name or name:split."""
    text_field: str = "text"
    """Of JSON lines and datasets: where the text is."""
    held_out: float = 0.05
    """Share of the documents held out for test, and as many again for development; sotu has a split of its own."""
    window: int = 128
    """Tokens per context window."""
    seed: int = 0
    """Seed of the order of the windows."""
    norm_multiple: float = 10.0
    """Tokens whose norm exceeds this multiple of their shard's median norm are dropped."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; auto is bfloat16 where the device has it, else float32."""
    stored: Literal["float16", "bfloat16", "float32"] = "float16"
    """Of the activations in the shards."""
    keep_first: bool = False
    """Keep position 0 of each window, where many models hold outliers."""
    windows_per_shard: int = 128
    """Windows in one shard: what an interruption costs at most."""
    windows_per_batch: int = 16
    """Windows in one forward pass."""
    device: str = "cpu"
    """Where the language model runs."""
    cache: Path | None = None
    """Cache folder; by default sae-allocation in the user's cache folder."""

    def config(self) -> HarvestConfig:
        """What is harvested."""
        dtype: torch.dtype | None = None if self.dtype == "auto" else getattr(torch, self.dtype)
        return HarvestConfig(
            model=self.model,
            site=self.site,
            text=text_source(self.text, self.text_field, self.held_out),
            window=self.window,
            seed=self.seed,
            norm_multiple=self.norm_multiple,
            dtype=dtype,
            stored=getattr(torch, self.stored),
            keep_first=self.keep_first,
            windows_per_shard=self.windows_per_shard,
            windows_per_batch=self.windows_per_batch,
            device=self.device,
        )
