#!/usr/bin/env bash
# torch 2.13.0: writing in place through a row or slice of a DTensor works on one rank and is lost on two.
#
# Expected: weight[1].zero_() or weight[2:4].mul_(0) changes the weight, as for a plain tensor, or is refused, as
# weight[1] = 0 is. Seen: over a mesh of one rank it does; once the rows are sharded over two, the slice is a gathered copy,
# the write goes there, and the weight keeps its old rows, without a word. Of a column, which lies within each shard, the
# write is kept. So code that resets dead features passes its tests in one process and does nothing in two.
# Source: run as below with torch 2.13.0, one and two processes on the CPU; no other software is involved.
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

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (ranks,))
plain = torch.arange(1.0, 9.0).view(4, 2)
writes = {
    "weight[1].zero_()": lambda weight: weight[1].zero_(),
    "weight[2:4].mul_(0)": lambda weight: weight[2:4].mul_(0),
    "weight[1].copy_(weight[2])": lambda weight: weight[1].copy_(weight[2]),
    "weight.narrow(0, 0, 2).fill_(0)": lambda weight: weight.narrow(0, 0, 2).fill_(0),
    "weight[:, 1].zero_()": lambda weight: weight[:, 1].zero_(),
}
for text, write in writes.items():
    weight, expected = distribute_tensor(plain.clone(), mesh, [Shard(0)]), plain.clone()
    write(weight)
    write(expected)
    found = weight.full_tensor()
    kept, lost = torch.equal(found, expected), torch.equal(found, plain)
    if rank == 0:
        print(f"{ranks} ranks, {text}:", "kept" if kept else "lost" if lost else found.tolist())
    assert kept if ranks == 1 or "[:" in text else lost, f"changed: {text}"
weight = distribute_tensor(plain.clone(), mesh, [Shard(0)])
try:
    weight[1] = 0
except NotImplementedError as error:
    assert "fill_" in str(error)
else:
    raise AssertionError("changed: weight[1] = 0 is taken")
dist.destroy_process_group()
PYTHON
for ranks in 1 2; do
    "$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node "$ranks" probe.py
done
