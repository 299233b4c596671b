#!/usr/bin/env bash
# SAEBench 0.6.0: ablating features, for its SCR and TPP metrics, acts on padding too, once for every padded position.
#
# Expected: positions that are masked (their activations are zeros) do not count, as in its sparse probing: a text with more
# padding has the same mean activation after an ablation. Seen: `ablated_precomputed_activations` encodes the zeros of the
# padding like any token. Zeros are far from the mean of real activations, many features fire on them, and those that are
# ablated are subtracted there as well; the sum over all positions is divided by the number of real tokens. So a text of 32 tokens
# padded to 128, the context length of the metrics, is moved by the ablated features' response to zeros three times over. Below,
# where the probe of two classes hardly sees the ablated features, its accuracy stays at 0.998 without padding and is 0.5,
# chance, with it, and both metrics count that as an effect of the features. Without an ablation, or with features that
# are silent on zeros, padding changes nothing.
# Source: run as below with sae-bench 0.6.0, sae-lens 6.54.12, torch 2.13.0; the activations are given, no model is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of its requirements what these metrics import
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12 transformer-lens==3.9.0 scikit-learn==1.9.1 tabulate
"$work/env/bin/pip" install --quiet --no-deps sae-bench==0.6.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from sae_bench.evals.scr_and_tpp.main import ablated_precomputed_activations
from sae_bench.sae_bench_utils.activation_collection import create_meaned_model_activations, get_sae_meaned_activations
from sae_lens import StandardSAE, StandardSAEConfig

WIDTH, FEATURES, TEXTS, TOKENS, LENGTH = 64, 256, 400, 32, 128
torch.manual_seed(0)
torch.set_grad_enabled(False)
mean = 3 * torch.randn(WIDTH)
# two classes differ along the first axis, on which no ablated feature has a part
labels = torch.arange(TEXTS) % 2
texts = mean + torch.randn(TEXTS, TOKENS, WIDTH)
texts[..., 0] = labels[:, None] - 0.5 + torch.randn(TEXTS, TOKENS)
padded = torch.zeros(TEXTS, LENGTH, WIDTH)
padded[:, LENGTH - TOKENS :] = texts

sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=FEATURES))
directions = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
directions[:, 0] = 0
sae.W_dec.copy_(directions)
sae.W_enc.copy_(directions.T)
sae.b_enc.fill_(-1.0)
sae.b_dec.copy_(mean)
on_zeros = sae.encode(torch.zeros(1, WIDTH))[0]
on_texts = sae.encode(texts).flatten(0, 1).mean(0)
print(f"features that fire on a token {(sae.encode(texts) > 0).float().sum(-1).mean():.0f}, on zeros {int((on_zeros > 0).sum())} of {FEATURES}")

probe = torch.zeros(WIDTH)
probe[0], probe[1:] = 1.0, 0.05 * torch.randn(WIDTH - 1)
threshold = float((create_meaned_model_activations({"all": texts})["all"] @ probe).mean())
for name, chosen in (
    ("none", torch.zeros(FEATURES, dtype=torch.bool)), ("10 that are silent on zeros", on_zeros.eq(0)),
    ("10 of those that fire on zeros", on_zeros.gt(0)),
):
    ablated = torch.zeros(FEATURES, dtype=torch.bool)
    ablated[chosen.nonzero()[:10, 0]] = True
    found, accuracy = {}, {}
    for form, activations in (("as they are", texts), ("padded", padded)):
        found[form] = ablated_precomputed_activations(activations, sae, ablated, 50)
        accuracy[form] = float(((found[form] @ probe > threshold) == labels.bool()).float().mean())
    moved = float((found["padded"] - found["as they are"]).norm(dim=1).mean())
    effect = float((found["as they are"] - texts.mean(1)).norm(dim=1).mean())
    by_hand = (LENGTH - TOKENS) / TOKENS * float((on_zeros * ablated @ sae.W_dec).norm())
    print(
        f"ablated {name}: moves the mean by {effect:.3f}, padding by {moved:.3f} (response to zeros, three times: {by_hand:.3f}); "
        f"accuracy of the probe {accuracy['as they are']:.3f}, padded {accuracy['padded']:.3f}"
    )
    assert abs(moved - by_hand) < 1e-2, "changed: what padding adds"
    if name.endswith("fire on zeros"):
        assert moved > 50 * effect and accuracy["as they are"] > 0.99 and accuracy["padded"] < 0.6, "changed: the effect of padding"
probing = [get_sae_meaned_activations({"all": activations}, sae, 50)["all"] for activations in (texts, padded)]
assert torch.allclose(*probing, atol=1e-4), "sparse probing leaves padding out"
PYTHON
