#!/usr/bin/env bash
# torch 2.13.0: all_reduce with autograd sends the gradient of a maximum over ranks to all ranks, and reduce_scatter a sum's.
#
# These are the functions of torch.distributed.nn.functional, which take any ReduceOp; 2.13 says that they are deprecated.
# Expected: the gradient of a maximum goes to the rank that holds it, as in one process, or a refusal, as that of backward
# after their successor, _functional_collectives.all_reduce. Seen: with MAX each rank gets a gradient, whether its number is
# the largest or not, and it is the largest of the ranks' gradients in place of their sum; with PRODUCT it is the product of
# the ranks' gradients, without the other ranks' factors. reduce_scatter gives every entry of every rank the gradient of a
# sum, for MAX and PRODUCT and for AVG, which is so as many times too large as there are ranks.
# So a scale, or a softmax, by a maximum over ranks trains on another slope. The values are right, and so are SUM throughout
# and AVG by all_reduce.
# Source: run as below with torch 2.13.0, two processes on the CPU (gloo); no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import warnings

import torch
import torch.distributed as dist
from torch.distributed import _functional_collectives as successor
from torch.distributed.nn import functional

warnings.simplefilter("ignore", FutureWarning)  # that they are deprecated
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
held = torch.tensor([[1.0, 5.0], [2.0, 3.0]])  # a row per rank
weights = torch.tensor([[1.0, 10.0], [3.0, 20.0]])  # each rank's loss is its weights times what it gets
OPERATIONS = {
    "SUM": lambda rows: rows.sum(0),
    "AVG": lambda rows: rows.mean(0),
    "MAX": lambda rows: rows.amax(0),
    "MIN": lambda rows: rows.amin(0),
    "PRODUCT": lambda rows: rows.prod(0),
}


def rows_of(gradient):
    parts = [torch.zeros_like(gradient) for _ in range(ranks)]
    dist.all_gather(parts, gradient)
    return torch.stack(parts)


for name, of_rows in OPERATIONS.items():
    whole = held.clone().requires_grad_()
    value = of_rows(whole)
    (weights * value).sum().backward()

    own = held[rank].clone().requires_grad_()
    reduced = functional.all_reduce(own, getattr(dist.ReduceOp, name))
    assert torch.equal(reduced, value), f"changed: the value of {name}"
    (weights[rank] * reduced).sum().backward()
    found = rows_of(own.grad)

    own = held[rank].clone().requires_grad_()
    part = functional.reduce_scatter(torch.zeros(1), list(own.split(1)), getattr(dist.ReduceOp, name))
    assert torch.equal(part, value[rank : rank + 1]), f"changed: the value of reduce_scatter by {name}"
    part.sum().backward()
    scattered = rows_of(own.grad)
    one = held.clone().requires_grad_()
    of_rows(one).sum().backward()

    if rank == 0:
        print(f"{name}: one process {whole.grad.tolist()}, all_reduce {found.tolist()}")
        print(f"  sum of entries: one process {one.grad.tolist()}, reduce_scatter {scattered.tolist()}")
    assert torch.equal(found, whole.grad) == (name in ("SUM", "AVG")), f"changed: all_reduce by {name}"
    if name == "MAX":
        assert found.tolist() == [[3.0, 20.0], [3.0, 20.0]], "changed: all_reduce by MAX"
    if name != "SUM":
        assert not torch.equal(scattered, one.grad) and scattered.tolist() == [[1.0, 1.0], [1.0, 1.0]], f"changed: reduce_scatter by {name}"
own = held[rank].clone().requires_grad_()
try:
    successor.all_reduce(own, "max", dist.group.WORLD).sum().backward()
except RuntimeError as error:
    assert "only supports" in str(error), error
else:
    raise AssertionError("changed: the successor differentiates a maximum")
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
