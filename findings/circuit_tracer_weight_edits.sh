#!/usr/bin/env bash
# circuit-tracer 0.5.0: weights of a transcoder that was loaded from a file cannot be changed, and nothing says so.
#
# Expected: transcoder.W_dec[5] = 0 switches a feature off, as in any module, or raises. Seen: the loaders leave encoder
# and decoder in the file (lazy_encoder and lazy_decoder are on), W_enc and W_dec are read again at every access, and the
# write goes into a copy that is dropped at once: every output stays the same, to the last bit. state_dict() and
# parameters() hold the two biases only, so that a checkpoint keeps and an optimiser is given nothing else.
# With both options off the same line works.
# Source: run as below with circuit-tracer 0.5.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
# of its requirements what the transcoders import, in releases that it allows
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==4.57.3 safetensors==0.8.0 numpy pydantic tqdm pyyaml
"$work/env/bin/pip" install --quiet --no-deps circuit-tracer==0.5.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, load_transcoder_set

WIDTH, FEATURES = 8, 16
torch.manual_seed(0)
torch.set_grad_enabled(False)
cpu = torch.device("cpu")
drawn = SingleLayerTranscoder(WIDTH, FEATURES, torch.nn.functional.relu, 0, device=cpu, dtype=torch.float32)
for weight in drawn.parameters():
    weight.normal_()
drawn.to_safetensors("layer_0.safetensors")
x = torch.randn(20, WIDTH)
for options in ({}, {"lazy_encoder": False, "lazy_decoder": False}):
    loaded = load_transcoder_set({0: "layer_0.safetensors"}, "none", "hook_resid_mid", "hook_mlp_out", device=cpu, **options)
    transcoder = loaded[0]
    before = transcoder(x)
    assert torch.allclose(before, drawn(x), atol=1e-5)
    transcoder.W_dec[5] = 0
    transcoder.W_enc.mul_(2)
    unchanged = torch.equal(transcoder(x), before)
    held = sorted(transcoder.state_dict())
    print(f"{options or 'as loaded'}: output unchanged by two edits: {unchanged}; in the state: {held}")
    assert unchanged == (not options), "changed: edits of the weights"
    assert held == (["b_dec", "b_enc"] if not options else ["W_dec", "W_enc", "b_dec", "b_enc"]), "changed: the state"
    assert sorted(name for name, _ in transcoder.named_parameters()) == held, "changed: the parameters"
PYTHON
