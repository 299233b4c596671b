#!/usr/bin/env bash
# SAELens 6.54.12: with normalisation at run time decode uses the norms of whatever was encoded last, not those of its features.
#
# Expected: features decode to the activations they came from, or decode is told their norms. Seen: with "layer_norm" and
# "constant_norm_rescale" encode leaves mean and deviation of its batch on the module, and the next decode takes and deletes
# them. Encode A, encode B, decode A: the output has the norms of B, row for row, or that of the one token of B for all of A,
# and nothing is said. That is what comparing two prompts, or patching features of one into the other, does. Only a second
# decode in a row raises, an AttributeError about a name that the caller never used.
# Source: run as below with sae-lens 6.54.12, torch 2.13.0, an identity as the autoencoder; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from sae_lens import StandardSAE, StandardSAEConfig

WIDTH = 16
torch.manual_seed(0)
torch.set_grad_enabled(False)
a = torch.randn(5, WIDTH)
b = 10 * torch.randn(5, WIDTH) + 3
both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])  # with a feature for each sign the autoencoder is exact


def error(x_hat, x):
    return float((x_hat - x).norm() / x.norm())


for normalize in ("none", "layer_norm", "constant_norm_rescale"):
    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=2 * WIDTH, normalize_activations=normalize, apply_b_dec_to_input=False))
    sae.W_enc.copy_(both.T)
    sae.W_dec.copy_(both)
    direct = error(sae.decode(sae.encode(a)), a)
    found = {"A": direct}
    for name, other in (("B", b), ("one token of B", b[:1])):
        features = sae.encode(a)
        sae.encode(other)
        found[name] = error(sae.decode(features), a)
    print(f"{normalize}: relative error of decoding A, where the last that was encoded was", {k: round(v, 3) for k, v in found.items()})
    assert found["A"] < 1e-3, "the autoencoder is exact"
    assert all(value < 1e-3 if normalize == "none" else value > 5 for name, value in found.items() if name != "A"), "changed: the norms"
    if normalize != "none":
        features = sae.encode(a)
        sae.decode(features)
        try:
            sae.decode(features)
        except AttributeError as raised:
            print("a second decode raises", raised)
        else:
            raise AssertionError("changed: a second decode")
PYTHON
