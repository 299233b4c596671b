#!/usr/bin/env bash
# overcomplete 0.3.0: the first eval() of an MpSAE or OMPSAE ends its dropout for good; train() does not bring it back.
#
# Expected: as with torch's own dropout, off in eval mode and on in train mode; the comment is "to ensure no dropout is applied
# during evaluation". Seen: eval() sets `dropout` to None. So a loop that evaluates between its epochs trains with dropout up
# to its first evaluation and without ever after, while one that evaluates at the end trains with it throughout: the two
# are different methods by the same configuration. In the run below, where half of the atoms are dropped, the two dictionaries
# reconstruct with clearly different errors, though evaluating draws no random number and changes no weight.
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
from overcomplete.sae import MpSAE, OMPSAE
from overcomplete.sae.train import train_sae

WIDTH, CONCEPTS = 16, 64
torch.manual_seed(0)
truth = torch.nn.functional.normalize(torch.randn(CONCEPTS, WIDTH), dim=1)
x = torch.relu(torch.randn(2048, CONCEPTS) - 1.5) @ truth


def random_codes(model):
    """Do two encodings of the same rows differ by more than rounding?"""
    with torch.no_grad():
        first, second = model.encode(x)[1], model.encode(x)[1]
    return float((first - second).norm() / first.norm()) > 0.1


for cls in (MpSAE, OMPSAE):
    model = cls(WIDTH, CONCEPTS, k=4, dropout=0.5)
    found = [(model.dropout, random_codes(model))]
    for mode in (model.eval, model.train):
        mode()
        found.append((model.dropout, random_codes(model)))
    print(cls.__name__, "new, after eval(), after train(): dropout and whether codes are random", found)
    assert found == [(0.5, True), (None, False), (None, False)], "changed: dropout after eval()"


def loss(x, x_hat, *_):
    return (x - x_hat).square().mean()


def trained(evaluates):
    """The error of a dictionary trained for 20 epochs, with or without an evaluation after the first."""
    torch.manual_seed(1)
    model = MpSAE(WIDTH, CONCEPTS, k=4, dropout=0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(20):
        train_sae(model, x.split(128), loss, optimizer, nb_epochs=1, monitoring=0)
        if evaluates and epoch == 0:
            with torch.no_grad():
                model.eval()(x)
    with torch.no_grad():
        return float((x - model.eval()(x)[2]).square().sum() / x.square().sum())


errors = {evaluates: trained(evaluates) for evaluates in (False, True)}
print(f"relative error, evaluated at the end only {errors[False]:.4f}, after the first epoch too {errors[True]:.4f}")
assert abs(errors[False] / errors[True] - 1) > 0.1, "changed: an evaluation between epochs"
PYTHON
