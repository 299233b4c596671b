#!/usr/bin/env bash
# dictionary_learning 0.1.0: with anneal_end before the last step GatedAnnealTrainer goes on without any sparsity penalty.
#
# Expected: `p_end` is "exact endpoint excluded", so with its default of 0 the exponent stays above 0, and after the annealing the
# penalty is that of the last exponent. Seen: the exponents are linspace(p_start, p_end), the endpoint included, and the
# last of them comes into force at `anneal_end`. f ** 0 is 1 for every feature, active or not: a constant, whose gradient
# is 0. From there on the autoencoder gets denser: below from 12 features a token to 22, where the same run that anneals up to
# its end, the default, has 11: its last exponent is due at a step that is never reached. The logged penalty stays
# above 0. With p_end=0.1 the number of features stays. PAnnealTrainer has the same lines; with its default of "Lp"
# instead of "Lp^p" it divides by p and raises.
# Source: run as below with dictionary-learning 0.1.0, torch 2.13.0, random inputs; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 dictionary-learning==0.1.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, nnsight cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from dictionary_learning.trainers.gated_anneal import GatedAnnealTrainer
from dictionary_learning.trainers.p_anneal import PAnnealTrainer

WIDTH, FEATURES, STEPS, START, END = 16, 64, 900, 100, 300
torch.manual_seed(0)
truth = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
held_out = torch.relu(torch.randn(2048, FEATURES) - 1.5) @ truth


def trained(cls, **options):
    """The last exponent and penalty, and the features a token just before END and at the end."""
    trainer = cls(
        steps=STEPS, activation_dim=WIDTH, dict_size=FEATURES, layer=0, lm_name="none", lr=1e-3, warmup_steps=0,
        sparsity_warmup_steps=50, anneal_start=START, initial_sparsity_penalty=0.3, device="cpu", seed=0, **options,
    )
    generator = torch.Generator().manual_seed(1)
    counts = []
    for step in range(STEPS):
        trainer.update(step, torch.relu(torch.randn(256, FEATURES, generator=generator) - 1.5) @ truth)
        if step in (END - 1, STEPS - 1):
            counts.append(float((trainer.ae.encode(held_out) > 0).float().sum(1).mean()))
    return trainer.p, float(trainer.scaled_lp_loss), *counts


for name, options, exponent, dense in (
    ("anneal_end=300", {"anneal_end": END}, 0.0, True),
    ("anneal_end=300, p_end=0.1", {"anneal_end": END, "p_end": 0.1}, 0.1, False),
    ("default anneal_end", {}, 1 / 9, False),
):
    p, penalty, before, after = trained(GatedAnnealTrainer, **options)
    print(f"{name}: p {p:.3f}, penalty {penalty:.3f}, features a token after {END} steps {before:.1f}, after {STEPS} {after:.1f}")
    assert abs(p - exponent) < 1e-6 and penalty > 0.1, "changed: the last exponent"
    assert (after > 1.6 * before) if dense else (after < 1.2 * before), "changed: features a token"
try:
    trained(PAnnealTrainer, anneal_end=END)
except ZeroDivisionError as error:
    print("PAnnealTrainer raises", error)
else:
    raise AssertionError("changed: PAnnealTrainer")
PYTHON
