#!/usr/bin/env bash
# torch 2.13.0 with NumPy 2.4.6: an empty array of NumPy's cannot be seen as a wider type, an empty tensor can.
#
# Who sends tensors between processes as bytes gets bytes back, and sees them as the type that they had. Where one process
# has nothing to send, that is an empty array. Expected: an empty tensor of the type, as torch.zeros(0, dtype=torch.uint8)
# gives it, and as NumPy's own view does. Seen: a new empty array has stride 0 in NumPy, torch.from_numpy keeps it, and
# Tensor.view(dtype) then raises a RuntimeError about the stride. A slice of length 0 of a longer array has stride 1, and
# passes; so does a type of the same width.
# Source: run as below; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$work"
cat > probe.py <<'PYTHON'
import numpy as np
import torch


def seen_as(array, dtype):
    try:
        return list(torch.from_numpy(array).view(dtype).shape)
    except RuntimeError as error:
        return str(error)


new, cut = np.zeros(0, np.uint8), np.zeros(8, np.uint8)[:0]
print("strides of a new empty array and of an empty slice:", new.strides, cut.strides)
for dtype in (torch.int8, torch.bfloat16, torch.float32):
    print(f"{dtype}: new {seen_as(new, dtype)}, slice {seen_as(cut, dtype)}")
assert (new.strides, cut.strides) == ((0,), (1,)), "changed: strides of empty arrays"
assert new.view(np.float32).shape == (0,)
assert torch.zeros(0, dtype=torch.uint8).view(torch.float32).shape == (0,)
assert seen_as(new, torch.int8) == seen_as(cut, torch.float32) == seen_as(cut, torch.bfloat16) == [0]
assert "stride" in seen_as(new, torch.float32), "changed: a new empty array is seen as float32"
assert "stride" in seen_as(new, torch.bfloat16), "changed: a new empty array is seen as bfloat16"
PYTHON
"$work/env/bin/python" probe.py
