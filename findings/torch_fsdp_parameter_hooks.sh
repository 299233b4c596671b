#!/usr/bin/env bash
# torch 2.13.0: hooks on the gradients of parameters are never called once fully_shard has taken the module.
#
# Tensor.register_hook on a parameter may change its gradient, which is how a decoder's gradient is kept at right angles to
# its rows, or a gradient is masked, scaled or logged. Expected: the hook is called with the gradient, sharded or whole, or
# register_hook refuses. Seen: fully_shard (FSDP2) puts the gradient into .grad itself, and the hook is never called,
# whether it was registered before fully_shard or after, on one process too. Training goes on with the gradient that the
# hook was to change. Nothing is said.
# register_post_accumulate_grad_hook is called, with the sharded gradient in .grad, also where it was registered after.
# A hook of a module (register_full_backward_hook) is called too.
# Source: run as below with torch 2.13.0, one and two processes on the CPU; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
cat > probe.py <<'PYTHON'
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh

dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
mesh = init_device_mesh("cpu", (ranks,))
torch.manual_seed(0)
x = torch.randn(6, 4)


def run(order):
    """What was called in one backward pass, and the decoder's gradient."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))
    called = []

    def without(gradient):
        called.append("gradient")
        return gradient * 0

    for step in order:
        if step == "shard":
            fully_shard(model, mesh=mesh)
        elif step == "hook":
            model[2].weight.register_hook(without)
        elif step == "post":
            model[2].weight.register_post_accumulate_grad_hook(lambda weight: called.append(type(weight.grad).__name__))
        elif step == "module":
            model[2].register_full_backward_hook(lambda *given: called.append("module"))
    model(x).square().sum().backward()
    gradient = model[2].weight.grad
    return called, gradient.full_tensor() if "shard" in order else gradient


_, plain = run([])
for order, expected, silent in (
    (["hook"], ["gradient"], True),
    (["hook", "shard"], [], False),
    (["shard", "hook"], [], False),
    (["shard", "post"], ["DTensor"], False),
    (["shard", "module"], ["module"], False),
):
    called, gradient = run(order)
    if rank == 0:
        print(f"{ranks} process(es), {' then '.join(order)}: called {called}, |gradient| {gradient.abs().sum().item():.3f}")
    assert called == expected, f"changed: what is called after {order}"
    assert torch.allclose(gradient, plain * (not silent), atol=1e-5), f"changed: the gradient after {order}"
dist.destroy_process_group()
PYTHON
for processes in 1 2; do
    "$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node "$processes" probe.py
done
