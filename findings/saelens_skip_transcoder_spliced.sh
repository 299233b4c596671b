#!/usr/bin/env bash
# SAELens 6.54.12: a skip transcoder spliced into a model writes its features and leaves its skip connection out.
#
# Expected: the model gets what the transcoder's forward pass returns, features plus W_skip x. Seen: run_with_saes and
# add_sae of HookedSAETransformer call encode and decode, and the skip is in neither; nothing is said. A transcoder whose
# features are all silent returns W_skip x + b_dec when it is called, and b_dec alone when it is spliced. With
# use_error_term=True the missing part is counted as error.
# Transcoders without a skip, and autoencoders, are spliced as they are.
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
from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.transcoder import SkipTranscoder, SkipTranscoderConfig, Transcoder, TranscoderConfig
from transformer_lens import HookedTransformerConfig

WIDTH, FEATURES = 16, 32
READ, WRITE = "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out"
torch.manual_seed(0)
torch.set_grad_enabled(False)
model = HookedSAETransformer(
    HookedTransformerConfig(
        n_layers=2, d_model=WIDTH, n_ctx=12, d_head=8, n_heads=2, d_mlp=FEATURES, d_vocab=50, act_fn="relu", seed=0,
        init_weights=True,
    )
)
tokens = torch.randint(0, 50, (4, 10))
_, cache = model.run_with_cache(tokens)
x = cache[READ]


def spliced(transcoder, **options):
    """What stands at the output hook with the transcoder in place, and what is kept as its error."""
    _, found = model.run_with_cache_with_saes(tokens, saes=[transcoder], **options)
    return found[f"{WRITE}.hook_sae_output"], found[f"{WRITE}.hook_sae_error"] if options else None


def sizes(cls, config):
    return cls(
        config(
            d_in=WIDTH, d_out=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False,
            metadata=SAEMetadata(hook_name=READ, hook_name_out=WRITE),
        )
    )


plain = sizes(Transcoder, TranscoderConfig)
assert torch.allclose(spliced(plain)[0], plain(x), atol=1e-5), "changed: a transcoder without a skip"

skip = sizes(SkipTranscoder, SkipTranscoderConfig)
skip.W_skip.normal_()
skip.b_enc.fill_(-1e3)  # no feature fires
skip.b_dec.normal_()
own = skip(x)
found, error = spliced(skip, use_error_term=True)
kept = spliced(skip)[0]
print("norm of W_skip x:", float((own - skip.b_dec).norm()))
print("forward pass and what is spliced differ by", float((own - kept).norm()))
assert torch.allclose(own, x @ skip.W_skip.T + skip.b_dec, atol=1e-4), "changed: the forward pass"
assert torch.allclose(kept, skip.b_dec.expand_as(kept), atol=1e-5), "changed: the skip is spliced"
assert torch.allclose(found, cache[WRITE], atol=1e-4), "changed: the error term"
assert torch.allclose(error, cache[WRITE] - skip.b_dec, atol=1e-4), "changed: what counts as the error"
PYTHON
