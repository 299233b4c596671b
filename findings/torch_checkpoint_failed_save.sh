#!/usr/bin/env bash
# torch 2.13.0: after a distributed checkpoint failed on one rank, the folder loads without a word as a mixture of two steps.
#
# A second save into a folder warns that it overwrites. Rank 1 then cannot open its file (here: too many open files) and
# both ranks get a CheckpointException that says so. Expected: the first checkpoint is still there, or the folder does not
# load. Seen: rank 0 had written its rows of the new step, the index is that of the old one, and dcp.load returns the new
# rows of rank 0 above the old rows of rank 1. A rank that is killed before it opens its file leaves the same.
# Source: run as below with torch 2.13.0, two processes on the CPU; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import os
import resource

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2,))


def save(step):
    weight = distribute_tensor(torch.full((5, 2), float(step)), mesh, [Shard(0)])
    dcp.save({"weight": weight}, checkpoint_id="checkpoint")


save(1)
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
if rank == 1:
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, most))
try:
    save(2)
except dcp.CheckpointException as error:
    failed = str(error)
else:
    raise AssertionError("changed: the second save succeeds")
if rank == 1:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
assert "Too many open files" in failed, failed
dist.barrier()
weight = torch.zeros(5, 2)
dcp.load({"weight": weight}, checkpoint_id="checkpoint")
if rank == 0:
    print("the second save fails:", failed.splitlines()[-1] or failed.splitlines()[-2])
    print("loaded:", weight[:, 0].tolist())
assert weight[:, 0].tolist() == [2.0, 2.0, 2.0, 1.0, 1.0], "changed: what a failed save leaves"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
