#!/usr/bin/env bash
# torch 2.13.0: the mean of a DTensor made from local parts of different lengths is the mean of the parts' means.
#
# DTensor.from_local takes parts of different lengths, and then wants the global shape, so its documentation. Expected: the
# mean of all numbers, or a refusal. Seen: 3 tokens on one rank and 5 on the other, shape (8,), give the mean of two means,
# without a word and with run_check=True too; sum and numel of the same tensor are right, so sum() / numel() is another
# number than mean(). Where the parts are those of torch.chunk (5 and 4 of 9), the mean is right.
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
from torch.distributed.tensor import DTensor, Shard, init_device_mesh

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2,))


def loss(lengths):
    parts = torch.arange(float(sum(lengths))).split(lengths)
    whole = DTensor.from_local(
        parts[rank], mesh, [Shard(0)], run_check=True, shape=torch.Size([sum(lengths)]), stride=(1,)
    )
    mean, total = whole.mean().full_tensor().item(), whole.sum().full_tensor().item()
    if rank == 0:
        print(f"{lengths[0]} + {lengths[1]} tokens: mean {mean}, sum / numel {total / whole.numel()}")
    return mean, total / whole.numel(), torch.cat(parts).mean().item()


assert loss([4, 4]) == (3.5, 3.5, 3.5)
assert loss([5, 4]) == (4.0, 4.0, 4.0), "changed: parts as torch.chunk cuts them"
assert loss([3, 5]) == (3.0, 3.5, 3.5), "changed: the mean of parts of other lengths"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
