#!/usr/bin/env bash
# llamascopium 2.0.0b34: folding the activations' norm into a jump-ReLU autoencoder leaves its thresholds unscaled.
#
# Expected: after standardize_parameters_of_dataset_norm, with which training settings save by default, raw activations
# give the reconstructions that normalised ones gave, so the documentation of `inference`. Seen: biases and decoder are
# scaled, log_jumprelu_threshold is not. With an average norm 14 times sqrt(d_model) a threshold of 1 stands for 1/14:
# nearly all that is positive fires, and reconstructions differ, without a word. ReLU autoencoders come out the same, and
# so do these once log(norm / sqrt(d_model)) is added to log_jumprelu_threshold by hand.
# Source: run as below with llamascopium 2.0.0b34, transformer-lens 3.9.0, torch 2.13.0, random weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 llamascopium==2.0.0b34 transformer-lens==3.9.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import math

import torch
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.runners.train import TrainSAESettings

WIDTH, NORM = 8, 40.0
SCALE = NORM / math.sqrt(WIDTH)
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = SCALE * torch.randn(500, WIDTH)


def folded(activation, include, by_hand=False):
    """L0 before and after the norm is folded in, and how far the reconstructions moved."""
    sae = SparseAutoEncoder.from_config(
        SAEConfig(
            sae_type="sae", hook_point_in="site", hook_point_out="site", d_model=WIDTH, expansion_factor=4,
            act_fn=activation, dtype=torch.float32, device="cpu", norm_activation="dataset-wise",
            sparsity_include_decoder_norm=include,
        )
    )
    for weight in sae.parameters():
        weight.normal_()
    if activation == "jumprelu":
        sae.activation_function.log_jumprelu_threshold.zero_()
    sae.set_dataset_average_activation_norm({"site": NORM})
    code = sae.encode(sae.normalize_activations({"site": x})["site"])
    before = SCALE * sae.decode(code)
    sae.standardize_parameters_of_dataset_norm()
    if by_hand:
        sae.activation_function.log_jumprelu_threshold.add_(math.log(SCALE))
    raw = sae.encode(sae.normalize_activations({"site": x})["site"])
    moved = float((sae.decode(raw) - before).norm() / before.norm())
    return float((code > 0).sum(1).float().mean()), float((raw > 0).sum(1).float().mean()), moved


assert TrainSAESettings.model_fields["fold_activation_scale"].default is True, "changed: what training does by default"
for activation, include, by_hand in (
    ("relu", False, False), ("jumprelu", False, False), ("jumprelu", True, False), ("jumprelu", False, True),
    ("jumprelu", True, True),
):
    first, then, moved = folded(activation, include, by_hand)
    print(
        f"{activation}, thresholds times decoder norm {include}{', scaled by hand' * by_hand}: L0 {first:.1f} to {then:.1f}, "
        f"reconstructions moved by {moved:.1%}"
    )
    if activation == "relu" or by_hand:
        assert abs(first - then) < 1e-3 and moved < 1e-4, f"changed: {activation}"
    else:
        assert then > first + 1 and moved > 0.01, "changed: thresholds are scaled"
PYTHON
