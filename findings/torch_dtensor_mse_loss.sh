#!/usr/bin/env bash
# torch 2.13.0: mse_loss of a DTensor sharded by rows has a gradient as many times too large as there are ranks.
#
# Expected: loss and gradient of the whole tensor, as in one process, or a refusal. Seen: 6 rows on 3 ranks give the right
# loss and three times the gradient, by mse_loss, huber_loss and smooth_l1_loss. A plain SGD then takes another step for
# each number of ranks, and the part weighs more than what is added to it, a sparsity penalty say.
# Where the rows do not divide (7, sharded by distribute_tensor into 3, 3 and 1), the loss is wrong as well: the mean of the
# shards' means, also by binary_cross_entropy_with_logits (its gradient is right). Rows of the short shard weigh three times.
# 4 rows (2, 2, 0) give nan. All ranks agree, and nothing is said.
# (x - y).square().mean(), l1_loss, mse_loss with reduction="sum", or with "none" and mean(), are right in all these cases.
# Source: run as below with torch 2.13.0, three processes on the CPU; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo")
RANKS = 3
mesh = init_device_mesh("cpu", (RANKS,))
FIRST = dist.get_rank() == 0
STEEP = {"mse_loss": F.mse_loss, "huber_loss": F.huber_loss, "smooth_l1_loss": F.smooth_l1_loss}
UNEVEN = {"binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits}
RIGHT = {
    "(x - y).square().mean()": lambda x, y: (x - y).square().mean(),
    "l1_loss": F.l1_loss,
    "mse_loss, none, mean()": lambda x, y: F.mse_loss(x, y, reduction="none").mean(),
    "mse_loss, sum": lambda x, y: F.mse_loss(x, y, reduction="sum"),
}


def both(loss, x, y):
    """Loss and gradient in one process and of the same rows sharded."""
    found = []
    for rows, target in ((x, y), (distribute_tensor(x, mesh, [Shard(0)]), distribute_tensor(y, mesh, [Shard(0)]))):
        rows = rows.detach().clone().requires_grad_()
        value = loss(rows, target)
        value.backward()
        whole = [part.full_tensor() if hasattr(part, "full_tensor") else part for part in (value.detach(), rows.grad)]
        found.append((whole[0].item(), whole[1]))
    return found


for count in (6, 7, 4):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(count, 5, generator=generator), torch.rand(count, 5, generator=generator)
    x[-1] *= 3
    shards = [len(part) for part in x.chunk(RANKS)]
    for name, loss in (STEEP | UNEVEN | RIGHT).items():
        (plain, plain_gradient), (sharded, gradient) = both(loss, x, y)
        times = (gradient / plain_gradient).nanmedian(1).values
        if FIRST:
            print(f"{count} rows, {name}: loss {plain:.4f}, sharded {sharded:.4f}; gradient by row times", times.numpy())
        if name in RIGHT or count == 6:
            assert math.isclose(plain, sharded, rel_tol=1e-5), f"changed: {name} of {count} rows"
        elif count == 7:
            means = [loss(a, b).item() for a, b in zip(x.chunk(RANKS), y.chunk(RANKS))]
            assert math.isclose(sharded, sum(means) / RANKS, rel_tol=1e-5), f"changed: {name} is the shards' mean"
            assert abs(sharded - plain) > 0.1, f"changed: {name} of {count} rows"
        else:
            assert math.isnan(sharded), f"changed: {name} with an empty shard"
        steep = torch.tensor([count / length for length in shards for _ in range(length)])
        by_row = steep if name in STEEP else torch.ones(count)
        assert torch.allclose(times, by_row, rtol=1e-4), f"changed: the gradient of {name}, {count} rows"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 probe.py
