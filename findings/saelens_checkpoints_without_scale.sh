#!/usr/bin/env bash
# SAELens 6.54.12: a checkpoint from before the end of a run with normalize_activations loads without its scale, silently.
#
# Expected: as for the final checkpoint, whose weights were scaled back, a loaded autoencoder takes the model's own activations;
# or it refuses. Seen: with "expected_average_only_in" the weights in a checkpoint are those for scaled activations, the factor is
# in activation_scaler.json beside them, and SAE.load_from_disk does not read it: encode and decode apply no
# normalisation, and nothing is said. Biases and thresholds are then too small by the factor, 22 below: 73 features a row
# fire instead of 6, or 42 instead of 4 with jump ReLU, a tenth of them the right ones. A curve of L0 or error over checkpoints
# jumps at its last point, whatever the training did. Multiplied by the factor first, activations give what the training
# saw. Checkpoints with "covariance_whitening" load in the same way. Its issue 381, on this, was closed when the factor came to
# be saved.
# Source: run as below with sae-lens 6.54.12, torch 2.13.0, random activations; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" - 2> messages <<'PYTHON' || { cat messages; exit 1; }
import json
import pathlib
import warnings

import torch
from sae_lens import SAE, JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

WIDTH, FEATURES, ROWS, STEPS = 32, 128, 256, 1200
torch.manual_seed(0)
truth = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
offset = 20 * torch.randn(WIDTH)


def batches():
    while True:
        yield 50 * torch.relu(torch.randn(ROWS, FEATURES) - 1.8) @ truth + offset


def error(sae, x, factor):
    """Of activations that are scaled by hand before and after."""
    return float((x - sae(x * factor) / factor).square().sum() / (x - x.mean(0)).square().sum())


def train(cls, config, normalize):
    folder = pathlib.Path(f"{cls.__name__}-{normalize}")
    sae = cls(config(d_in=WIDTH, d_sae=FEATURES, normalize_activations=normalize, **OPTIONS[cls]))
    settings = SAETrainerConfig(
        n_checkpoints=2, checkpoint_path=str(folder), save_final_checkpoint=True, total_training_samples=ROWS * STEPS, device="cpu",
        autocast=False, lr=3e-3, lr_end=3e-4, lr_scheduler_name="constant", lr_warm_up_steps=0, lr_decay_steps=0, adam_beta1=0.9,
        adam_beta2=0.999, n_restart_cycles=1, train_batch_size_samples=ROWS, dead_feature_window=1000,
        feature_sampling_window=1000, logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(cfg=settings, sae=sae, data_provider=batches()).fit()
    return sorted(folder.iterdir(), key=lambda path: (path.name.startswith("final"), path.name))


OPTIONS = {StandardTrainingSAE: {"l1_coefficient": 1.0}, JumpReLUTrainingSAE: {"l0_coefficient": 1.0}}
x = next(batches())
for cls, config in ((StandardTrainingSAE, StandardTrainingSAEConfig), (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig)):
    for path in train(cls, config, "expected_average_only_in"):
        factor = json.loads((path / "activation_scaler.json").read_text())["scaling_factor"]
        with warnings.catch_warnings(record=True) as said, torch.no_grad():
            warnings.simplefilter("always")
            sae = SAE.load_from_disk(path, device="cpu")
            as_loaded, scaled = error(sae, x, 1.0), error(sae, x, factor or 1.0)
            active = [sae.encode(x * value) > 0 for value in (1.0, factor or 1.0)]
        counts = [float(value.float().sum(1).mean()) for value in active]
        alike = float((active[0] & active[1]).sum() / (active[0] | active[1]).sum())
        said = [str(warning.message) for warning in said if issubclass(warning.category, UserWarning)]
        print(
            f"{cls.__name__}, {path.name}: factor {factor}; as loaded error {as_loaded:.3f}, {counts[0]:.1f} features a row, "
            f"scaled by hand {scaled:.3f}, {counts[1]:.1f}; of all that fire {alike:.0%} are the same; warnings {said}"
        )
        assert not said, "changed: loading warns"
        if path.name.startswith("final"):
            assert factor is None and sae.cfg.normalize_activations == "none", "changed: the final checkpoint"
        else:
            assert sae.cfg.normalize_activations == "expected_average_only_in", "changed: the configuration"
            assert alike < 0.8, "changed: a checkpoint takes the model's activations"
            assert cls is JumpReLUTrainingSAE or as_loaded > 2 * scaled, "changed: the error of a checkpoint as loaded"

path = train(StandardTrainingSAE, StandardTrainingSAEConfig, "covariance_whitening")[0]
with torch.no_grad():
    sae = SAE.load_from_disk(path, device="cpu")
    print(f"covariance_whitening, {path.name}: {sae.cfg.normalize_activations}, relative error as loaded {error(sae, x, 1.0):.3f}")
    assert sae.cfg.normalize_activations == "covariance_whitening" and error(sae, x, 1.0) > 0.5, "changed: whitening"
PYTHON
