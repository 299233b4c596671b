#!/usr/bin/env bash
# overcomplete 0.3.0: r2_score, and the R2 that training prints, give a reconstruction by the mean of the data up to 0.99, not 0.
#
# Expected: "a score of 0 indicates that the reconstruction is as good as the mean", whatever the unit; scikit-learn's r2_score,
# weighted by variance, does that. Seen: the deviations are taken from one number, the mean over all rows and
# dimensions, and 1e-6 is added to their mean square. So a constant reconstruction, no information at all, explains what the
# dimensions differ in on average: 0.96 with one dimension of 64 at 40, 0.99 with offsets of size
# 8 in all; there half of every deviation explains 0.997, not 0.75. With numbers of size 0.001 zeros explain 0.5.
# Without offset and with a unit near 1 the figure is the usual one.
# Source: run as below with overcomplete 0.3.0, scikit-learn 1.9.1, torch 2.13.0, random inputs; no other software is involved.
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

import sklearn.metrics
import torch
from overcomplete.metrics import r2_score
from overcomplete.sae import SAE
from overcomplete.sae.train import train_sae

torch.manual_seed(0)
ROWS, WIDTH = 4096, 64
deviations = torch.randn(ROWS, WIDTH)
deviations -= deviations.mean(0)
one, all_of_them = torch.zeros(WIDTH), 8 * torch.randn(WIDTH)
one[3] = 40
for name, offset, unit, kept, low, high in (
    ("mean, no offset", torch.zeros(WIDTH), 1.0, 0.0, -0.01, 0.01),
    ("mean, one dimension at 40", one, 1.0, 0.0, 0.95, 0.97),
    ("mean, offsets in all", all_of_them, 1.0, 0.0, 0.97, 0.99),
    ("half of the deviations, offsets in all", all_of_them, 1.0, 0.5, 0.99, 1.0),
    ("mean, no offset, unit 0.001", torch.zeros(WIDTH), 1e-3, 0.0, 0.45, 0.55),
):
    x = unit * (deviations + offset)
    x_hat = unit * (kept * deviations + offset)
    found = float(r2_score(x, x_hat))
    usual = sklearn.metrics.r2_score(x.double(), x_hat.double(), multioutput="variance_weighted")
    print(f"{name}: r2_score {found:.3f}, scikit-learn's {usual:.3f}")
    assert abs(usual - (1 - (1 - kept) ** 2)) < 1e-3, "scikit-learn"
    assert low <= found <= high, f"changed: {name}"

x = deviations + all_of_them
sae = SAE(WIDTH, 128)
with torch.no_grad():  # one concept whose dictionary row is the mean, always as active: a constant
    for parameter in sae.parameters():
        parameter.zero_()
    sae.encoder.final_block[0].bias[0] = all_of_them.norm()
    sae.dictionary._weights[0] = all_of_them / all_of_them.norm()
optimizer = torch.optim.SGD(sae.parameters(), lr=0.0)
logs = train_sae(sae, x.split(256), lambda x, x_hat, *_: (x - x_hat).square().mean(), optimizer, nb_epochs=1)
print(f"R2 of a constant in the training log: {logs['r2'][0]:.3f}")
assert logs["r2"][0] > 0.97, "changed: R2 in the log"
PYTHON
