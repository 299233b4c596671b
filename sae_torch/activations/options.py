"""A harvest as plain values, for the command line and for files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

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
    window: int = 128
    """Tokens per context window."""
    norm_multiple: float = 10.0
    """Tokens whose norm exceeds this multiple of their shard's median norm are dropped."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the forward pass; auto is bfloat16 where the device has it, else float32."""
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
            window=self.window,
            norm_multiple=self.norm_multiple,
            dtype=dtype,
            device=self.device,
        )
