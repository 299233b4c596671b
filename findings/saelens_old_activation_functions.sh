#!/usr/bin/env bash
# SAELens 6.54.12 reads a folder of its version 5 whose activation function was tanh-relu as plain ReLU, without a word.
#
# Version 5 wrote `activation_fn_str` ("relu", "tanh-relu", "topk") beside `architecture: "standard"`; its "tanh-relu" is
# tanh(relu(x)) (`get_activation_fn` in sae.py of 5.11.0, read there, not run). Version 6.54.12 turns the configuration
# into a StandardSAE: the activation of 3.0 is 3.0, where tanh(3.0) is 0.995.
# Source: run as below with sae-lens 6.54.12, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 sae-lens==6.54.12
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, SAELens cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import json
import pathlib

import torch
from safetensors.torch import save_file
from sae_lens import SAE

x = torch.tensor([[3.0, 1.0, -2.0]])
name = "tanh-relu"
folder = pathlib.Path(name)
folder.mkdir()
config = {
    "architecture": "standard", "activation_fn_str": name, "activation_fn_kwargs": {}, "d_in": 3, "d_sae": 3,
    "dtype": "float32", "device": "cpu", "model_name": "gpt2", "hook_name": "blocks.0.hook_resid_pre", "hook_layer": 0,
    "hook_head_index": None, "context_size": 128, "prepend_bos": True, "apply_b_dec_to_input": False,
    "finetuning_scaling_factor": False, "normalize_activations": "none", "dataset_path": "none",
    "dataset_trust_remote_code": False, "sae_lens_training_version": "5.0.0", "model_from_pretrained_kwargs": {},
    "neuronpedia_id": None, "seqpos_slice": [None],
}
(folder / "cfg.json").write_text(json.dumps(config))
weights = {"W_enc": torch.eye(3), "b_enc": torch.zeros(3), "W_dec": torch.eye(3), "b_dec": torch.zeros(3)}
save_file(weights, folder / "sae_weights.safetensors")
sae = SAE.load_from_disk(folder, device="cpu")
found = (type(sae).__name__, sae.encode(x).tolist())
print(name, *found)
assert found == ("StandardSAE", [[3.0, 1.0, 0.0]]), "changed: tanh is kept or refused"
PYTHON
