#!/usr/bin/env bash
# triton 3.6.0, its interpreter, with NumPy 2.4.6: a kernel with a loop up to a number it was given raises TypeError.
#
# Expected: as with NumPy 2.3, where the same versions of everything else add up the numbers. Seen: the interpreter holds a
# scalar as an array of one element and turns it into an index by int(), which NumPy 2.4 refuses for arrays with a
# dimension; `for start in range(0, n, B)` ends in InterpreterError, "only 0-dimensional arrays can be converted to Python
# scalars". Kernels without such a loop run. So kernels that are tested without a GPU fail there, and run on one.
# Triton 3.7.1 adds them up with NumPy 2.4 too. Source: run as below, without a GPU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.11.0 triton==3.6.0 numpy==2.4.6
cat > "$work/probe.py" <<'PYTHON'
import numpy
import torch
import triton
import triton.language as tl


@triton.jit
def total(x, y, n, B: tl.constexpr):
    sums = tl.zeros((B,), tl.float32)
    for start in range(0, n, B):
        at = start + tl.arange(0, B)
        sums += tl.load(x + at, mask=at < n, other=0.0)
    tl.store(y, tl.sum(sums))


x, y = torch.arange(10.0), torch.zeros(1)
try:
    total[(1,)](x, y, 10, 4)
    found = f"sum {y.item()}"
except Exception as error:
    found = f"{type(error).__name__}: {error}"
print(f"NumPy {numpy.__version__}, Triton {triton.__version__}: {found}")
if numpy.__version__ == "2.4.6":
    assert "only 0-dimensional arrays" in found, "changed: the loop runs"
else:
    assert found == "sum 45.0", "changed: the loop with the older NumPy"
PYTHON
export TRITON_INTERPRET=1
"$work/env/bin/python" -W ignore "$work/probe.py"
"$work/env/bin/pip" install --quiet numpy==2.3.5
"$work/env/bin/python" -W ignore "$work/probe.py"
