#!/usr/bin/env bash
# triton 3.7.1, its interpreter: a cast from float32 drops bits to make a bfloat16, and halves some numbers to make a float8.
#
# Expected: the nearest number, as `.to(...)` gives when it is compiled: the PTX has cvt.rn, and torch does so too. Seen:
# bfloat16 is the upper half of the bits, so that half of all numbers are too small by one place, and nothing is rounded up;
# with fp_downcast_rounding="rtne" too. In float8 what is rounded up to a power of two loses that carry every other time,
# and half of it is left: 1.99 becomes 1 and 7.9 becomes 4, whereas 3.9 becomes 4, in both formats. Of normal numbers a
# twentieth (e5m2) or a fortieth (e4m3) are so halved. Widened again, the e5m2 for infinity is 65536 and that for NaN is
# a number. Nothing is said; float16 is right.
# Triton's manual says that the interpreter has no operations on bfloat16, and to cast; these are the casts.
# Source: run as below, without a GPU; the PTX is compiled for sm_90.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 triton==3.7.1 numpy==2.4.6
cat > "$work/kernels.py" <<'PYTHON'
import triton
import triton.language as tl


@triton.jit
def cast(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.load(x + at).to(y.dtype.element_ty))


@triton.jit
def nearest(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.load(x + at).to(tl.bfloat16, fp_downcast_rounding="rtne"))
PYTHON
cat > "$work/probe.py" <<'PYTHON'
import torch
import triton
from kernels import cast, nearest

print("Triton", triton.__version__)
torch.manual_seed(0)


def run(kernel, x, dtype):
    y = torch.zeros(x.numel(), dtype=dtype)
    kernel[(1,)](x, y, x.numel())
    return y.float()


drawn = torch.randn(2**16)
for dtype, kernel, least, most in (
    (torch.float16, cast, 0.0, 0.0),
    (torch.bfloat16, cast, 0.49, 0.51),
    (torch.bfloat16, nearest, 0.49, 0.51),
    (torch.float8_e5m2, cast, 0.04, 0.055),
    (torch.float8_e4m3fn, cast, 0.02, 0.035),
):
    found, expected = run(kernel, drawn, dtype), drawn.to(dtype).float()
    other = (found != expected).double().mean().item()
    print(f"{kernel.__name__} to {dtype}: {other:.1%} of numbers are not the nearest")
    assert least <= other <= most, f"changed: {dtype}"
    if dtype == torch.bfloat16:
        cut = (drawn.view(torch.int32) >> 16 << 16).view(torch.float32)
        assert torch.equal(found, cut), "changed: bfloat16 is not the upper half of the bits"
some = torch.tensor([1.99, -1.96, 7.9, 3.9])
for dtype in (torch.float8_e5m2, torch.float8_e4m3fn):
    found = run(cast, some, dtype).tolist()
    print(f"{[round(number, 2) for number in some.tolist()]} to {dtype}: {found}")
    assert some.to(dtype).tolist() == [2.0, -2.0, 8.0, 4.0]
    assert found == [1.0, -1.0, 4.0, 4.0], f"changed: numbers just below a power of two as {dtype}"
special = torch.tensor([float("inf"), float("nan")]).to(torch.float8_e5m2)
found = run(cast, special, torch.float32).tolist()
print(f"{special.tolist()} of e5m2 to float32: {found}")
assert found[0] == 65536 and found[1] > 65536, "changed: infinity and NaN of e5m2"
PYTHON
cat > "$work/compiled.py" <<'PYTHON'
import triton
from kernels import cast
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for kind in ("bf16", "fp8e5", "fp8e4nv"):
    source = ASTSource(fn=cast, signature={"x": "*fp32", "y": f"*{kind}", "n": "constexpr"}, constexprs={"n": 128})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    found = sorted({word for word in ptx.split() if word.startswith("cvt.r")})
    print(f"compiled, to {kind}: {found}")
    assert found and all(word.startswith("cvt.rn.") for word in found), f"changed: what {kind} is compiled to"
PYTHON
cd "$work"
TRITON_INTERPRET=1 "$work/env/bin/python" -W ignore "$work/probe.py"
TRITON_CACHE_DIR="$work/cache" "$work/env/bin/python" -W ignore "$work/compiled.py"
