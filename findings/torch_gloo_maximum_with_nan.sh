#!/usr/bin/env bash
# torch 2.13.0 on gloo: a maximum over ranks may be neither NaN nor the maximum when one rank holds a NaN.
#
# Expected: NaN, as torch.amax gives, or at least the largest of the numbers. Seen: MAX over three ranks with 0, NaN and 2
# gives 0 on all of them; in a longer tensor other positions give NaN or 2. What is built on it goes wrong silently: amax
# of a sharded DTensor, and clip_grad_norm_ with norm_type=inf and error_if_nonfinite=True, which finds a norm of 3 in
# gradients that hold NaN and 11 where the same gradients unsharded are refused.
# Source: run as below with torch 2.13.0, three processes on the CPU; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import torch
import torch.distributed as dist
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh
from torch.nn.utils import clip_grad_norm_

dist.init_process_group("gloo")
rank = dist.get_rank()
nan = float("nan")


def maximum(size):
    whole = torch.full((size,), (0.0, nan, 2.0)[rank])
    dist.all_reduce(whole, dist.ReduceOp.MAX)
    return whole.tolist()


one, six = maximum(1), maximum(6)
assert one == [0.0], "changed: the NaN is kept, or the other ranks' numbers are"
assert str(six) == "[0.0, 0.0, nan, nan, 2.0, 2.0]", "changed: what the position decides"

gradient = torch.arange(12.0).view(6, 2)
gradient[2] = nan  # held by rank 1, whose rows are 2 and 3
mesh = init_device_mesh("cpu", (3,))
sharded = torch.nn.Parameter(distribute_tensor(torch.zeros(6, 2), mesh, [Shard(0)]))
sharded.grad = distribute_tensor(gradient, mesh, [Shard(0)])
largest = sharded.grad.amax(0).full_tensor().tolist()
norm = clip_grad_norm_(sharded, 1.0, norm_type=float("inf"), error_if_nonfinite=True).full_tensor().item()
plain = torch.nn.Parameter(torch.zeros(6, 2))
plain.grad = gradient
try:
    clip_grad_norm_(plain, 1.0, norm_type=float("inf"), error_if_nonfinite=True)
except RuntimeError as error:
    refused = str(error)
if rank == 0:
    print("MAX of 0, NaN, 2:", one, "and in a tensor of six:", six)
    print("amax of the sharded gradient", largest, "of the plain one", gradient.amax(0).tolist())
    print("norm of the sharded gradient", norm, "of the plain one:", refused.split(", so")[0])
assert largest == [2.0, 3.0], "changed: amax of a sharded tensor"
assert norm == 3.0, "changed: the sharded norm"
assert "non-finite" in refused
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 probe.py
