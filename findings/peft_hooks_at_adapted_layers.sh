#!/usr/bin/env bash
# peft 0.21.2: a hook placed before get_peft_model leaves the adapter's part alone; one placed after is gone once it is merged.
#
# get_peft_model replaces a layer by one that holds it, under the same name. Expected: a hook that ablates, steers or reads
# such a layer acts on its whole output, before and after merging, which is to change nothing. Seen: of a hook that sets the
# output of an MLP's down_proj to zero, placed before get_peft_model, the adapter's share comes through; after
# merge_adapter() the same hook blocks it, so merging changes the logits, and unmerge_adapter() changes them back.
# Placed after get_peft_model the hook acts on all in both states, and merge_and_unload() returns a model without it: the
# ablation is over. The hook placed before is still there then. Nothing is said in any of these cases.
# Without hooks all of these models give the same logits.
# Source: run as below with peft 0.21.2, transformers 5.24.0, torch 2.13.0, random weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
cd "$work"
export OMP_NUM_THREADS=1
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers
from peft import LoraConfig, get_peft_model

transformers.logging.set_verbosity_error()
torch.set_grad_enabled(False)
LAYER = "model.layers.0.mlp.down_proj"
config = transformers.LlamaConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64
)
tokens = torch.randint(2, 64, (2, 9), generator=torch.Generator().manual_seed(0))


def zero(module, given, output):
    return torch.zeros_like(output)


def logits(placed):
    """Of the adapted model with the layer's output set to zero: as it is, merged, unmerged, merged and unloaded."""
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    if placed == "before":
        model.get_submodule(LAYER).register_forward_hook(zero)
    adapted = get_peft_model(
        model, LoraConfig(r=4, lora_alpha=32, target_modules=["down_proj"], init_lora_weights=False)
    ).eval()
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))
    if placed == "after":
        adapted.base_model.model.get_submodule(LAYER).register_forward_hook(zero)
    found = {"as it is": adapted(tokens).logits}
    adapted.merge_adapter()
    found["merged"] = adapted(tokens).logits
    adapted.unmerge_adapter()
    found["unmerged"] = adapted(tokens).logits
    found["merged and unloaded"] = adapted.merge_and_unload()(tokens).logits
    return found


def same(a, b):
    return torch.allclose(a, b, atol=1e-3)


plain, before, after = logits("never"), logits("before"), logits("after")
assert all(same(found, plain["as it is"]) for found in plain.values()), "changed: merging without hooks"
ablated = after["as it is"]
for placed, found, expected in (
    ("before", before, {"as it is": False, "merged": True, "unmerged": False, "merged and unloaded": True}),
    ("after", after, {"as it is": True, "merged": True, "unmerged": True, "merged and unloaded": False}),
):
    for state, wholly in expected.items():
        gap = (found[state] - ablated).abs().max().item()
        print(f"a hook placed {placed} get_peft_model, {state}: {gap:.3f} from the model whose layer gives zeros")
        assert same(found[state], ablated) == wholly, f"changed: placed {placed}, {state}"
assert same(after["merged and unloaded"], plain["as it is"]), "changed: the hook is not gone"
assert not same(before["as it is"], plain["as it is"]), "changed: the hook placed before does nothing"
PYTHON
