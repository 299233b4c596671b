#!/usr/bin/env bash
# torch 2.13.0 on gloo: all_reduce and broadcast pair the numbers by their place in memory, not by their index.
#
# Expected: element [i, j] of all ranks meet, whatever the strides; or a refusal. Seen: where one rank passes a transposed
# tensor and another a contiguous one of the same shape, other elements meet and the ranks end with different sums, without
# a word, also under TORCH_DISTRIBUTED_DEBUG=DETAIL, which compares the collectives' shapes and types across ranks.
# all_gather_single with the same tensors puts every element at its place.
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

dist.init_process_group("gloo")
rank = dist.get_rank()
scores = torch.arange(6.0).view(3, 2)  # the same matrix on both ranks


def mine():
    return scores.t().contiguous().t() if rank == 0 else scores.clone()  # columns lie together on rank 0, rows on rank 1


total, copy, gathered = mine(), mine(), torch.empty(6, 2)
dist.all_reduce(total)
dist.broadcast(copy, 0)
dist.all_gather_single(gathered, mine())
for turn in range(2):
    dist.barrier()
    if turn == rank:
        print(f"rank {rank}: scores {mine().tolist()} sum {total.tolist()} broadcast {copy.tolist()}", flush=True)
twice = [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]]
by_memory = [[[0.0, 4.0], [3.0, 7.0], [6.0, 10.0]], [[0.0, 3.0], [6.0, 4.0], [7.0, 10.0]]][rank]
assert (2 * scores).tolist() == twice
assert total.tolist() == by_memory, "changed: what all_reduce pairs"
assert rank == 0 or copy.tolist() == [[0.0, 2.0], [4.0, 1.0], [3.0, 5.0]], "changed: what broadcast pairs"
assert torch.equal(gathered, torch.cat([scores, scores])), "changed: all_gather_single"
dist.destroy_process_group()
PYTHON
TORCH_DISTRIBUTED_DEBUG=DETAIL "$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
