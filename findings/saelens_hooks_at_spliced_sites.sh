#!/usr/bin/env bash
# SAELens 6.54.12: splicing an autoencoder into a model drops the hooks that stood at its site, for good and silently.
#
# Expected: model.add_hook(site, steer, is_permanent=True) acts before or after the autoencoder, and acts again afterwards.
# Seen: run_with_saes puts the autoencoder in the place of the hook point and then a new, empty hook point. The steering
# is left out of the spliced run and of every later run, so that both look as if it had no effect. Hooks at other sites stay.
# A transcoder reads its input by such a hook. With an autoencoder at that input, in either order of `saes`, the transcoder
# reads what stands at its own output instead (of the same width), and the autoencoder is not taken out after the run, which
# warns only "No SAE is attached"; run after run, the model is another one. A transcoder's own run, too, drops hooks there.
# Source: run as below with sae-lens 6.54.12, transformer-lens 3.9.0, torch 2.13.0, random weights; all coders are exact.
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
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.transcoder import Transcoder, TranscoderConfig
from transformer_lens import HookedTransformerConfig

WIDTH, FEATURES = 16, 32
READ, WRITE, STREAM = "blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out", "blocks.0.hook_resid_post"
torch.manual_seed(0)
torch.set_grad_enabled(False)
tokens = torch.randint(0, 50, (4, 10))


def fresh():
    return HookedSAETransformer(
        HookedTransformerConfig(
            n_layers=2, d_model=WIDTH, n_ctx=12, d_head=8, n_heads=2, d_mlp=FEATURES, d_vocab=50, act_fn="relu", seed=0,
            init_weights=True,
        )
    )


def exact(site, scale=1.0):
    """x = relu(x) - relu(-x), times scale"""
    sae = StandardSAE(
        StandardSAEConfig(d_in=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False, metadata=SAEMetadata(hook_name=site))
    )
    sae.W_enc.copy_(torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)], 1))
    sae.W_dec.copy_(scale * sae.W_enc.T)
    return sae


def same(first, second):
    return torch.allclose(first, second, atol=1e-5)


def steer(x, hook):
    return 0 * x


model = fresh()
plain = model(tokens)
assert same(model.run_with_saes(tokens, saes=[exact(STREAM)]), plain), "changed: an exact autoencoder changes the model"
for site, kept in (("blocks.1.hook_resid_mid", True), (STREAM, False)):
    model = fresh()
    model.add_hook(site, steer, is_permanent=True)
    steered = model(tokens)
    assert not same(steered, plain)
    within = model.run_with_saes(tokens, saes=[exact(STREAM)])
    after = model(tokens)
    print(f"steered at {site}, autoencoder at {STREAM}: acts within the run {same(within, steered)}, after {same(after, steered)}")
    assert (same(within, steered), same(after, steered)) == (kept, kept), f"changed: a hook at {site}"
    assert kept or same(within, plain) and same(after, plain), f"changed: what is left of a hook at {site}"

model = fresh()
mlp = model.blocks[0].mlp
transcoder = Transcoder(
    TranscoderConfig(
        d_in=WIDTH, d_out=WIDTH, d_sae=FEATURES, apply_b_dec_to_input=False,
        metadata=SAEMetadata(hook_name=READ, hook_name_out=WRITE),
    )
)
transcoder.W_enc.copy_(mlp.W_in)
transcoder.b_enc.copy_(mlp.b_in)
transcoder.W_dec.copy_(mlp.W_out)
transcoder.b_dec.copy_(mlp.b_out)
_, cache = model.run_with_cache(tokens)
assert same(model.run_with_saes(tokens, saes=[transcoder]), plain), "changed: a transcoder that is the MLP changes the model"
model.add_hook(READ, steer, is_permanent=True)
model.run_with_saes(tokens, saes=[transcoder])
assert same(model(tokens), plain), "changed: a hook at the input of a transcoder stays"

for order in ("autoencoder first", "transcoder first"):
    model = fresh()
    saes = [exact(READ), transcoder] if order == "autoencoder first" else [transcoder, exact(READ)]
    _, found = model.run_with_cache_with_saes(tokens, saes=saes)
    read = found[f"{WRITE}.hook_sae_input"]
    print(f"both, {order}: the transcoder reads its input {same(read, cache[READ])}, its output {same(read, cache[WRITE])}")
    assert same(read, cache[WRITE]) and not same(read, cache[READ]), f"changed: what is read, {order}"

model = fresh()
model.run_with_saes(tokens, saes=[exact(READ, scale=2.0), transcoder])
moved = float((model(tokens) - plain).abs().max())
model.reset_saes()
print(f"after that run the plain model's logits differ by up to {moved:.2f}; attached, it says: {list(model.acts_to_saes)}")
assert moved > 0.1 and not model.acts_to_saes and not same(model(tokens), plain), "changed: the autoencoder is taken out"
PYTHON
