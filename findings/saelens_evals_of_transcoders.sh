#!/usr/bin/env bash
# SAELens 6.54.12: run_evals takes a transcoder and scores its output as a copy of its input.
#
# Expected: the output is compared with the activations at `hook_name_out`, and replaces them, as HookedSAETransformer
# does; or transcoders are refused. Seen: `hook_name_out` is not read. A transcoder that is exactly the MLP (the same
# weights, logits unchanged when spliced) gets an explained variance below -1 and a KL divergence of several nats,
# since its output is compared with the MLP's input and is put in its place. Nothing is said.
# Source: run as below with sae-lens 6.54.12, transformer-lens 3.9.0, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12 transformer-lens==3.9.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from datasets import Dataset
from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import Transcoder, TranscoderConfig
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.activations_store import ActivationsStore
from transformer_lens import HookedTransformerConfig

WIDTH, FEATURES, LENGTH = 16, 64, 16
READ, WRITE = "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"
torch.manual_seed(0)
model = HookedSAETransformer(
    HookedTransformerConfig(
        n_layers=2, d_model=WIDTH, n_ctx=LENGTH, d_head=8, n_heads=2, d_mlp=FEATURES, d_vocab=50, act_fn="relu",
        normalization_type=None, seed=0,
    )
)
transcoder = Transcoder(
    TranscoderConfig(
        d_in=WIDTH, d_out=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False,
        metadata=SAEMetadata(
            model_name="none", hook_name=READ, hook_name_out=WRITE, context_size=LENGTH, prepend_bos=False
        ),
    )
)
mlp = model.blocks[0].mlp
with torch.no_grad():
    for weight in model.parameters():
        weight.normal_(std=0.3 if weight.ndim > 1 else 0.1)
    transcoder.W_enc.copy_(mlp.W_in)
    transcoder.b_enc.copy_(mlp.b_in)
    transcoder.W_dec.copy_(mlp.W_out)
    transcoder.b_dec.copy_(mlp.b_out)
tokens = torch.randint(0, 50, (64, LENGTH))
logits, cache = model.run_with_cache(tokens)
assert torch.allclose(transcoder(cache[READ]), cache[WRITE], atol=1e-5)
assert torch.allclose(model.run_with_saes(tokens, saes=[transcoder]), logits, atol=1e-4), "changed: splicing"

store = ActivationsStore(
    model=model, dataset=Dataset.from_dict({"tokens": tokens.tolist()}), streaming=False, hook_name=READ,
    hook_head_index=None, context_size=LENGTH, d_in=WIDTH, n_batches_in_buffer=2, total_training_tokens=tokens.numel(),
    store_batch_size_prompts=8, train_batch_size_tokens=16, prepend_bos=False, normalize_activations="none",
    device=torch.device("cpu"), dtype="float32",
)
asked = EvalConfig(
    batch_size_prompts=8, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2, compute_kl=True,
    compute_variance_metrics=True,
)
metrics, _ = run_evals(transcoder, store, model, ActivationScaler(), asked, exclude_special_tokens=False)
variance = metrics["reconstruction_quality"]["explained_variance"]
divergence = metrics["model_behavior_preservation"]["kl_div_with_sae"]
print(f"an exact transcoder: explained variance {variance:.2f}, KL divergence {divergence:.2f}")
assert variance < -1 and divergence > 1, "changed: run_evals reads hook_name_out"
with torch.no_grad():
    error = transcoder(cache[READ]) - cache[READ]
    total = (cache[READ] - cache[READ].mean((0, 1))).pow(2).sum()
print(f"its output against its own input: {float(1 - error.pow(2).sum() / total):.2f}")
PYTHON
