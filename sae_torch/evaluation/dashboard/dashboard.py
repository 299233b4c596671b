"""What is shown of every feature, written to a file in parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.shards import Activations
from sae_torch.evaluation.dashboard.blocks import FEATURES_AT_ONCE, FORMAT, WINDOWS_AT_ONCE, BlockWriter
from sae_torch.evaluation.dashboard.examples import histogram, picked, quantiles
from sae_torch.evaluation.dashboard.firings import Firings, firings
from sae_torch.evaluation.dashboard.text import places, window_texts
from sae_torch.evaluation.lens import LogitEffects, logit_effects
from sae_torch.evaluation.metrics import Quality
from sae_torch.files import replacing
from sae_torch.sparse_coder import SparseCoder

# Text that the dashboard shows: the rest counts in densities alone, so that a page stays readable by a browser.
TOKENS = 2**19
NEAREST = 5
LABELS = 4
LOGITS = 10


def write_dashboard(
    file: Path,
    sae: SparseCoder,
    quality: Quality,
    activations: Activations,
    language_model: LanguageModel,
    *,
    tokens: int = TOKENS,
    progress: str | None = None,
) -> None:
    """Write the pages of all features: histogram, quantiles, examples, logits, nearest features; and their text.

    Memory holds one block of features at a time, beside the text and some numbers for each feature and token.

    Parameters
    ----------
    file : path
        What to write, for `render_report`; it is whole or not there.
    sae : SparseAutoencoder or Transcoder
        The autoencoder.
    quality : Quality
        Measured on all of `activations`: it gives the densities.
    activations : Activations
        Held-out activations, whose shards hold the text; for a transcoder its inputs.
    language_model : LanguageModel
        The model they come from.
    tokens : int
        How many of them, the first, give histograms and examples.
    progress : str, optional
        Label of a progress bar; None shows none.
    """
    tokens = min(tokens, len(activations))
    window, position = places(activations, tokens)
    count = int(window[-1]) + 1
    file.parent.mkdir(parents=True, exist_ok=True)
    with firings(sae, activations, tokens, progress) as fired, replacing(file) as beside, BlockWriter(beside) as writer:
        texts, documents = [], []
        for pieces, starts in window_texts(activations, language_model.tokenizer, count):
            texts.append(pieces)
            documents.append(starts)
        digest = writer.put("text", {"windows": texts, "documents": documents})
        pages = _Pages(sae, fired, window, position, texts, language_model)
        writer.put_many("features", pages.records(), FEATURES_AT_ONCE)
        writer.put_many("tokens", _readings(fired, window, position, count, len(texts[0])), WINDOWS_AT_ONCE)
        writer.put("labels", {"words": pages.words, "logits": pages.logits, "tops": pages.tops})
        index = {
            "format": FORMAT,
            "text": digest,
            "features": None,
            "n_features": sae.n_features,
            "n_tokens": quality.n_tokens,
            "shown_tokens": tokens,
            "length": len(texts[0]),
            "ranks": None,
            "counts": quality.counts.tolist(),
            "largest": pages.largest,
            "cosines": pages.cosines,
        }
        writer.put("index", index)


class _Pages:
    """Records of all features in order, and what the list of features shows of each."""

    def __init__(
        self,
        sae: SparseCoder,
        fired: Firings,
        window: Any,
        position: Any,
        texts: Sequence[Sequence[str]],
        language_model: LanguageModel,
    ) -> None:
        self.sae, self.fired, self.window, self.position, self.texts = sae, fired, window, position, texts
        self.language_model = language_model
        self.decoded: dict[int, str] = {}
        self.words: list[str] = []
        self.logits: list[str] = []
        self.tops: list[list[int]] = []
        self.largest: list[float] = []
        self.cosines: list[float] = []

    def records(self) -> Iterator[dict[str, Any]]:
        rows = torch.nn.functional.normalize(self.sae.W_dec.detach().float(), dim=1)
        for start in range(0, self.sae.n_features, FEATURES_AT_ONCE):
            block = range(start, min(start + FEATURES_AT_ONCE, self.sae.n_features))
            effects = logit_effects(self.language_model, self.sae.W_dec, block, LOGITS, self.decoded)
            for feature, near, effect in zip(block, nearest(rows, block), effects, strict=True):
                yield self._record(feature, near, effect)

    def _record(self, feature: int, near: list[tuple[int, float]], effect: LogitEffects) -> dict[str, Any]:
        rows, values = self.fired.of(feature)
        windows, positions = self.window[rows], self.position[rows]
        examples, tops, words = [], [], []
        for group, entry in picked(values, windows):
            here = int(windows[entry])
            part = slice(*np.searchsorted(windows, [here, here + 1]))
            shades = [
                number
                for place, value in zip(positions[part].tolist(), values[part].tolist(), strict=True)
                for number in (place, rounded(value))
            ]
            at = int(positions[entry])
            examples.append([group, here, at, shades])
            if group == 0:
                tops.append(here * len(self.texts[0]) + at)
                words.append(self.texts[here][at].strip() or self.texts[here][at])
        self.words.append(" · ".join(list(dict.fromkeys(words))[:LABELS]))
        self.logits.append("\n".join([*effect.promotes, *effect.suppresses]))
        self.tops.append(tops)
        self.largest.append(rounded(float(values.max())) if len(values) else 0)
        self.cosines.append(near[0][1] if near else 0)
        return {
            "fires": len(values),
            "histogram": histogram(values),
            "quantiles": [rounded(value) for value in quantiles(values)],
            "nearest": near,
            "promotes": list(zip(effect.promotes, map(rounded, effect.raised), strict=True)),
            "suppresses": list(zip(effect.suppresses, map(rounded, effect.lowered), strict=True)),
            "examples": examples,
        }


def nearest(rows: Tensor, block: range, count: int = NEAREST) -> list[list[tuple[int, float]]]:
    """Other rows with the largest cosine, the closest first.

    Parameters
    ----------
    rows : (features, d_model) float tensor
        Of norm 1.
    block : range
        The rows that are asked about.
    count : int
        How many of each, as far as there are.
    """
    cosines = rows[block.start : block.stop] @ rows.T
    own = torch.arange(len(block), device=rows.device)
    cosines[own, own + block.start] = -torch.inf
    best = cosines.topk(min(count, len(rows) - 1), dim=1)
    return [
        [(feature, round(cosine, 3)) for feature, cosine in zip(*pair, strict=True)]
        for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def rounded(value: float) -> float:
    """Four digits, as a page shows them at most."""
    return float(f"{value:.4g}")


def _readings(fired: Firings, window: Any, position: Any, count: int, length: int) -> Iterator[list[list[float]]]:
    """For each window its tokens with their strongest features: feature, activation, feature, activation, ..."""
    for one in range(count):
        tokens: list[list[float]] = [[] for _ in range(length)]
        start, end = np.searchsorted(window, [one, one + 1])
        for row in range(start, end):
            for feature, value in zip(fired.features[row].tolist(), fired.strengths[row].tolist(), strict=True):
                if feature >= 0:
                    tokens[int(position[row])] += [feature, rounded(value)]
        yield tokens
