#!/usr/bin/env bash
# overcomplete 0.3.0: the penalty of mse_l1 is a sum over the batch beside a mean, so its weight grows with the batch size.
#
# Expected: "Loss = ||x - x_hat||^2 + penalty * penalty_fn(z)" per row, averaged, as its mse_hoyer and mse_kappa_4 are: a batch
# that holds every row 16 times has the loss of the rows. Seen: `l1` without axes sums over all rows and concepts, the error is
# the mean over all numbers: 16 times the rows have 16 times the penalty. A penalty that was tuned at one batch size means
# another sparsity at another: with 16 times the rows in a batch, and as many steps, half or less of the concepts are
# active, and the error is several times as large. With the default penalty of 1 and 512 rows training drives all codes to 0.
# Source: run as below with overcomplete 0.3.0, torch 2.13.0, random inputs; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 scipy==1.17.1 scikit-learn==1.9.1 tqdm pillow
"$work/env/bin/pip" install --quiet --no-deps overcomplete==0.3.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import functools
import sys
from unittest.mock import MagicMock

# its image models and plots, which are not used here, want torchvision and an older matplotlib
sys.modules.update({"overcomplete.models": MagicMock(), "overcomplete.visualization": MagicMock()})

import torch
from overcomplete.sae import SAE
from overcomplete.sae.losses import mse_hoyer, mse_kappa_4, mse_l1
from overcomplete.sae.train import train_sae

WIDTH, CONCEPTS, ROWS, STEPS = 16, 64, 4096, 1280
torch.manual_seed(0)
truth = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
x = torch.relu(torch.randn(ROWS, CONCEPTS) - 1.5) @ truth

codes = torch.relu(torch.randn(64, CONCEPTS))
for loss in (mse_l1, mse_hoyer, mse_kappa_4):
    values = []
    for times in (1, 16):
        rows = x[:64].repeat(times, 1)
        values.append(float(loss(rows, rows, None, codes.repeat(times, 1), None)))  # exact, so that the penalty is left
    name = {mse_l1: "mse_l1", mse_hoyer: "mse_hoyer", mse_kappa_4: "mse_kappa_4"}[loss]
    print(f"{name}: penalty of 64 rows {values[0]:.4f}, of the same rows 16 times {values[1]:.4f}")
    assert abs(values[1] / values[0] / (16 if loss is mse_l1 else 1) - 1) < 1e-3, "changed: the penalty of repeated rows"


def trained(batch, penalty):
    """Active concepts a row, and the relative error, after as many steps with any batch size."""
    torch.manual_seed(1)
    model = SAE(WIDTH, CONCEPTS)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    loss = functools.partial(mse_l1, penalty=penalty)
    train_sae(model, x.split(batch), loss, optimizer, nb_epochs=STEPS * batch // ROWS, monitoring=0)
    with torch.no_grad():
        _, codes, output = model.eval()(x)
    return float((codes > 0).sum(1).float().mean()), float((x - output).square().sum() / x.square().sum())


found = {batch: trained(batch, 3e-5) for batch in (32, 512)}
for batch, (active, error) in found.items():
    print(f"penalty 3e-5, {batch} rows a batch: {active:.1f} active concepts a row, relative error {error:.4f}")
assert found[512][0] < 0.6 * found[32][0] and found[512][1] > 3 * found[32][1], "changed: training by batch size"
active, error = trained(512, 1.0)
print(f"penalty 1, 512 rows a batch: {active:.2f} active concepts a row, relative error {error:.4f}")
assert active < 0.05 and error > 0.9, "changed: the default penalty"
PYTHON
