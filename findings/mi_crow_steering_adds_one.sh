#!/usr/bin/env bash
# mi-crow 1.0.0.post10: changing one concept's multiplier adds 1.0 to every latent of the autoencoder, active or not.
#
# Expected: with `concepts.multiplication[3] = 0` one concept is switched off, and a concept that is not active stays without
# effect. Seen: the manipulation is latents * multiplication + bias, and `bias` starts as ones, not zeros. As long as both
# are ones it is left out, so that nothing shows; the first multiplier that is changed brings the bias in for all. With 64
# latents of which 4 fire, 64 are non-zero afterwards, the concept that was switched off has 1.0, and the output moves by
# several times its own norm, where without the concept it would move by a fraction. Nothing is said. A bias set to
# zeros by hand, before, gives what is expected. TopKSae and L1Sae are alike.
# Also, the latents that the TopKSae records as "activations", and ranks texts by, are those before the choice of k: all 64.
# Source: run as below with mi-crow 1.0.0.post10, overcomplete 0.3.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of the requirements of both what the autoencoders import
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 scipy==1.17.1 scikit-learn==1.9.1 tqdm pillow \
  transformers==5.24.0 datasets safetensors
"$work/env/bin/pip" install --quiet --no-deps mi-crow==1.0.0.post10 overcomplete==0.3.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import sys
from unittest.mock import MagicMock

# overcomplete's image models and plots, which are not used here, want torchvision and an older matplotlib
sys.modules.update({"overcomplete.models": MagicMock(), "overcomplete.visualization": MagicMock()})

import torch
from mi_crow.mechanistic.sae.modules.l1_sae import L1Sae
from mi_crow.mechanistic.sae.modules.topk_sae import TopKSae

WIDTH, LATENTS, K = 16, 64, 4
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(3, 5, WIDTH)


def output(sae):
    """What the autoencoder puts in place of a module's output, and the latents that it decodes."""
    decode, seen = sae.decode, []
    sae.decode = lambda latents: seen.append(latents) or decode(latents)
    try:
        return sae.modify_activations(torch.nn.Identity(), None, x), seen[0]
    finally:
        sae.decode = decode


for cls in (TopKSae, L1Sae):
    sae = cls(n_latents=LATENTS, n_inputs=WIDTH)
    if cls is TopKSae:
        sae.sae_engine = sae._initialize_sae_engine(k=K)  # as its train() does
    sae.sae_engine.eval()
    before, codes = output(sae)
    concept = int((codes > 0).sum(0).argmax())
    without = codes.clone()
    without[:, concept] = 0
    expected = sae.decode(without).reshape(x.shape)

    sae.concepts.multiplication[concept] = 0.0
    after, changed = output(sae)
    sae.concepts.bias.zero_()
    by_hand, _ = output(sae)

    def moved(to):
        return float((to - before).norm() / before.norm())

    counts = [float((value != 0).float().sum(1).mean()) for value in (codes, changed)]
    print(
        f"{cls.__name__}: non-zero latents a token {counts[0]:.1f}, with concept {concept} off {counts[1]:.1f}, that concept's value "
        f"{changed[:, concept].unique().tolist()}; output moves by {moved(after):.2f} of its norm, expected {moved(expected):.2f}, "
        f"with a bias of zeros {moved(by_hand):.2f}"
    )
    assert torch.equal(changed[:, concept], torch.ones(15)), "changed: the concept that was switched off"
    other = torch.arange(LATENTS) != concept
    assert torch.allclose(changed[:, other], codes[:, other] + 1), "changed: all others"
    assert torch.allclose(by_hand, expected, atol=1e-5), "changed: a bias of zeros"
    assert moved(after) > 3 * moved(expected), "changed: the output"
    if cls is TopKSae:
        recorded = float((sae.tensor_metadata["activations"] != 0).float().sum(-1).mean())
        print(f"TopKSae with k = {K}: non-zero recorded activations a token {recorded:.1f}")
        assert counts[0] <= K and recorded == LATENTS, "changed: what is recorded"
PYTHON
