#!/usr/bin/env bash
# transformers 5.24.0: output[0] in a hook on a block is all texts' hidden states in some families and the first text's in most.
#
# A block used to return a tuple, so hooks that read or steer the residual stream take output[0]. Expected: (texts, tokens,
# width) in any family, or an error. Seen: blocks of GPT-2, Llama, Qwen3, Gemma 3, GPT-NeoX, OPT and most others return the
# tensor itself, and its [0] is the first text, of shape (tokens, width); those of GPT-Neo, Bloom, Falcon and MPT still return
# a tuple. Flattened to rows, a batch of 3 texts gives the activations of one, and output[0].add_(vector) steers one text of 3
# and leaves the others as they were. With a single text the values are right. Nothing is said.
# In the same models the attention module still returns a tuple, of which [0] is right.
# `output[0] if isinstance(output, tuple) else output` is right for all of these.
# Source: run as below with transformers 5.24.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cd "$work"
export OMP_NUM_THREADS=1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

transformers.logging.set_verbosity_error()
torch.set_grad_enabled(False)
TEXTS, LENGTH, WIDTH, BLOCKS = 3, 5, 32, 2
SIZES = {"vocab_size": 64, "hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
GROUPS = SIZES | {"num_key_value_heads": 2, "intermediate_size": 64}
NEO = {"vocab_size": 64, "hidden_size": WIDTH, "num_layers": BLOCKS, "num_heads": 4, "attention_types": [[["global"], 2]]}
MPT = {"vocab_size": 64, "d_model": WIDTH, "n_layers": BLOCKS, "n_heads": 4}
MODELS = {  # name: sizes, whether a block returns a tuple
    "GPT2LMHeadModel": (SIZES, False),
    "LlamaForCausalLM": (GROUPS, False),
    "Qwen3ForCausalLM": (GROUPS | {"head_dim": 8}, False),
    "Gemma3ForCausalLM": (GROUPS | {"head_dim": 8}, False),
    "GPTNeoXForCausalLM": (SIZES | {"intermediate_size": 64}, False),
    "OPTForCausalLM": (SIZES | {"ffn_dim": 64, "word_embed_proj_dim": WIDTH}, False),
    "GPTNeoForCausalLM": (NEO, True),
    "BloomForCausalLM": (SIZES, True),
    "FalconForCausalLM": (SIZES, True),
    "MptForCausalLM": (MPT, True),
}
ATTENTION = ("attn", "self_attn", "attention", "self_attention")
tokens = torch.randint(2, 64, (TEXTS, LENGTH), generator=torch.Generator().manual_seed(0))
direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(1))


def built(name, sizes):
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**sizes)).eval()
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == BLOCKS)
    return model, blocks[0]


for name, (sizes, whole) in MODELS.items():
    model, block = built(name, sizes)
    plain, read, attended = model(tokens).logits, [], []
    hook = block.register_forward_hook(lambda module, given, output: read.append(output[0].flatten(0, -2)))
    attention = next(part for path, part in block.named_modules() if path.split(".")[-1] in ATTENTION)
    other = attention.register_forward_hook(lambda module, given, output: attended.append(output[0].shape))
    model(tokens)
    hook.remove()
    other.remove()

    def steer(module, given, output):
        output[0].add_(direction)

    block.register_forward_hook(steer)
    steered = [bool((a - b).abs().max() > 1e-4) for a, b in zip(model(tokens).logits, plain)]
    print(f"{name}: {len(read[0])} rows read of {TEXTS * LENGTH}, texts steered {steered}, attention {tuple(attended[0])}")
    assert len(read[0]) == (TEXTS * LENGTH if whole else LENGTH), f"changed: what {name}'s block returns"
    assert steered == [True, whole, whole], f"changed: which texts of {name} are steered"
    assert attended[0] == (TEXTS, LENGTH, WIDTH), f"changed: what {name}'s attention returns"
PYTHON
