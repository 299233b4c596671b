#!/usr/bin/env bash
# transformers 5.24.0: hidden_states[n] of Mamba, FalconMamba and RWKV is one block further on than in other families.
#
# Expected: hidden_states[0] is the embedding and hidden_states[n] what block n - 1 returned, as in GPT-2, Llama and the
# hybrids Jamba and NemotronH, so that "layer n" of a dictionary is the same entry everywhere. Seen: the three leave the
# embedding out. Their tuple, as long as elsewhere, begins with the output of block 0 and has the final norm in the place
# that is left at the end. So hidden_states[-2] is the last block's output in the three and the one before it in others,
# where the norm replaces the last block's output, which is then in no entry.
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
BLOCKS = 3
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": BLOCKS}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
USUAL = ["embedding", "block 0", "block 1", "norm"]
SHIFTED = ["block 0", "block 1", "block 2", "norm"]
FAMILIES = {
    "GPT2": ({"vocab_size": 64, "n_embd": 32, "n_layer": BLOCKS, "n_head": 4}, USUAL),
    "Llama": (SIZES | HEADS, USUAL),
    "Jamba": (SIZES | HEADS | {"num_experts": 2, "mamba_d_state": 8, "use_mamba_kernels": False}, USUAL),
    "NemotronH": (
        SIZES | HEADS | {
            "head_dim": 8, "layers_block_type": ["mamba", "attention", "mlp"], "mamba_num_heads": 4, "mamba_head_dim": 16,
            "n_groups": 1, "ssm_state_size": 8,
        },
        USUAL,
    ),
    "Mamba": (SIZES | {"state_size": 8}, SHIFTED),
    "FalconMamba": (SIZES | {"state_size": 8}, SHIFTED),
    "Rwkv": (SIZES | {"attention_hidden_size": 32, "context_length": 64}, SHIFTED),
}
tokens = torch.tensor([[5, 9, 23, 41, 17, 8, 30]])
for family, (sizes, expected) in FAMILIES.items():
    torch.manual_seed(0)
    model = getattr(transformers, "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**sizes)
    ).eval()
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == BLOCKS)
    seen = {}

    def entered(module, given, named):
        seen["embedding"] = given[0] if given else named["hidden_states"]

    def left(module, given, returned):
        seen[f"block {len(seen) - 1}"] = returned[0] if isinstance(returned, tuple) else returned

    blocks[0].register_forward_pre_hook(entered, with_kwargs=True)
    for block in blocks:
        block.register_forward_hook(left)
    logits, states = (answer := model(tokens, output_hidden_states=True, use_cache=False)).logits, answer.hidden_states
    found = []
    for state in states:
        names = [name for name, value in seen.items() if torch.allclose(value, state, atol=1e-6)]
        found.append(names[0] if names else "norm")
    assert torch.allclose(model.get_output_embeddings()(states[-1]), logits, atol=1e-4), f"changed: {family}'s norm"
    print(f"{family}: {', '.join(found)}")
    assert found == expected, f"changed: {family}"
PYTHON
