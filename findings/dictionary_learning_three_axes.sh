#!/usr/bin/env bash
# dictionary_learning 0.1.0: activations of shape (batch, position, width) get other features than the same rows flattened.
#
# Expected: an activation function that reads one row or one batch of rows gives the same features for a (2, 8, width)
# tensor as for its 16 rows, as its AutoEncoderTopK does. Seen, without an error or a warning:
# - `BatchTopKSAE.encode(x, use_threshold=False)` keeps k features per sequence, not per token: with 8 positions an
#   eighth of them, 0.5 per token for k = 4.
# - `MatryoshkaBatchTopKSAE` with `active_groups = 1` (the prefix of the first 4 of 32 features) silences the positions
#   from the fourth on, where it should silence the features: all features fire at the first four positions, none later.
# Forms that a site's hook returns, as (batch, position, width), must be flattened first.
# Source: run as below with dictionary-learning 0.1.0, torch 2.13.0; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 dictionary-learning==0.1.0
"$work/env/bin/pip" uninstall --quiet --yes torchvision  # where its build is for another torch, nnsight cannot be imported
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK

WIDTH, FEATURES, K = 8, 32, 4
torch.manual_seed(0)
torch.set_grad_enabled(False)
x = torch.randn(2, 8, WIDTH)
rows = x.reshape(-1, WIDTH)

top = AutoEncoderTopK(WIDTH, FEATURES, K)
assert torch.equal(top.encode(x).reshape(-1, FEATURES), top.encode(rows))

batch = BatchTopKSAE(WIDTH, FEATURES, K)
flat, whole = (batch.encode(part, use_threshold=False) for part in (rows, x))
per_token = [float((codes > 0).sum()) / len(rows) for codes in (flat, whole)]
print(f"BatchTopK, k = {K}: {per_token[0]:g} features per token for rows, {per_token[1]:g} for sequences of 8")

nested = MatryoshkaBatchTopKSAE(WIDTH, FEATURES, K, group_sizes=[4, 28])
nested.active_groups = 1
flat, whole = (nested.encode(part) for part in (rows, x))
beyond = [int((codes[..., 4:] > 0).sum()) for codes in (flat, whole)]
positions = sorted({int(position) for position in (whole > 0).nonzero()[:, 1]})
print(f"Matryoshka, first group of 4: features beyond it that fire {beyond[0]} for rows, {beyond[1]} for sequences")
print(f"positions of the sequences at which anything fires: {positions}")

assert per_token == [K, K / 8]
assert beyond[0] == 0 < beyond[1]
assert positions == [0, 1, 2, 3]
PYTHON
