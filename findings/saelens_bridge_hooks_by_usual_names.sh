#!/usr/bin/env bash
# SAELens 6.54.12: SAETransformerBridge.run_with_hooks takes hooks at "blocks.0.hook_resid_post" and never calls them.
#
# Expected: they act, as in HookedTransformer and as in TransformerLens' own TransformerBridge, whose subclass it is and
# which knows the usual names as aliases; or an unknown name raises. Seen, on a fresh model and without any autoencoder:
# hooks at hook_resid_pre, hook_resid_mid, hook_resid_post, hook_attn_out and hook_mlp_out are dropped without a word, in
# run_with_hooks, in `with model.hooks(...)`, and for a filter on such a name. An ablation or steering then looks as if it
# had no effect. The bridge's own names (blocks.0.hook_out) work; add_hook and run_with_saes take both kinds. The class
# replaces the table of hooks by one without aliases. Its documentation calls it beta.
# Source: run as below with sae-lens 6.54.12, transformer-lens 3.9.0, transformers 5.24.0, torch 2.13.0, random weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12 transformer-lens==3.9.0 transformers==5.24.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
export HF_HUB_OFFLINE=1
"$work/env/bin/python" -W ignore - 2> progress <<'PYTHON' || { cat progress; exit 1; }
import torch
import transformers
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge

WIDTH, WORDS = 32, 64
NAMES = {"resid_pre": "hook_in", "resid_mid": "ln2.hook_in", "resid_post": "hook_out", "attn_out": "attn.hook_out",
         "mlp_out": "mlp.hook_out"}
torch.manual_seed(0)
torch.set_grad_enabled(False)
config = transformers.LlamaConfig(
    vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=64,
)
transformers.LlamaForCausalLM(config).save_pretrained("tiny")
words = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, WORDS)}}, unk_token="<s>"))
transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained("tiny")
tokens = torch.randint(2, WORDS, (2, 9))


def fresh(cls):
    return cls.boot_transformers(
        "tiny", hf_model=transformers.LlamaForCausalLM.from_pretrained("tiny").eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained("tiny"),
    )


def moved(model, way, name):
    """How far the logits go when what stands at the hook is replaced by zeros."""
    plain = model(tokens)

    def zero(x, hook):
        return torch.zeros_like(x)

    if way == "add_hook":
        model.add_hook(name, zero)
        found = model(tokens)
        model.reset_hooks()
    elif way == "hooks":
        with model.hooks(fwd_hooks=[(name, zero)]):
            found = model(tokens)
    else:
        place = (lambda other: other == name) if way == "filter" else name
        found = model.run_with_hooks(tokens, fwd_hooks=[(place, zero)])
    return float((found - plain).abs().max())


for cls in (TransformerBridge, SAETransformerBridge):
    model = fresh(cls)
    for way in ("run_with_hooks", "hooks", "filter", "add_hook"):
        usual = {name: moved(model, way, f"blocks.0.hook_{name}") for name in NAMES}
        own = {name: moved(model, way, f"blocks.0.{canonical}") for name, canonical in NAMES.items()}
        print(
            f"{cls.__name__}, {way}: by the usual names {sum(value > 0 for value in usual.values())} of {len(usual)} hooks act, "
            f"by the bridge's own {sum(value > 0 for value in own.values())}"
        )
        assert min(own.values()) > 0, f"changed: {cls.__name__}, {way}, the bridge's own names"
        if cls is SAETransformerBridge and way != "add_hook":
            assert max(usual.values()) == 0, f"changed: {way} by the usual names"
        else:
            assert min(usual.values()) > 0, f"changed: {cls.__name__}, {way}, the usual names"
PYTHON
