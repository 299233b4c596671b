#!/usr/bin/env bash
# SAEBench 0.6.0: the core evaluation's explained_variance of a constant reconstruction is near 1, or above, by the units.
#
# Expected, by its description: the proportion of the variance explained, so that the mean of the tokens explains 0, and
# multiplying activations and dictionary by 10 changes nothing. Seen: where the square of each dimension's mean belongs, the
# mean of the squares is averaged over the dimensions and then squared, so that m d - m^2 stands for the variance (d the
# width, m the mean square of a number). With a large mean in one dimension a dictionary that returns the mean scores 0.96;
# where m comes near d, as with a massive activation at the first position, the score runs to minus infinity, and beyond it
# any error gives more than 1. `mse` is divided by the tokens of a batch before the mean over them is taken, and halves when
# eval_batch_size_prompts doubles. An exact dictionary gets 1, and without offset in small units the figure is right.
# SAELens, from where the code is, has repaired both (its pull requests 665 and 711) and gives 0 for the mean.
# Source: run as below with sae-bench 0.6.0, sae-lens 6.54.12, torch 2.13.0; the activations are given, no model is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of its requirements what the core evaluation imports
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12 transformer-lens==3.9.0 tabulate
"$work/env/bin/pip" install --quiet --no-deps sae-bench==0.6.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import types

import torch
from sae_bench.evals.core.main import get_sparsity_and_variance_metrics
from sae_lens.evals import ExplainedVarianceCalculator

WIDTH, LENGTH, SITE = 64, 16, "blocks.0.hook_resid_post"
torch.manual_seed(0)
torch.set_grad_enabled(False)
table = torch.randn(512, WIDTH)  # the activation of every token
offset = torch.zeros(WIDTH)


class Store:
    def __init__(self):
        self.tokens = torch.arange(512).view(-1, LENGTH)
        self.at = 0

    def get_batch_tokens(self, prompts):
        self.at += prompts
        return self.tokens[self.at - prompts : self.at]


class Coder:
    """A dictionary whose reconstruction is a constant, the input, or something between."""

    device = torch.device("cpu")
    cfg = types.SimpleNamespace(hook_name=SITE, hook_layer=0, hook_head_index=None, d_sae=WIDTH)

    def __init__(self, constant, kept):
        self.constant, self.kept = constant, kept

    def encode(self, x):
        return x - self.constant

    def decode(self, code):
        return self.kept * code + self.constant


def scores(x, coder, prompts=8):
    """SAEBench's scores over all 512 tokens, and SAELens' explained variance of the same."""
    model = types.SimpleNamespace(run_with_cache=lambda tokens, **_: (None, {SITE: x[tokens]}))
    found, _ = get_sparsity_and_variance_metrics(
        coder, model, Store(), compute_l2_norms=False, compute_sparsity_metrics=True, compute_variance_metrics=True,
        compute_featurewise_density_statistics=False, n_batches=32 // prompts, eval_batch_size_prompts=prompts,
        model_kwargs={},
    )
    usual = ExplainedVarianceCalculator()
    usual.add_batch(coder.decode(coder.encode(x)), x)
    return found, usual.compute()


for name, place, unit, kept, low, high in (
    ("exact, unit 1", 0.0, 1.0, 1.0, 1.0, 1.0), ("exact, unit 10", 0.0, 10.0, 1.0, 1.0, 1.0),
    ("mean, no offset, unit 0.1", 0.0, 0.1, 0.0, -0.05, 0.05),
    ("mean, one dimension at 40, unit 0.1", 40.0, 0.1, 0.0, 0.95, 0.98),
    ("mean, no offset, unit 10", 0.0, 10.0, 0.0, 1.0, 9.0),
    ("half of the deviations, no offset, unit 7.9", 0.0, 7.9, 0.5, -1e9, -5.0),
    ("half of the deviations, no offset, unit 10", 0.0, 10.0, 0.5, 1.0, 9.0),
):
    offset[3] = place
    x = unit * (table + offset)
    found, usual = scores(x, Coder(x.mean(0), kept))
    print(f"{name}: explained_variance {found['explained_variance']:.3f}, by SAELens {usual:.3f}")
    assert abs(usual - (1 - (1 - kept) ** 2)) < 1e-3, "SAELens"
    assert low <= found["explained_variance"] <= high, f"changed: {name}"
    assert kept < 1 or abs(found["cossim"] - 1) < 1e-4, "changed: cossim"

x = table
coder = Coder(x.mean(0), 0.5)
true = float((x - coder.decode(coder.encode(x))).square().sum(1).mean())
mse = {prompts: scores(x, coder, prompts)[0]["mse"] for prompts in (1, 8, 16)}
print(f"mean squared error {true:.3f}, reported for batches of 1, 8 and 16 prompts:", [f"{value:.4f}" for value in mse.values()])
for prompts, value in mse.items():
    assert abs(value * prompts * LENGTH - true) < 1e-2 * true, "changed: mse"
PYTHON
