#!/usr/bin/env bash
# circuit-tracer 0.5.0: the output of a cross-layer transcoder ends at the last position where a feature is active.
#
# Expected: as many positions as the input has, with the decoder bias alone where no feature fires, as its single-layer
# transcoders return. Seen: `decode`, and with it the forward pass and compute_attribution_components, takes the number
# of positions from the last active one: of 5 positions, silent in the last 2, the result has 3. What is then subtracted
# from it or compared fails by shape, or is matched with other positions where one side has length 1.
# With skip_connection=True the forward pass raises an AssertionError for every input: it calls decode without the input
# that decode then asks for. `decode(features, inputs)` is what works, one product with W_skip included.
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
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder
from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

LAYERS, POSITIONS, WIDTH, FEATURES = 2, 5, 8, 16
torch.manual_seed(0)
torch.set_grad_enabled(False)
sizes = {"device": torch.device("cpu"), "dtype": torch.float32}


def drawn(transcoder):
    for weight in transcoder.parameters():
        weight.normal_()
    transcoder.b_enc.fill_(-0.1)  # an input of zeros makes no feature fire
    return transcoder


across = drawn(CrossLayerTranscoder(LAYERS, FEATURES, WIDTH, lazy_decoder=False, **sizes))
single = drawn(SingleLayerTranscoder(WIDTH, FEATURES, torch.nn.functional.relu, 0, **sizes))
for silent, expected in (((), 5), ((3, 4), 3), ((0, 1), 5)):
    x = torch.randn(LAYERS, POSITIONS, WIDTH)
    x[:, list(silent)] = 0
    found, own = across(x), single(x[0])
    parts = across.compute_attribution_components(x)["reconstruction"]
    print(f"silent positions {silent}: cross-layer {tuple(found.shape)}, single-layer {tuple(own.shape)}")
    assert found.shape == parts.shape == (LAYERS, expected, WIDTH), "changed: the positions of the output"
    assert own.shape == (POSITIONS, WIDTH), "changed: a single-layer transcoder"
    if silent:
        assert torch.equal(own[silent[0]], single.b_dec), "changed: a silent position of a single-layer transcoder"

skipping = drawn(CrossLayerTranscoder(LAYERS, FEATURES, WIDTH, skip_connection=True, lazy_decoder=False, **sizes))
x = torch.randn(LAYERS, POSITIONS, WIDTH)
try:
    skipping(x)
except AssertionError as error:
    print("with a skip connection:", error)
    assert "no input_acts" in str(error), "changed: why the forward pass fails"
else:
    raise AssertionError("changed: the forward pass with a skip connection works")
features = skipping.encode(x)
plain = skipping.decode(features, torch.zeros_like(x))
assert torch.allclose(skipping.decode(features, x) - plain, x @ skipping.W_skip, atol=1e-4), "changed: decode with a skip"
PYTHON
