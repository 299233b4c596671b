#!/usr/bin/env bash
# torch 2.13.0: the gradient of the largest number of a DTensor sharded by rows is NaN unless the first rank holds it.
#
# Expected: value and gradient of the whole tensor, as in one process, or a refusal. Seen: amax(), amin() and norm(p=inf) over
# all numbers give the right value, whereas their gradient depends on where the largest lies. In the rows of the first rank,
# it is right; in those of another, it is infinite there and NaN in every other entry, on all ranks. So x / x.abs().amax(),
# or a penalty on the largest weight, trains until the largest moves. Of equal ones those of the first rank alone are counted.
# The backward pass divides by sum(dim=(), keepdim=True), and that is wrong on its own: it returns the sum of the first
# rank's rows, and amax likewise. Nothing is said. By columns, with dim=(0, 1), by max() and min(), all is right.
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
from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

INF = float("inf")
dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2,))
on_second = torch.tensor([[1.0, -2.0, 4.0], [2.0, 3.0, -0.5], [-1.0, 5.0, 0.5], [1.5, -4.5, 2.5]])  # 5 and -4.5
on_first = on_second.roll(2, 0)
tied = torch.tensor([[1.0, 5.0], [2.0, 3.0], [-1.0, 5.0], [1.5, -3.0]])


def gradients(measure, numbers, along):
    whole = numbers.clone().requires_grad_()
    expected = measure(whole)
    expected.backward()
    sharded = distribute_tensor(numbers, mesh, [Shard(along)]).requires_grad_()
    value = measure(sharded).full_tensor()
    assert torch.allclose(value, expected), "changed: the value"
    value.backward()
    return whole.grad, sharded.grad.full_tensor()


for name, measure, wrong in (
    ("max()", lambda x: x.max(), False),
    ("min()", lambda x: x.min(), False),
    ("amax((0, 1))", lambda x: x.amax((0, 1)), False),
    ("amax(0).sum()", lambda x: x.amax(0).sum(), False),
    ("amax()", lambda x: x.amax(), True),
    ("amin()", lambda x: x.amin(), True),
    ("norm(p=inf)", lambda x: x.norm(p=INF), True),
    ("(x / x.abs().amax()).sum()", lambda x: (x / x.abs().amax()).sum(), True),
):
    for place, numbers in (("first", on_first), ("second", on_second)):
        for along in (0, 1):
            whole, found = gradients(measure, numbers, along)
            if rank == 0:
                print(f"{name}, sharded along {along}, it lies in the {place} half: {found.tolist()}")
            if wrong and place == "second" and along == 0:
                assert (~found.isfinite()).all(), f"changed: {name}"
            else:
                assert torch.allclose(whole, found), f"changed: {name}, right until now"
whole, found = gradients(lambda x: x.amax(), tied, 0)
if rank == 0:
    print(f"amax() of equal ones: one process {whole.tolist()}, two {found.tolist()}")
assert whole[0, 1] == whole[2, 1] == 0.5
assert found[0, 1] == found[2, 1] == 1.0, "changed: the gradient of equal ones"

sharded = distribute_tensor(on_second, mesh, [Shard(0)])
for name, measure in (
    ("sum(dim=(), keepdim=True)", lambda x: x.sum(dim=(), keepdim=True)),
    ("amax(dim=(), keepdim=True)", lambda x: x.amax(dim=(), keepdim=True)),
):
    whole, found = measure(on_second), measure(sharded).full_tensor()
    if rank == 0:
        print(f"{name}: one process {whole.tolist()}, two {found.tolist()}")
    assert torch.equal(found, measure(on_second[:2])) and not torch.equal(found, whole), f"changed: {name}"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
