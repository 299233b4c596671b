#!/usr/bin/env bash
# overcomplete 0.3.0: loading weights into a model in eval mode changes its encoder and leaves its old dictionary in use.
#
# Expected: after load_state_dict, which reports that all keys match, the model computes what the saved one computes. Seen:
# eval() keeps a copy of the dictionary that is no part of the state dict; while the model stays in eval mode, decode,
# forward and get_dictionary() return that copy, the random one from before. Codes are the saved model's, reconstructions
# are not, and another eval() does not help: only train() and then eval() does. So does loading before the first eval().
# Writing to the weights in eval mode, to switch off or steer a concept, is without effect in the same way.
# Source: run as below with overcomplete 0.3.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 einops==0.8.2 scipy==1.17.1 scikit-learn==1.9.1 tqdm pillow
"$work/env/bin/pip" install --quiet --no-deps overcomplete==0.3.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import sys
from unittest.mock import MagicMock

# its image models and plots, which are not used here, want torchvision and an older matplotlib
sys.modules.update({"overcomplete.models": MagicMock(), "overcomplete.visualization": MagicMock()})

import torch
from overcomplete.sae import JumpSAE, TopKSAE

WIDTH, CONCEPTS = 16, 32
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(200, WIDTH)


def same(first, second):
    return torch.allclose(first, second, atol=1e-5)


def compared(model, saved):
    """Are codes, reconstructions and dictionary those of the saved model?"""
    _, codes, outputs = model(x)
    _, saved_codes, saved_outputs = saved(x)
    found = same(codes, saved_codes), same(outputs, saved_outputs), same(model.get_dictionary(), saved.get_dictionary())
    return dict(zip(("codes", "reconstructions", "dictionary"), found))


for cls, options in ((TopKSAE, {"top_k": 4}), (JumpSAE, {})):
    saved = cls(WIDTH, CONCEPTS, **options).eval()
    state = saved.state_dict()

    early = cls(WIDTH, CONCEPTS, **options)
    assert str(early.load_state_dict(state)) == "<All keys matched successfully>"
    early.eval()
    found = compared(early, saved)
    print(f"{cls.__name__}, loaded, then eval(): the same", found)
    assert all(found.values()), "changed: loading before eval()"

    model = cls(WIDTH, CONCEPTS, **options).eval()
    before = model.get_dictionary().clone()
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    for then in ("nothing", "eval()"):
        if then == "eval()":
            model.eval()
        found = compared(model, saved)
        print(f"{cls.__name__}, eval(), then loaded, then {then}: the same", found)
        assert found == {"codes": True, "reconstructions": False, "dictionary": False}, f"changed: loading in eval mode, then {then}"
        assert torch.equal(model.get_dictionary(), before), "changed: which dictionary is in use"
    model.train()
    model.eval()
    assert all(compared(model, saved).values()), "changed: train(), then eval()"

    outputs = model(x)[2]
    model.dictionary._weights.zero_()
    assert torch.equal(model(x)[2], outputs), "changed: writing to the weights in eval mode"
PYTHON
