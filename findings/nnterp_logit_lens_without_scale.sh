#!/usr/bin/env bash
# nnterp 1.3.0: the logit lens of families that scale or cap their logits is not the model's own distribution.
#
# Expected: at the last layer logit_lens gives the probabilities of the next token that the model gives, as it does for
# Llama. Seen: project_on_vocab, on which logit_lens, get_topk_closest_tokens and the lenses of patched prompts rest, is the
# final norm and the unembedding alone. What these families do to logits afterwards is left out, without a word: Granite
# divides them by logits_scaling, Cohere multiplies them by logit_scale, Gemma 2 caps them by a hyperbolic tangent. On tiny
# models with random weights and a scale of 1/8, 1/16 and a cap of 3, the most likely token has 0.51, 1.00 and 0.65 by the
# lens and 0.04, 0.04 and 0.06 by the model. The order of tokens is right, so only probabilities, entropies and divergences
# tell, and a lens of these models seems far more certain than the models are. Right: divide or multiply by the number of
# the config, or cap, before softmax; for the first two the last layer then agrees to rounding, as below.
# nnterp 1.3.0 asks for nnsight 0.6 or later and cannot be imported with 0.8.1, which pip takes (nnsight.intervention.tracing
# is gone); 0.7.0 works.
# Source: run as below with nnterp 1.3.0, nnsight 0.7.0, transformers 4.57.1, torch 2.9.1.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/probe.py" <<'PYTHON'
import torch
import transformers
from nnterp import StandardizedTransformer
from nnterp.interventions import logit_lens
from tokenizers import Tokenizer, models, pre_tokenizers

words = ["<pad>", "<unk>", *(f"w{number}" for number in range(60))]
rule = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
rule.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=rule, pad_token="<pad>", unk_token="<unk>", padding_side="left"
)
small = dict(
    vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, pad_token_id=0,
)
FAMILIES = {
    "Llama": (transformers.LlamaConfig(**small), lambda logits: logits),
    "Granite": (transformers.GraniteConfig(**small, logits_scaling=8.0), lambda logits: logits / 8),
    "Cohere": (transformers.CohereConfig(**small, logit_scale=0.0625), lambda logits: logits * 0.0625),
    "Gemma 2": (
        transformers.Gemma2Config(**small, head_dim=8, final_logit_softcapping=3.0),
        lambda logits: 3 * torch.tanh(logits / 3),
    ),
}
text = "w1 w2 w3 w4"
for name, (config, mended) in FAMILIES.items():
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)  # logits as spread as those of a trained model
        own = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].softmax(-1)
        lens = logit_lens(StandardizedTransformer(model, tokenizer=tokenizer), [text])[0, -1]
    right = mended(lens.log()).softmax(-1) if name != "Gemma 2" else None  # a cap needs the logits, not their differences
    print(f"{name}: the most likely token has {lens.max():.2f} by the lens, {own.max():.2f} by the model")
    assert lens.argmax() == own.argmax(), f"changed: the order of tokens for {name}"
    assert (name == "Llama") == torch.allclose(lens, own, atol=1e-4), f"changed: {name}"
    if right is not None:
        assert torch.allclose(right, own, atol=1e-4), f"changed: what mends {name}"
PYTHON
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet nnterp==1.3.0 nnsight==0.7.0 transformers==4.57.1 torch==2.9.1
HF_HUB_OFFLINE=1 "$work/env/bin/python" "$work/probe.py"
