"""Steers SmolLM2 with one feature, and writes the table of the guide: `python docs/scripts/steer.py` after `make demo`.

The feature is not picked by hand: of the balanced-choice autoencoder of the demo it is the one that tells tokens of the
word best from all other held-out tokens. The strengths are multiples of its mean activation on them.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sae_torch as st
import torch
import transformers
from sae_torch.activations import Activations, HarvestConfig, harvest, load_language_model

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "assets" / "tables" / "steering.md"
SITE, TOKENS = "hidden_states[11]", 16_000
PROMPTS = ("My favourite memory is", "The most important thing in life is")
STRENGTHS = (0.0, 2.0, 3.0, 4.0, 8.0)


@dataclass(frozen=True)
class Telling:
    """A feature, how well it tells a word from other tokens, and how strong it is there."""

    feature: int
    recall: float
    precision: float
    mean: float
    times: int


def telling(sae: st.SparseAutoencoder, activations: Activations, word_ids: set[int]) -> Telling:
    """The feature with the largest harmonic mean of recall and precision, as a detector of the word."""
    parts = []
    for rows in torch.split(torch.arange(len(activations)), 2048):
        with torch.no_grad():
            codes = sae.encode(activations.gather(rows))
        parts.append((codes.tokens + rows[0], codes.features, codes.values))
    tokens, features, values = (torch.cat(part) for part in zip(*parts, strict=True))
    ids = torch.cat([s.token_ids[s.window.long(), s.position.long()] for s in activations.shards])[: len(activations)]
    is_word = torch.isin(ids, torch.tensor(sorted(word_ids), dtype=ids.dtype))
    times = int(is_word.sum())
    fires = torch.bincount(features, minlength=sae.n_features)
    hits = torch.bincount(features[is_word[tokens]], minlength=sae.n_features)
    best = int((2 * hits / (fires + times)).argmax())
    mean = values[is_word[tokens] & (features == best)].mean()
    return Telling(best, float(hits[best]) / times, float(hits[best] / fires[best]), float(mean), times)


def generate(model: Any, tokenizer: Any, prompt: str, length: int = 24) -> str:
    """The greedy continuation."""
    inputs = tokenizer(prompt, return_tensors="pt")
    options = {"max_new_tokens": length, "do_sample": False, "repetition_penalty": 1.2, "pad_token_id": 0}
    with torch.no_grad():
        out = model.generate(**inputs, **options)
    return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def main() -> None:
    """Find the feature, generate, write the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sae", type=Path, default=ROOT / "runs" / "demo" / "balanced-choice")
    arguments.add_argument("--word", default="world")
    given = arguments.parse_args()

    sae = st.load(given.sae)
    language_model = load_language_model(dtype=torch.float32)
    tokenizer, model = language_model.tokenizer, language_model.model
    words = (given.word, f" {given.word}", f" {given.word.capitalize()}")
    word_ids = {ids[0] for word in words if len(ids := tokenizer.encode(word, add_special_tokens=False)) == 1}
    held_out = harvest(HarvestConfig(site=SITE), "test", TOKENS)
    found = telling(sae, held_out, word_ids)

    rows = ["| prompt | strength | continuation |", "| --- | ---: | --- |"]
    for prompt in PROMPTS:
        for strength in STRENGTHS:
            with st.splice(model, SITE, sae, error_term=True, add={found.feature: strength * found.mean}):
                text = generate(model, tokenizer, prompt)
            shown = " ".join(text.split()).replace("|", "\\|")
            rows.append(f"| {prompt} | {strength:g} × | {shown} … |")
            print(rows[-1])
    source = (
        f"<small>`docs/scripts/steer.py`: feature {found.feature} of {sae.n_features}, active on "
        f"{100 * found.recall:.0f} % of the {found.times} tokens of “{given.word}” among {TOKENS:,} held-out tokens, "
        f"with mean {found.mean:.1f}; {100 * found.precision:.0f} % of the tokens on which it is active are that word. "
        f"Greedy, repetition penalty 1.2, float32, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}.</small>"
    )
    TABLE.write_text("\n".join(rows) + f"\n\n{source}\n", encoding="utf-8")
    print(source)


if __name__ == "__main__":
    main()
