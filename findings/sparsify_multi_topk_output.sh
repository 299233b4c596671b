#!/usr/bin/env bash
# sparsify (eai-sparsify) 1.3.3: a coder whose configuration says multi_topk reconstructs with 4 k features, not with k.
#
# Multi-TopK is a term of the training loss. Expected: sae_out, latent_acts and latent_indices of the forward pass are
# those of the k features, as `encode` gives and as `fvu` measures. Seen: the pass for the loss writes over them, also in
# eval mode and for a coder read from disk: 4 k latents, and a sae_out whose error is not the fvu beside it; what is
# spliced into a model or counted as L0 is a coder that was not trained to stand alone. A trainer that takes its dead
# features from latent_indices counts one as alive that is never among the k. Without multi_topk all agree.
# Source: run as below with eai-sparsify 1.3.3, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 eai-sparsify==1.3.3
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, sparsify cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from sparsify import SparseCoder, SparseCoderConfig

K = 4
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(200, 16)
spread = (x - x.mean(0)).pow(2).sum()
for multi in (False, True):
    SparseCoder(16, SparseCoderConfig(num_latents=128, k=K, multi_topk=multi)).save_to_disk(f"coder-{multi}")
    coder = SparseCoder.load_from_disk(f"coder-{multi}").eval()
    out, code = coder(x), coder.encode(x)
    own = coder.decode(code.top_acts, code.top_indices)
    unexplained = float((x - out.sae_out).pow(2).sum() / spread)
    latents = out.latent_acts.shape[1]
    print(f"multi_topk {multi}: {latents} latents, fvu {out.fvu:.3f}, of sae_out {unexplained:.3f}; encode: {code.top_acts.shape[1]}")
    assert code.top_acts.shape[1] == K and torch.isclose(out.fvu, (x - own).pow(2).sum() / spread, rtol=1e-4)
    if multi:
        assert latents == out.latent_indices.shape[1] == 4 * K, "changed: the latents"
        assert abs(unexplained - float(out.fvu)) > 0.05, "changed: sae_out is that of k latents"
        assert torch.isclose(out.multi_topk_fvu, torch.tensor(unexplained), rtol=1e-4), "changed: what sae_out is"
    else:
        assert latents == K and torch.allclose(out.sae_out, own, atol=1e-5), "changed: without multi_topk"
PYTHON
