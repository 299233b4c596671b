#!/usr/bin/env bash
# transformers 5.23.0: the first token that RoBERTa and its kin generate is not the one that their forward pass predicts.
#
# Their forward pass counts positions from padding_idx + 1 on (position_ids=None). `generate` makes position_ids itself,
# from 0 on, and passes them: rows of the position table that the model is never trained with, the row of the padding
# token among them. The logits of the first new token differ from those of the forward pass over the same prompt, with
# the cache and without; with position_ids=0..n-1 handed to the forward pass they are the same.
# Seen in the five families below, random weights, greedy, one prompt without padding. Nothing is said.
# Source: run as below with transformers 5.23.0, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

FAMILIES = ("Roberta", "XLMRoberta", "XLMRobertaXL", "Camembert", "Data2VecText")
SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "max_position_embeddings": 40, "is_decoder": True, "initializer_range": 0.5, "pad_token_id": 1,
}
prompt = torch.tensor([[5, 9, 23, 41, 17]])
for family in FAMILIES:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        forward = model(prompt).logits[0, -1]
        from_0 = model(prompt, position_ids=torch.arange(5)[None]).logits[0, -1]
        from_2 = model(prompt, position_ids=torch.arange(2, 7)[None]).logits[0, -1]
    assert torch.equal(forward, from_2), f"changed: {family} no longer counts from padding_idx + 1"
    for cache in (True, False):
        first = model.generate(
            prompt, max_new_tokens=1, do_sample=False, use_cache=cache, output_logits=True, return_dict_in_generate=True
        ).logits[0][0]
        off = float((first - forward).abs().max())
        print(f"{family}, cache {cache}: first logits of generate and of the forward pass differ by {off:.1f}")
        assert off > 0.1, f"changed: {family} generates what it predicts"
        assert torch.allclose(first, from_0, atol=1e-4), f"changed: {family} counts otherwise"
PYTHON
