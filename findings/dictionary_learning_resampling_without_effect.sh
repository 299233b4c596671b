#!/usr/bin/env bash
# dictionary_learning 0.1.0: PAnnealTrainer says "resampling 30 neurons" and changes none of their weights.
#
# Expected: with resample_steps dead neurons get a new encoder row, decoder column and bias from badly explained
# activations, as StandardTrainer gives them. Seen: `weight[deads][:n] = new` writes into a copy that the first index makes. The
# message appears, the moments of Adam are set to 0, and the weights stay what they were. So the neurons stay dead, and
# what resample_steps brings is its repeated warm-up of the learning rate alone. GatedAnnealTrainer has the same lines, and
# raises at the bias that its encoder lacks.
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
from dictionary_learning.trainers.standard import StandardTrainer

WIDTH, FEATURES, STEPS, EVERY = 16, 64, 101, 100
torch.manual_seed(0)
truth = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
x = torch.relu(torch.randn(4096, FEATURES) - 1.5) @ truth


def trained(cls, options):
    """Which rows of the encoder, columns of the decoder and biases changed at the resampling, and which neurons were dead."""
    trainer = cls(
        steps=10 * STEPS, activation_dim=WIDTH, dict_size=FEATURES, layer=0, lm_name="none", warmup_steps=1,
        sparsity_warmup_steps=0, resample_steps=EVERY, device="cpu", seed=0, **options,
    )
    with torch.no_grad():
        trainer.ae.encoder.bias[:24] = -100.0  # dead from the start
    found = {}
    resample = trainer.resample_neurons

    def watched(deads, activations):
        ae = trainer.ae
        found["dead"] = deads.clone()
        before = [value.detach().clone() for value in (ae.encoder.weight, ae.decoder.weight.T, ae.encoder.bias[:, None])]
        resample(deads, activations)
        after = (ae.encoder.weight, ae.decoder.weight.T, ae.encoder.bias[:, None])
        found["changed"] = [(old != new).any(1) for old, new in zip(before, after)]

    trainer.resample_neurons = watched
    for step in range(STEPS):
        trainer.update(step, x[step % 16 * 256 :][:256])
    codes = trainer.ae.encode(x)
    return found["dead"], found["changed"], (codes > 0).any(0)


for cls, options, works in (
    (StandardTrainer, {}, True),
    (PAnnealTrainer, {"anneal_start": 1000}, False),
):
    dead, changed, alive = trained(cls, options)
    counts = [int(part[dead].sum()) for part in changed]
    revived = int((alive & dead).sum())
    print(f"{cls.__name__}: {int(dead.sum())} dead, new encoder rows, decoder columns, biases {counts}, firing again {revived}")
    assert int(dead.sum()) >= 24, "dead neurons"
    assert (min(counts) > 0 and revived > 0) if works else (max(counts) == 0 and revived == 0), "changed: resampling"

trainer = GatedAnnealTrainer(
    steps=10 * STEPS, activation_dim=WIDTH, dict_size=FEATURES, layer=0, lm_name="none", warmup_steps=1,
    sparsity_warmup_steps=0, resample_steps=EVERY, device="cpu", anneal_start=1000,
)
trainer.update(0, x[:256])
try:
    trainer.resample_neurons(torch.arange(FEATURES) < 24, x[:256])
except TypeError as error:
    print("GatedAnnealTrainer raises", error)
else:
    raise AssertionError("changed: GatedAnnealTrainer")
PYTHON
