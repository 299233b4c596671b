#!/usr/bin/env bash
# llamascopium 2.0.0b34: the top k of a batch over features cut between processes keeps thousands for k = 128.
#
# Expected: 128 matches in all, those of the whole matrix, as `distributed_topk` finds them where both processes hold scores
# of one size. Seen, over two processes, when one of them holds larger scores: its bisection starts, on each process, at
# that process' own maximum and averages the two, so that no threshold above their mean can be reached: scores of one
# half twice as large give 4,175 matches for 128, eight times as large 7,282. Nothing is said.
# Source: run as below, two processes on the CPU (with TransformerLens 4, which its requirements allow, it does not import);
# `BatchTopK` over a mesh calls the same function with the same arguments.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 llamascopium==2.0.0b34 transformer-lens==3.9.0
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import torch
import torch.distributed as dist
from llamascopium.utils.distributed.ops import distributed_topk
from torch.distributed.tensor import DTensor, Shard, init_device_mesh

dist.init_process_group("gloo")
rank, k = dist.get_rank(), 128
mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("model",))
kept = {}
for larger in (1.0, 2.0, 8.0):
    scores = torch.rand(64, 512, generator=torch.Generator().manual_seed(0))
    scores[:, 256:] *= larger
    own = scores[:, rank * 256 : (rank + 1) * 256].contiguous()
    found = distributed_topk(
        DTensor.from_local(own, mesh, [Shard(1)]), k=k, device_mesh=mesh, dim=(-2, -1), mesh_dim_name="model"
    )
    count = (found.to_local() > 0).sum()
    dist.all_reduce(count)
    kept[larger] = int(count)
if rank == 0:
    print(f"matches for k = {k}, one half of the features so many times larger: {kept}", flush=True)
assert kept[1.0] == k, "changed: equal halves"
assert kept[2.0] > 4000 and kept[8.0] > 7000, "changed: one half larger"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
