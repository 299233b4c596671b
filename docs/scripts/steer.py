"""Steers SmolLM2 with one feature, and writes the table of the guide: `python docs/scripts/steer.py` after `make demo`.

The feature is not picked by hand: of the feature-choice autoencoder of the demo it is the one whose activation tells
tokens of the word best from all other held-out tokens. The strengths are multiples of its mean activation on them.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import sae_torch as st
import torch
import transformers
from sae_torch.activations import Activations, HarvestConfig, harvest, load_language_model
from sae_torch.evaluation import logit_lens

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs" / "assets" / "tables" / "steering.md"
SITE, TOKENS = "hidden_states[11]", 16_000
PROMPTS = ("My favourite memory is", "The most important thing in life is")
STRENGTHS = (0.0, 1.0, 2.0, 3.0)


def telling(sae: st.SparseAutoencoder, activations: Activations, word_ids: set[int]) -> tuple[int, float, int]:
    """The feature whose mean activation differs most, that mean on the word, and how often the word comes."""
    sums, others = torch.zeros(sae.n_features), torch.zeros(sae.n_features)
    times = 0
    shards = activations.shards
    ids = torch.cat([s.token_ids[s.window.long(), s.position.long()] for s in shards])[: len(activations)]
    is_word = torch.isin(ids, torch.tensor(sorted(word_ids), dtype=ids.dtype))
    for rows in torch.split(torch.arange(len(activations)), 2048):
        with torch.no_grad():
            codes = sae.encode(activations.gather(rows))
        of_word = is_word[rows][codes.tokens]
        sums.index_add_(0, codes.features[of_word], codes.values[of_word])
        others.index_add_(0, codes.features[~of_word], codes.values[~of_word])
        times += int(is_word[rows].sum())
    mean = sums / max(times, 1)
    feature = int((mean - others / (len(activations) - times)).argmax())
    return feature, float(mean[feature]), times


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
    arguments.add_argument("--sae", type=Path, default=ROOT / "runs" / "demo" / "feature-choice")
    arguments.add_argument("--word", default="army")
    given = arguments.parse_args()

    sae = st.load(given.sae)
    language_model = load_language_model(dtype=torch.float32)
    tokenizer, model = language_model.tokenizer, language_model.model
    words = (given.word, f" {given.word}", f" {given.word.capitalize()}")
    word_ids = {ids[0] for word in words if len(ids := tokenizer.encode(word, add_special_tokens=False)) == 1}
    held_out = harvest(HarvestConfig(site=SITE), "test", TOKENS)
    feature, usual, times = telling(sae, held_out, word_ids)
    ((promotes, _),) = logit_lens(language_model, sae.W_dec, [feature], count=5)

    rows = ["| prompt | strength | continuation |", "| --- | ---: | --- |"]
    for prompt in PROMPTS:
        for strength in STRENGTHS:
            with st.splice(model, SITE, sae, error_term=True, add={feature: strength * usual}):
                text = generate(model, tokenizer, prompt)
            shown = " ".join(text.split()).replace("|", "\\|")
            rows.append(f"| {prompt} | {strength:g} × | {shown} … |")
            print(rows[-1])
    source = (
        f"<small>`docs/scripts/steer.py`: feature {feature} of {sae.n_features}, mean activation {usual:.1f} on the "
        f"{times} held-out tokens of “{given.word}”; its direction promotes "
        f"{', '.join(f'`{word.strip()}`' for word in promotes)}. "
        f"Greedy, repetition penalty 1.2, float32, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}.</small>"
    )
    TABLE.write_text("\n".join(rows) + f"\n\n{source}\n", encoding="utf-8")
    print(source)


if __name__ == "__main__":
    main()
