#!/usr/bin/env bash
# e2e_sae 2.1.1: top1_accuracy compares a prediction with the token it was made from; explained variance exchanges its sides.
#
# Expected: `top1_accuracy` is "the proportion of the time that the true token lies within the top k predicted tokens", like the
# cross entropy beside it, which is shifted by one. Seen: logits at a position are compared with the token at that position,
# the one that was read. A model that predicts every next token gets 0.0, one that repeats what it reads 1.0, with losses of
# 0 and 20; so `difference_top1_accuracy`, of the model with its autoencoders, says nothing about predictions.
# Likewise `out_to_in/explained_variance` should be that of an autoencoder's input by its output. Seen: the two are passed the
# other way round, and the variance is the output's: an output of half the input explains 0, not 0.75, one that is the mean
# of the input gives minus infinity, and twice the input explains 0.75, not 0. `out_to_orig`, of the same two, is right.
# Source: run as below with e2e_sae 2.1.1, torch 2.13.0, transformer-lens 3.9.0; logits and activations are given.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of its requirements what metrics and losses import
"$work/env/bin/pip" install --quiet torch==2.13.0 transformer-lens==3.9.0 pydantic wandb tenacity python-dotenv
"$work/env/bin/pip" install --quiet --no-deps e2e_sae==2.1.1
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, transformers fails with it
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import sys
from unittest.mock import MagicMock

# its loader of models, which is not used here, imports scripts that the package leaves out
sys.modules["e2e_sae.loader"] = MagicMock()

import torch
from e2e_sae.hooks import SAEActs
from e2e_sae.losses import LossConfigs, OutToInLoss, OutToOrigLoss, SparsityLoss, calc_loss
from e2e_sae.metrics import calc_output_metrics

tokens = torch.tensor([[3, 1, 4, 0, 5, 9, 2, 6]])
predicts, repeats = (20 * torch.nn.functional.one_hot(of, 10).float() for of in (tokens.roll(-1, 1), tokens))
found = calc_output_metrics(tokens, predicts, repeats)
for name, model in (("predicts every next token", "orig_model"), ("repeats every token", "sae_model")):
    loss, accuracy = found[f"performance/train/{model}_ce_loss"], found[f"performance/train/{model}_top1_accuracy"]
    print(f"a model that {name}: cross entropy {abs(loss):.1f}, top-1 accuracy {accuracy}")
assert abs(found["performance/train/orig_model_ce_loss"]) < 0.01, "cross entropy"
assert found["performance/train/orig_model_top1_accuracy"] == 0.0, "changed: the accuracy of right predictions"
assert found["performance/train/sae_model_top1_accuracy"] == 1.0, "changed: the accuracy of repetitions"

torch.manual_seed(0)
x = torch.randn(16, 64, 32)
x -= x.mean((0, 1))
configs = LossConfigs(
    sparsity=SparsityLoss(coeff=0.0), in_to_orig=None, out_to_orig=OutToOrigLoss(coeff=0.0), out_to_in=OutToInLoss(coeff=1.0),
    logits_kl=None,
)
for part, low, high in ((1.0, 1.0, 1.0), (0.5, -0.1, 0.1), (2.0, 0.7, 0.8), (0.0, -float("inf"), -1e9)):
    acts = {"site": SAEActs(input=x, c=torch.zeros(1), output=part * x)}
    _, log = calc_loss({"site": x}, acts, None, None, configs, is_log_step=True)
    to_in, to_orig = (float(log[f"loss/train/{kind}/explained_variance/site"]) for kind in ("out_to_in", "out_to_orig"))
    print(f"output = {part} of the input: explained variance by out_to_in {to_in:.3f}, by out_to_orig {to_orig:.3f}")
    assert abs(to_orig - (1 - (1 - part) ** 2)) < 1e-3, "out_to_orig"
    assert low <= to_in <= high, "changed: out_to_in"
PYTHON
