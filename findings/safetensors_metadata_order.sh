#!/usr/bin/env bash
# safetensors 0.8.0: the same tensors with the same metadata, written twice, are often two different files.
#
# Expected: one content, one file, so that a digest tells whether a cache or a checkpoint has changed. Seen: tensors keep
# their order, but the entries of `metadata` stand in the header in an order that is drawn anew for every call, also
# within one process; with eight entries hardly two files of a hundred are alike. Content read back is the same.
# Source: run as below; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet safetensors==0.8.0 numpy
cat > "$work/probe.py" <<'PYTHON'
import json

import numpy as np
from safetensors.numpy import save

metadata = {f"entry {number}": str(number) for number in range(8)}
tensors = {name: np.arange(4.0) for name in "ab"}
files = [save(tensors, metadata) for _ in range(100)]
headers = [json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")]) for file in files]
orders = {tuple(header["__metadata__"]) for header in headers}
print(f"100 files of one content: {len(set(files))} different ones, {len(orders)} orders of the metadata")
assert all(header["__metadata__"] == metadata for header in headers), "changed: what is read back"
assert len(orders) > 50 and len(set(files)) == len(orders), "changed: the order of metadata"
assert len({save(tensors) for _ in range(100)}) == 1, "changed: files without metadata"
PYTHON
"$work/env/bin/python" "$work/probe.py"
