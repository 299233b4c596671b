#!/usr/bin/env bash
# safetensors 0.8.0: a transposed NumPy array is saved as another matrix of the same shape, without a word.
#
# An encoder kept as (features, width) is saved as `weight.T` under the name that wants (width, features). Expected: the
# matrix as indexed, as 0.7.0 writes it, or a refusal, as safetensors.torch gives ("non contiguous tensor"). Seen: the
# numbers go out in the order in which they lie in memory, under the shape of the transpose; so do Fortran arrays and
# some of the columns of an array. Shapes, types and norms of what is read back look right, so no loader can tell.
# Source: run as below; no other software is involved. Upstream: safetensors issue 825, open in November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
cat > "$work/probe.py" <<'PYTHON'
from importlib import metadata

import numpy as np
from safetensors.numpy import load, save

version = metadata.version("safetensors")
rows = np.arange(6, dtype=np.float32).reshape(2, 3)
arrays = {"rows": rows, "rows.T": rows.T, "Fortran": np.asfortranarray(rows), "two columns": rows[:, :2]}
for name, array in arrays.items():
    found = load(save({"weight": array}))["weight"]
    print(f"safetensors {version}, {name}: {array.tolist()} comes back as {found.tolist()}")
    right = np.array_equal(found, array)
    assert right == (version == "0.7.0" or name == "rows"), f"changed: {name}"
    in_memory = array.ravel(order="K") if name != "two columns" else rows.ravel()[:4]
    assert right or np.array_equal(found.ravel(), in_memory), f"changed: what {name} comes back as"
PYTHON
for version in 0.7.0 0.8.0; do
    "$work/env/bin/pip" install --quiet "safetensors==$version" numpy==2.4.6
    "$work/env/bin/python" "$work/probe.py"
done
"$work/env/bin/pip" install --quiet torch==2.13.0
"$work/env/bin/python" - <<'PYTHON'
import torch
from safetensors.torch import save

try:
    save({"weight": torch.arange(6.0).view(2, 3).t()})
except ValueError as error:
    print("safetensors.torch:", str(error).split(".")[0])
    assert "non contiguous" in str(error)
else:
    raise AssertionError("changed: safetensors.torch takes a transposed tensor")
PYTHON
