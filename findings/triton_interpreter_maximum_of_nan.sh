#!/usr/bin/env bash
# triton 3.7.1, its interpreter: maximum, minimum and clamp keep a NaN that they drop when they are compiled.
#
# propagate_nan is PropagateNan.NONE by default and ALL where a NaN is to be kept. Expected: without ALL, the maximum of a
# NaN and 0 is 0, as in the compiled kernel (max.f32 in the PTX, max.NaN.f32 with ALL). Seen: the interpreter gives NaN for
# both. So a ReLU by tl.maximum(x, 0.0) shows a broken input in a test without a GPU and hides it on one: there the codes
# are a plausible 0. tl.max of the same numbers drops the NaN in the interpreter as well, so that the two of them disagree.
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
def relu(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.maximum(tl.load(x + at), 0.0))


@triton.jit
def relu_with_nan(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.maximum(tl.load(x + at), 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def least(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.minimum(tl.load(x + at), 1.0))


@triton.jit
def clamped(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.clamp(tl.load(x + at), 0.0, 1.0))


@triton.jit
def largest(x, y, n: tl.constexpr):
    at = tl.arange(0, n)
    tl.store(y + at, tl.max(tl.load(x + at), 0))
PYTHON
cat > "$work/probe.py" <<'PYTHON'
import kernels
import torch
import triton

print("Triton", triton.__version__)
x = torch.tensor([float("nan"), -1.0, 0.5, 2.0])
for name, kept in (("relu", True), ("relu_with_nan", True), ("least", True), ("clamped", True), ("largest", False)):
    y = torch.empty(4)
    getattr(kernels, name)[(1,)](x, y, 4)
    print(f"interpreted, {name} of {x.tolist()}: {y.tolist()}")
    assert y[0].isnan().item() == kept, f"changed: {name} of NaN"
    assert y[1:].isfinite().all()
PYTHON
cat > "$work/compiled.py" <<'PYTHON'
import kernels
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for name, expected in (
    ("relu", {"max.f32"}),
    ("relu_with_nan", {"max.NaN.f32"}),
    ("least", {"min.f32"}),
    ("clamped", {"max.f32", "min.f32"}),
):
    signature = {"x": "*fp32", "y": "*fp32", "n": "constexpr"}
    source = ASTSource(fn=getattr(kernels, name), signature=signature, constexprs={"n": 128})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    found = {word for word in ptx.split() if word.startswith(("max.", "min."))}
    print(f"compiled, {name}: {sorted(found)}")
    assert found == expected, f"changed: what {name} is compiled to"
PYTHON
cd "$work"
TRITON_INTERPRET=1 "$work/env/bin/python" -W ignore "$work/probe.py"
TRITON_CACHE_DIR="$work/cache" "$work/env/bin/python" -W ignore "$work/compiled.py"
