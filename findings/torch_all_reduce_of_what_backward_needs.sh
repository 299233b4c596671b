#!/usr/bin/env bash
# torch 2.13.0: all_reduce of a loss before its backward pass changes the gradient, where any other change in place is an error.
#
# A number that the backward pass needs must not be changed in place: mul_ makes backward raise a RuntimeError, through
# detach() too. Expected: the same of torch.distributed's collectives, which write in place. Seen: they do not count as a
# change. A root mean squared error that is summed over ranks for a log, by dist.all_reduce(loss.detach()) or under
# no_grad, then has half its gradient on two ranks, since that of a root is divided by its result; so norms, exponentials,
# and ratios whose denominator is logged. Nothing is said; without detach() there is a warning, about a missing autograd
# kernel. A mean squared error is right: its backward does not need its value.
# all_reduce(loss.detach().clone()) is right in all cases.
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

dist.init_process_group("gloo")
rank = dist.get_rank()
x = torch.tensor([3.0, 4.0])  # the same on both ranks
LOSSES = {
    "mean squared error": lambda error: (loss := error.square().mean(), loss),
    "root mean squared error": lambda error: (loss := error.square().mean().sqrt(), loss),
    "norm": lambda error: (loss := error.norm(), loss),
    "ratio, its denominator logged": lambda error: (error[0] / (whole := error.sum()), whole),
}


def no_grad(value):
    with torch.no_grad():
        dist.all_reduce(value)


LOGS = {
    "nothing": lambda value: None,
    "mul_": lambda value: value.detach().mul_(2),
    "all_reduce, detached": lambda value: dist.all_reduce(value.detach()),
    "all_reduce, no_grad": no_grad,
    "all_reduce of a clone": lambda value: dist.all_reduce(value.detach().clone()),
}


def gradient(loss_of, log):
    error = x.clone().requires_grad_()
    loss, logged = loss_of(error)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        log(logged)
        try:
            loss.backward()
        except RuntimeError as failed:
            assert "modified by an inplace operation" in str(failed), failed
            return None
    assert not said, "changed: a warning"
    return error.grad


for name, loss_of in LOSSES.items():
    plain = gradient(loss_of, LOGS["nothing"])
    for how, log in LOGS.items():
        found = gradient(loss_of, log)
        if rank == 0:
            print(f"{name}, {how}: {'an error' if found is None else found.tolist()}")
        if name == "mean squared error" or how in ("nothing", "all_reduce of a clone"):
            assert torch.equal(found, plain), f"changed: {name}, {how}"
        elif how == "mul_":
            assert found is None, f"changed: {name}, {how}"
        elif how.startswith("all_reduce"):
            assert not torch.allclose(found, plain), f"changed: {name}, {how}"
            if name in ("root mean squared error", "norm"):
                assert torch.allclose(found, plain / 2), f"changed: {name}, {how}"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
