#!/usr/bin/env bash
# SAELens 6.54.12: with rescale_acts_by_decoder_norm, one decoder row of zeros makes every reconstruction NaN.
#
# Zeroing a feature's decoder row is the usual way to switch it off, and pruned or unused features have such rows.
# Expected: the feature drops out, as it does without the option, which is on by default in its TopK and BatchTopK
# trainers. Seen: decode divides by the rows' norms, the feature's activation of 0 becomes 0 * inf, and the product
# spreads the NaN over all tokens, whether or not the feature was ever picked; encode gives no NaN. Nothing is said.
# fold_W_dec_norm, which first clamps the norms, before or after zeroing does not help; with the option then off it does.
# Source: run as below with sae-lens 6.54.12, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12 transformer-lens==3.9.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAEConfig

torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(50, 16)


def nan_share(rescale, fold="", off=False):
    sae = TopKSAE(TopKSAEConfig(d_in=16, d_sae=64, k=4, rescale_acts_by_decoder_norm=rescale))
    if fold == "before":
        sae.fold_W_dec_norm()
    assert not sae(x).isnan().any()
    sae.W_dec[5] = 0
    if fold == "after":
        sae.fold_W_dec_norm()
    if off:
        sae.cfg.rescale_acts_by_decoder_norm = False
    assert not sae.encode(x).isnan().any(), "changed: encode"
    return float(sae(x).isnan().float().mean())


for rescale, fold, off, expected in (
    (False, "", False, 0.0), (True, "", False, 1.0), (True, "before", False, 1.0), (True, "after", False, 1.0),
    (True, "before", True, 0.0),
):
    found = nan_share(rescale, fold, off)
    print(f"rescaled {rescale}, folded {fold or 'never'}{', then off' * off}: {found:.0%} of the numbers are NaN")
    assert found == expected, f"changed: rescaled {rescale}, folded {fold or 'never'}"
for config in (TopKTrainingSAEConfig, BatchTopKTrainingSAEConfig):
    assert config(d_in=16, d_sae=64).rescale_acts_by_decoder_norm, f"changed: the default of {config.__name__}"
PYTHON
