#!/usr/bin/env bash
# torch 2.13.0: index_add_, index_copy_ and scatter_add_ along the sharded rows of a DTensor lose the write and the rows.
#
# Expected: the rows named are written, or the call is refused, as index_put_, index_fill_ and scatter_ are ("in-place
# operations that require placement changes are not supported"). Seen, over two ranks: nothing is said, nothing is added,
# and the tensor calls itself replicated from then on while each rank holds its own half of the rows: full_tensor() of a
# (4, 2) tensor is (2, 2), and other numbers on each rank. Over a mesh of one rank all three are right, and so are
# index_add, index_copy and scatter_add, which return a new tensor, over two.
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
from torch.distributed.tensor import Replicate, Shard, distribute_tensor, init_device_mesh

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (ranks,))
plain = torch.arange(1.0, 9.0).view(4, 2)
rows, places, values = torch.tensor([0, 3]), torch.tensor([[0, 0], [3, 3]]), torch.full((2, 2), 10.0)


def everywhere(tensor):
    return distribute_tensor(tensor, mesh, [Replicate()])


for name, index in (("index_add", rows), ("index_copy", rows), ("scatter_add", places)):
    expected = getattr(plain, name)(0, index, values)
    weight = distribute_tensor(plain.clone(), mesh, [Shard(0)])
    new = getattr(weight, name)(0, everywhere(index), everywhere(values))
    assert torch.equal(new.full_tensor(), expected), f"changed: {name} is wrong"
    getattr(weight, f"{name}_")(0, everywhere(index), everywhere(values))
    found = weight.full_tensor()
    for turn in range(ranks):
        dist.barrier()
        if turn == rank:
            print(
                f"rank {rank} of {ranks}, {name}_: shape {tuple(weight.shape)}, {weight.placements[0]},"
                f" full_tensor() {found.tolist()}, expected {expected.tolist()}",
                flush=True,
            )
    if ranks == 1:
        assert torch.equal(found, expected), f"changed: {name}_ is wrong in one process"
    else:
        assert torch.equal(found, plain[2 * rank : 2 * rank + 2]), f"changed: what {name}_ leaves"
weight = distribute_tensor(plain.clone(), mesh, [Shard(0)])
try:
    weight.index_put_((everywhere(rows),), everywhere(values))
except RuntimeError as error:
    assert "require placement changes" in str(error), error
else:
    raise AssertionError("changed: index_put_ is taken")
dist.destroy_process_group()
PYTHON
for ranks in 1 2; do
    "$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node "$ranks" probe.py
done
