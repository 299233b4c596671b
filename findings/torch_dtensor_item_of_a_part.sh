#!/usr/bin/env bash
# torch 2.13.0: item(), float() and bool() of a DTensor's sum, norm or any() are those of the calling rank's rows alone.
#
# Expected: the number of the whole tensor, as .full_tensor() gives, or a refusal. Seen: a reduction over sharded rows is a
# DTensor that has yet to be added up, and item(), float(), int() and bool() read this rank's part of it, each rank another.
# So a logged loss or norm is that of a part, a float(x.norm()) to scale by differs by rank, and `if x.isnan().any():`
# is taken on one rank alone. Nothing is said.
# Arithmetic with the same DTensor, such as x / x.norm(), is right, and so is what clip_grad_norm_ returns.
# Source: run as below with torch 2.13.0, two processes on the CPU; no other software is involved.
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
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
whole = torch.arange(1.0, 9.0).reshape(4, 2)
whole[3, 1] = 20.0
READINGS = {
    "x.sum().item()": lambda x: x.sum().item(),
    "float(x.norm())": lambda x: float(x.norm()),
    "x.max().item()": lambda x: x.max().item(),
    "x.mean().item()": lambda x: x.mean().item(),
    "int((x > 6).sum())": lambda x: int((x > 6).sum()),
    "bool((x > 10).any())": lambda x: bool((x > 10).any()),
    "bool((x < 10).all())": lambda x: bool((x < 10).all()),
}
sharded, mine = distribute_tensor(whole, mesh, [Shard(0)]), whole.chunk(2)[rank]
for name, read in READINGS.items():
    found = read(sharded)
    everywhere = [None, None]
    dist.all_gather_object(everywhere, found)
    plain = read(whole)
    if rank == 0:
        print(f"{name}: {plain:.4g} of the whole, {everywhere[0]:.4g} on rank 0, {everywhere[1]:.4g} on rank 1")
    assert everywhere[0] != everywhere[1], f"changed: {name} is the same on both ranks"
    assert abs(found - read(mine)) < 1e-4, f"changed: {name} is that of this rank's rows"
total = sharded.sum()
assert total.full_tensor().item() == whole.sum().item(), "changed: full_tensor"
assert torch.allclose((sharded / sharded.norm()).full_tensor(), whole / whole.norm()), "changed: arithmetic with a norm"
weight = torch.nn.Parameter(torch.zeros_like(sharded))
weight.grad = sharded.clone()
norm = torch.nn.utils.clip_grad_norm_([weight], 1.0).item()
assert abs(norm - whole.norm().item()) < 1e-4, "changed: what clip_grad_norm_ returns"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
