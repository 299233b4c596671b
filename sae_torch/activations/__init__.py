"""Activations of a language model: text, harvest, shards on disk, shuffled reading."""

from __future__ import annotations

from sae_torch.activations.config import HarvestConfig, HarvestOptions
from sae_torch.activations.corpora import Corpus, text_source
from sae_torch.activations.files import open_activations
from sae_torch.activations.harvesting import cache_folder, harvest, harvest_pairs, harvest_sites, plan
from sae_torch.activations.language_model import LanguageModel, load_language_model
from sae_torch.activations.live import LiveReader
from sae_torch.activations.pairs import Pairs
from sae_torch.activations.reader import ActivationReader, Stream
from sae_torch.activations.rows import ArrayRows, Rows
from sae_torch.activations.shards import Activations, CorruptShardError
from sae_torch.activations.streams import StreamedText
from sae_torch.activations.text import Document, StateOfTheUnion, TextSource
from sae_torch.activations.windows import Windows, pack_windows

__all__ = [
    "ActivationReader",
    "Activations",
    "ArrayRows",
    "Corpus",
    "CorruptShardError",
    "Document",
    "HarvestConfig",
    "HarvestOptions",
    "LanguageModel",
    "LiveReader",
    "Pairs",
    "Rows",
    "StateOfTheUnion",
    "Stream",
    "StreamedText",
    "TextSource",
    "Windows",
    "cache_folder",
    "harvest",
    "harvest_pairs",
    "harvest_sites",
    "load_language_model",
    "open_activations",
    "pack_windows",
    "plan",
    "text_source",
]
