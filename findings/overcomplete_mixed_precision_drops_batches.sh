#!/usr/bin/env bash
# overcomplete 0.3.0: train_sae_amp leaves the rest of an epoch untrained where it says that it goes on in full precision.
#
# Expected: "fallback to fp32 for the rest of the current epoch if NaNs are detected 'max_nan_fallbacks' times". Seen: at the
# fifth batch whose loss is NaN in half precision (5 is the default) the loop is left. That batch, though its loss is finite
# in full precision, and all after it are not trained on; the printed lines are "Disabling AMP for the rest of this epoch" and
# the averages of the batches before. Every epoch starts over, so with an order that does not change the same data
# is never seen. Any activation above 65,504, as the first position of some language models has, makes such a batch: with
# one in ten batches, 40 of 64 are trained on in each epoch. One fewer, and all are.
# Source: run as below with overcomplete 0.3.0, torch 2.13.0, random inputs; float16 on the CPU, as autocast has it on a GPU.
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
from overcomplete.sae import TopKSAE
from overcomplete.sae.train import train_sae, train_sae_amp

torch.set_autocast_dtype("cpu", torch.float16)
torch.manual_seed(0)
BATCHES, ROWS, WIDTH = 64, 32, 16
x = torch.randn(BATCHES, ROWS, WIDTH)


def loss(x, x_hat, *_):
    return (x - x_hat).square().mean()


class CountedSGD(torch.optim.SGD):
    steps = 0

    def step(self, *args, **kwargs):
        self.steps += 1
        return super().step(*args, **kwargs)


def steps(large_batches, train):
    """The steps of two epochs, where the first row of some batches has a large activation."""
    data = x.clone()
    data[[batch * 10 for batch in range(large_batches)], 0, 0] = 1e5
    model = TopKSAE(WIDTH, 64, top_k=4)
    optimizer = CountedSGD(model.parameters(), lr=1e-9)
    train(model, list(data), loss, optimizer, nb_epochs=2, device="cpu")
    return optimizer.steps


for large_batches, train, expected in ((4, train_sae_amp, 128), (5, train_sae_amp, 80), (5, train_sae, 128)):
    found = steps(large_batches, train)
    print(f"{train.__name__}, {large_batches} of {BATCHES} batches with an activation of 100,000: {found} steps in 2 epochs")
    assert found == expected, "changed: which batches are trained on"
PYTHON
