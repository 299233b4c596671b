#!/usr/bin/env bash
# transformers 5.23.0 loads a GGUF file with scaled rotary positions as if nothing was scaled, without a word.
#
# A file of the llama family with `llama.rope.scaling.type = linear` and `llama.rope.scaling.factor = 8` comes out with
# rope_parameters of type "default", and its logits are those of the same weights in a file without the two entries, to
# the last bit. With the factor filled in by hand they differ by several units. The entries are in the format's
# documentation and are written by the gguf package (0.19.0). Longer prompts than the model was first trained on suffer.
# Source: run as below with transformers 5.23.0, gguf 0.19.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.23.0 gguf==0.19.0 accelerate
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import pathlib

import gguf
import numpy as np
import torch
import transformers

WIDTH, BLOCKS, HEADS, INNER, WORDS = 32, 2, 2, 64, 48


def write(folder, scaled):
    folder.mkdir()
    draw = np.random.default_rng(0)
    file = gguf.GGUFWriter(str(folder / "model.gguf"), "llama")
    file.add_context_length(256)
    file.add_embedding_length(WIDTH)
    file.add_block_count(BLOCKS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_vocab_size(WORDS)
    file.add_tokenizer_model("gpt2")
    file.add_token_list([f"t{i}" for i in range(WORDS)])
    file.add_token_types([1] * WORDS)
    if scaled:
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        file.add_rope_scaling_factor(8.0)
    shapes = {"token_embd": (WORDS, WIDTH), "output": (WORDS, WIDTH), "output_norm": (WIDTH,)}
    for block in range(BLOCKS):
        shapes |= {f"blk.{block}.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
        shapes |= {f"blk.{block}.ffn_{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes |= {f"blk.{block}.ffn_down": (WIDTH, INNER), f"blk.{block}.attn_norm": (WIDTH,)}
        shapes |= {f"blk.{block}.ffn_norm": (WIDTH,)}
    for name, shape in shapes.items():
        values = np.ones(shape) if len(shape) == 1 else 0.3 * draw.standard_normal(shape)
        file.add_tensor(f"{name}.weight", values.astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


logits = {}
prompt = torch.arange(40)[None]
for scaled in (False, True):
    folder = pathlib.Path(f"scaled-{scaled}")
    write(folder, scaled)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf").eval()
    print("file with scaling" if scaled else "file without", model.config.rope_parameters)
    with torch.no_grad():
        logits[scaled] = model(prompt).logits
assert torch.equal(logits[True], logits[False]), "changed: the scaling is read"
model.config.rope_parameters = {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}
right = type(model)(model.config).eval()
right.load_state_dict(model.state_dict())
with torch.no_grad():
    off = float((right(prompt).logits - logits[True]).abs().max())
print(f"with the factor filled in, logits differ by up to {off:.1f}")
assert off > 1.0, "changed: the factor makes no difference"
PYTHON
