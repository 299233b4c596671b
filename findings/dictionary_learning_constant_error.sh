#!/usr/bin/env bash
# dictionary_learning 0.1.0: an error that is the same for every token does not lower the fraction of variance explained.
#
# Expected: 1 - |x - x_hat|^2 / |x - mean|^2, so that any error counts; by it a reconstruction that misses every token by
# the vector (10, ..., 10) explains less than nothing. Seen: `evaluate` takes the variance of x - x_hat, in which a
# constant cancels, and reports 1.0, beside an l2_loss of 28. So wrong or unscaled decoder biases, a common fault of
# converted files, do not show in this figure. An error of the same size that differs by token lowers it as expected.
# Source: run as below with dictionary-learning 0.1.0, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 dictionary-learning==0.1.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, nnsight cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from dictionary_learning.dictionary import AutoEncoder
from dictionary_learning.evaluation import evaluate

WIDTH = 8
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(1000, WIDTH)
exact = AutoEncoder(WIDTH, 2 * WIDTH)  # x = relu(x) - relu(-x)
signs = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
exact.encoder.weight.copy_(signs)
exact.encoder.bias.zero_()
exact.decoder.weight.copy_(signs.T)


class Shifted(AutoEncoder):
    """An autoencoder whose decoder adds `shift`, as one does whose bias was converted wrongly."""

    shift = 10.0

    def decode(self, f):
        return super().decode(f) + self.shift


shifted = Shifted(WIDTH, 2 * WIDTH)
shifted.load_state_dict(exact.state_dict())
noisy = Shifted(WIDTH, 2 * WIDTH)
noisy.load_state_dict(exact.state_dict())
noisy.shift = 10 * torch.randn(1000, WIDTH)
figures = {name: evaluate(ae, iter([x])) for name, ae in (("exact", exact), ("shifted", shifted), ("noisy", noisy))}
spread = (x - x.mean(0)).pow(2).sum()
for name, ae in (("exact", exact), ("shifted", shifted), ("noisy", noisy)):
    usual = float(1 - (x - ae(x)).pow(2).sum() / spread)
    figure = figures[name]
    print(f"{name}: explained {figure['frac_variance_explained']:.3f}, l2_loss {figure['l2_loss']:.1f}, usual formula {usual:.1f}")
    assert name == "exact" or usual < 0, "changed: the usual formula"
assert figures["exact"]["frac_variance_explained"] > 0.999 and figures["exact"]["l2_loss"] < 1e-4
assert figures["shifted"]["frac_variance_explained"] > 0.999, "changed: a constant error counts"
assert figures["shifted"]["l2_loss"] > 28, "changed: l2_loss"
assert figures["noisy"]["frac_variance_explained"] < -50, "changed: an error that differs by token"
PYTHON
