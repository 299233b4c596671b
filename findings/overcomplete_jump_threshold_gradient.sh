#!/usr/bin/env bash
# overcomplete 0.3.0: JumpSAE's gradient of the thresholds is divided by the bandwidth twice, and 2,000 times too large by default.
#
# Expected: what a kernel estimates is the slope of the expected output, which for many inputs is that of finite differences:
# minus threshold times density for the jump ReLU, minus density for the count of active features. Seen: the kernels are
# divided by the bandwidth already (most integrate to one), and the backward pass divides by it once more. So the slope is
# 1,000 times too large for "rectangle", "triangular", "epanechnikov", "quartic" and "cauchy" at the default bandwidth,
# 500 times for "gaussian", 2,000 times for "silverman", the default; with a bandwidth of 0.01 it is a tenth of that.
# "cosine", alone not divided, comes out right. A kernel or bandwidth chosen for less noise thus changes the step too. In
# train_sae, which clips the norm of all gradients together at 1 by default, thresholds that should hardly count take the
# larger part of the norm, and halve the step of the encoder and the dictionary in the example below.
# Source: run as below with overcomplete 0.3.0, torch 2.13.0, random inputs; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 scipy==1.17.1 scikit-learn==1.9.1 tqdm pillow
"$work/env/bin/pip" install --quiet --no-deps overcomplete==0.3.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import sys
from unittest.mock import MagicMock

# its image models and plots, which are not used here, want torchvision and an older matplotlib
sys.modules.update({"overcomplete.models": MagicMock(), "overcomplete.visualization": MagicMock()})

import torch
from overcomplete.sae import JumpSAE
from overcomplete.sae.jump_sae import heaviside, jump_relu

THRESHOLD, STEP = 0.5, 0.05
x = torch.linspace(0, 2, 2_000_001, dtype=torch.float64)[:, None]  # density 1/2


def slope(function, kernel, bandwidth):
    """By the library's backward pass, and by central differences of its forward pass."""
    def mean(value):
        return function(x, value, JumpSAE._KERNELS[kernel], torch.tensor(bandwidth)).double().mean()

    threshold = torch.tensor([THRESHOLD], dtype=torch.float64, requires_grad=True)
    (given,) = torch.autograd.grad(mean(threshold), threshold)
    with torch.no_grad():
        true = (mean(threshold + STEP) - mean(threshold - STEP)) / (2 * STEP)
    return float(given), float(true)


for bandwidth in (1e-3, 1e-2):
    for kernel in JumpSAE._KERNELS:
        ratios = []
        for function, known in ((jump_relu, -0.25), (heaviside, -0.5)):
            given, true = slope(function, kernel, bandwidth)
            assert abs(true - known) < 0.01, "finite differences"
            ratios.append(given / true)
        print(f"{kernel}, bandwidth {bandwidth}: slope over the true one, jump ReLU {ratios[0]:.1f}, count {ratios[1]:.1f}")
        expected = {"cosine": 1.0, "gaussian": 0.5 / bandwidth, "silverman": 2 / bandwidth}.get(kernel, 1 / bandwidth)
        assert all(0.9 < ratio / expected < 1.1 for ratio in ratios), "changed: the slope"

torch.manual_seed(0)
data = torch.randn(4096, 32)
for kernel in ("silverman", "cosine"):
    torch.manual_seed(1)
    model = JumpSAE(32, 128, kernel=kernel)
    _, codes, output = model(data)
    active = heaviside(torch.relu(model.encoder(data)[0]), model.thresholds.exp(), model.kernel_fn, model.bandwidth)
    ((data - output).square().mean() + 1e-3 * active.sum(1).mean()).backward()
    others = [parameter.grad for name, parameter in model.named_parameters() if name != "thresholds"]
    rest = float(torch.stack([grad.norm() for grad in others]).norm())
    thresholds = float(model.thresholds.grad.norm())
    kept = 1 / max(1, (rest**2 + thresholds**2) ** 0.5)
    print(f"{kernel}: norm of the thresholds' gradient {thresholds:.4f}, of all others' {rest:.4f}; clipping at 1 keeps {kept:.4f}")
    if kernel == "silverman":
        assert thresholds > 2 * rest and kept < 0.6, "changed: clipping with silverman"
    else:
        assert thresholds < 0.01 * rest and kept == 1, "changed: clipping with cosine"
PYTHON
