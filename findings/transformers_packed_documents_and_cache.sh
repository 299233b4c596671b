#!/usr/bin/env bash
# transformers 5.24.0: whether documents packed in one row see each other depends on use_cache, which is on by default.
#
# Expected: use_cache changes memory and speed, and no number of a single forward pass. Seen: given position_ids that begin
# again at 0 with each document, and no attention mask, model(tokens, position_ids=..., use_cache=False) keeps the documents
# apart, each with the activations that it has alone. Without use_cache (True by default), or with output_hidden_states
# alone, the same call lets the tokens of a document attend to all documents before it. Likewise with an attention mask of
# ones, which by its usual meaning changes nothing. So activations harvested with the defaults are not those of a model that
# was trained or checked with use_cache=False on the same rows. Eager and sdpa attention are alike in it. Nothing is said.
# Source: run as below with transformers 5.24.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

transformers.logging.set_verbosity_error()
torch.set_grad_enabled(False)
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPS = {"num_key_value_heads": 2, "intermediate_size": 64}
MODELS = {"GPT2LMHeadModel": SIZES, "LlamaForCausalLM": SIZES | GROUPS, "Qwen3ForCausalLM": SIZES | GROUPS | {"head_dim": 8}}
CALLS = {
    "use_cache=False": ({"use_cache": False}, "apart"),
    "defaults": ({}, "mixed"),
    "use_cache=True": ({"use_cache": True}, "mixed"),
    "output_hidden_states=True": ({"output_hidden_states": True}, "mixed"),
    "output_hidden_states=True, use_cache=False": ({"output_hidden_states": True, "use_cache": False}, "apart"),
    "mask of ones, use_cache=False": ({"attention_mask": torch.ones(1, 7, dtype=torch.long), "use_cache": False}, "mixed"),
}
first, second = torch.tensor([[5, 9, 23, 41]]), torch.tensor([[17, 8, 30]])
packed, positions = torch.cat([first, second], 1), torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
for name, sizes in MODELS.items():
    kind = getattr(transformers, name)
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        model = kind(kind.config_class(**sizes, attn_implementation=attention)).eval()
        alone = model(second).logits
        for call, (options, expected) in CALLS.items():
            logits = model(packed, position_ids=positions, **options).logits
            assert torch.allclose(logits[:, :4], model(first).logits, atol=1e-5), f"changed: the first document by {name}"
            off = (logits[:, 4:] - alone).abs().max().item()
            found = "apart" if off < 1e-5 else "mixed"
            print(f"{name}, {attention}, {call}: {found}, the second document is off by {off:.1g}")
            assert found == expected, f"changed: {name} with {call}"
            assert found == "apart" or off > 1e-3, f"changed: {name} with {call}"
PYTHON
