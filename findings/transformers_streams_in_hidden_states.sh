#!/usr/bin/env bash
# transformers 5.24.0: the residual stream of DeepseekV4, HYV4 and Qwen4Exp is four times as wide as hidden_size.
#
# Expected: hidden_states and the blocks' outputs have shape (batch, length, hidden_size), as in DeepSeek-V3 or Qwen3, so
# that hidden_size is the width of a dictionary on them. Seen: their blocks pass several streams on to each other. The
# first two return (batch, length, 4, hidden_size), Qwen4Exp returns (batch, length, 4 hidden_size), and the last entry of
# the same tuple, after the norm, is (batch, length, hidden_size). Reshaped to (-1, hidden_size), as harvesting code does,
# a batch gives four rows a token, without an error, out of step with token ids and attention masks.
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
WIDTH, BLOCKS, STREAMS = 32, 3, 4
COMMON = {
    "vocab_size": 64, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
FAMILIES = {
    "Qwen3": ("Qwen3Config", COMMON | {"intermediate_size": 64}, (WIDTH,)),
    "DeepseekV4": ("DeepseekV4Config", COMMON | EXPERTS | {"q_lora_rank": 8, "n_routed_experts": 4}, (STREAMS, WIDTH)),
    "HYV4": (
        "HYV4Config",
        COMMON | EXPERTS | {
            "intermediate_size": 64, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "kv_lora_rank": 8,
            "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
        },
        (STREAMS, WIDTH),
    ),
    "Qwen4Exp": (
        "Qwen4ExpTextConfig",
        COMMON | EXPERTS | {
            "num_experts": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        (STREAMS * WIDTH,),
    ),
}
tokens = torch.tensor([[5, 9, 23, 41, 17], [8, 30, 2, 11, 6]])
for family, (config, sizes, expected) in FAMILIES.items():
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, config)(**sizes)).eval()
    returned = []
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == BLOCKS)
    blocks[1].register_forward_hook(lambda module, given, out: returned.append(out[0] if isinstance(out, tuple) else out))
    states = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
    rows = states[2].reshape(-1, WIDTH).shape[0]
    print(f"{family}: {[tuple(state.shape) for state in states]}, {rows} rows of hidden_size for {tokens.numel()} tokens")
    assert model.config.hidden_size == WIDTH and len(states) == BLOCKS + 1
    assert all(state.shape == (*tokens.shape, *expected) for state in states[:-1]), f"changed: the blocks of {family}"
    assert states[-1].shape == (*tokens.shape, WIDTH), f"changed: the last entry of {family}"
    assert torch.equal(returned[0], states[2]), f"changed: what a hook on block 1 of {family} sees"
    assert rows == tokens.numel() * (1 if family == "Qwen3" else STREAMS)
PYTHON
