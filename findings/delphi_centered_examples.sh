#!/usr/bin/env bash
# delphi (eai-delphi) 0.1.3: center_examples=True, the default, gives uncentred examples; False gives wrongly marked ones.
#
# Expected, by its documentation: "If True, the examples will be centered on the latent activation. Otherwise, windows will
# be used". Seen: the two branches are exchanged. True cuts each sequence into fixed windows, with the strongest token
# anywhere; False puts it at three quarters of every example. What False returns has other activations than were cached
# where an example reaches into the window before or after: tokens at which the latent fired are marked as silent, and
# silent ones as active, since the neighbour's activations are looked up by the wrong index. Explainers and the fuzzing
# scorer are shown these marks. With True every activation is right. That False leaves out the windows at both ends of a
# sequence is documented.
# Source: run as below with eai-delphi 0.1.3, torch 2.13.0, given activations; no model is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of its requirements what the construction of examples imports
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 numpy==2.4.6 datasets safetensors faiss-cpu \
  sentence-transformers simple-parsing jaxtyping beartype orjson asyncer anyio blobfile
"$work/env/bin/pip" install --quiet --no-deps eai-delphi==0.1.3 eai-sparsify==1.3.3
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, transformers fails with it
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import types

import torch
from delphi.config import ConstructorConfig
from delphi.latents.constructors import constructor
from delphi.latents.latents import ActivationData, Latent, LatentRecord

WINDOW = 8
tokenizer = types.SimpleNamespace(batch_decode=lambda tokens: [str(int(token)) for token in tokens])


def examples(active, center):
    """Tokens, their activations in the example, and their cached activations; each token is its own number."""
    tokens = torch.arange(active.numel()).view(active.shape)
    places = active.nonzero()
    data = ActivationData(torch.cat([places, torch.zeros(len(places), 1, dtype=torch.long)], 1), active[active != 0])
    config = ConstructorConfig(example_ctx_len=WINDOW, min_examples=1, n_non_activating=0, center_examples=center)
    record = constructor(LatentRecord(Latent("site", 0)), data, config, tokens, tokenizer)
    return [(example.tokens.tolist(), example.activations, active.flatten()[example.tokens]) for example in record.examples]


assert ConstructorConfig().center_examples is True, "changed: the default"
small = torch.zeros(1, 48)
small[0, 23], small[0, 25], small[0, 30] = 2.0, 3.0, 1.0
shown, marked, cached = examples(small, False)[0]
print(f"False, tokens {shown[0]} to {shown[-1]}: in the example {marked.tolist()}, in the cache {cached.tolist()}")
assert (shown[0], cached.tolist()) == (19, [0, 0, 0, 0, 2, 0, 3, 0]), "changed: which tokens are shown"
assert marked.tolist() == [0, 0, 0, 1, 0, 0, 3, 0], "changed: the activations shown with them"

generator = torch.Generator().manual_seed(0)
active = (torch.rand(30, 48, generator=generator) < 0.2) * (1 + torch.rand(30, 48, generator=generator))
for center in (True, False):
    found = examples(active, center)
    fixed = sum(bool(cached[WINDOW * 3 // 4] > 0) for *_, cached in found) / len(found)
    silenced = sum(int(((marked == 0) & (cached != 0)).sum()) for _, marked, cached in found)
    invented = sum(int(((marked != 0) & (marked != cached)).sum()) for _, marked, cached in found)
    print(
        f"center_examples={center}: {len(found)} examples, active at index 6 in {fixed:.0%}, "
        f"{silenced} active tokens marked silent, {invented} with an activation that they do not have"
    )
    if center:
        assert fixed < 0.5, "changed: True centres"
        assert silenced == invented == 0, "changed: the activations with True"
    else:
        assert fixed == 1.0, "changed: False does not centre"
        assert silenced > 10 and invented > 10, "changed: the activations with False are right"
PYTHON
