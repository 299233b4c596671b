#!/usr/bin/env bash
# triton 3.7.1, its interpreter: a subnormal bfloat16 becomes another number when it is widened to float32.
#
# Expected: the same number, as bfloat16 is the upper half of float32; compiled for a GPU it is (no `.ftz` in the PTX).
# Seen: 2^-133 becomes 0, and 127 * 2^-133 becomes 126 * 2^-133: the interpreter moves the significand as if both types did
# not share their exponents, and does not move it back. So what a kernel does with such numbers cannot be tested there.
# Triton 3.6.0 does the same. Source: run as below, without a GPU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 triton==3.7.1 numpy==2.4.6
cat > "$work/probe.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def widen(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.load(x + at).to(tl.float32))


x, y = torch.tensor([1, 127], dtype=torch.int16).view(torch.bfloat16), torch.empty(2)
widen[(1,)](x, y, 2)
found, expected = ((numbers * 2.0**133).tolist() for numbers in (y.double(), x.double()))
print(f"Triton {triton.__version__}: found {found}, expected {expected}, both times 2^-133")
assert found != expected, "changed: subnormal bfloat16 widens to itself"
PYTHON
TRITON_INTERPRET=1 "$work/env/bin/python" -W ignore "$work/probe.py"
