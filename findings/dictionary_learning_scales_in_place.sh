#!/usr/bin/env bash
# dictionary_learning 0.1.0: training with normalize_activations=True divides the caller's own activations, in place.
#
# Expected: the tensors that were passed stay as they are. Seen: with float32 batches, the default, `act.to(float32)` is
# the same tensor and `act /= norm_factor` writes into it. After the run the stored activations are smaller by the factor;
# of a list that is shorter than the run the batches of every further round are divided again; and an evaluation on
# the same tensors scores the saved autoencoder, whose biases were scaled back up, on the wrong scale. Nothing is said.
# With normalize_activations=False the tensors stay as they are.
# Source: run as below with dictionary-learning 0.1.0, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 dictionary-learning==0.1.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, nnsight cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - 2> progress <<'PYTHON' || { cat progress; exit 1; }
import itertools
import json
import pathlib

import torch
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE

STEPS, K = 30, 4


def train(batches, normalized, folder):
    trainer = {
        "trainer": TopKTrainer, "steps": STEPS, "activation_dim": 8, "dict_size": 32, "k": K, "layer": 0, "lm_name": "none",
        "warmup_steps": 5, "device": "cpu", "seed": 0,
    }
    trainSAE(batches, [trainer], STEPS, save_dir=folder, normalize_activations=normalized, device="cpu")
    return pathlib.Path(folder) / "trainer_0"


torch.manual_seed(0)
stored = [5 * torch.randn(256, 8) for _ in range(10)]
for rounds, normalized in ((1, False), (1, True), (3, True)):
    batches = [batch.clone() for batch in stored]
    given = itertools.chain.from_iterable(itertools.repeat(batches)) if rounds > 1 else batches
    folder = train(given, normalized, f"run-{rounds}-{normalized}")
    ratios = [float((before / after).median()) for before, after in zip(stored, batches, strict=True)]
    print(f"rounds {rounds}, normalized {normalized}: stored activations are smaller {min(ratios):.3g} to {max(ratios):.3g} times")
    if not normalized:
        assert ratios == [1.0] * 10, "changed: without normalisation"
        continue
    assert min(ratios) > 10, "changed: the caller's tensors stay as they are"
    if rounds > 1:
        assert max(ratios) > 100, "changed: later rounds"
    else:
        ae = AutoEncoderTopK.from_pretrained(folder / "ae.pt", k=K)
        with torch.no_grad():
            errors = [float((x - ae(x)).pow(2).sum() / (x - x.mean(0)).pow(2).sum()) for x in (stored[0], batches[0])]
        print(f"unexplained by the saved autoencoder: {errors[0]:.2f} of what was passed, {errors[1]:.2f} of what is there now")
        assert errors[1] > errors[0] + 0.1, "changed: the score on the tensors that were passed"
PYTHON
