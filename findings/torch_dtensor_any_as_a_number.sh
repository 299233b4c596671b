#!/usr/bin/env bash
# torch 2.13.0: any() along the sharded rows of a DTensor, used as a number, counts the ranks where it is true.
#
# Whether a feature fires anywhere in a batch is (codes > 0).any(0); with the tokens of the batch sharded over ranks,
# float().mean() of it is the share of features alive. Expected: true is 1, as in one process, or a refusal. Seen: what is
# yet to be combined over ranks is kept as a sum of each rank's true, which float(), int(), sum(), mean() and a product carry
# on, so that a feature that fires on three ranks is 3. Two thirds alive come out as more than all, 1 - alive is -2, and a
# mask of codes by alive features multiplies them by 3. All ranks agree, and nothing is said.
# full_tensor(), ~, |, where, masked_fill, nonzero and count_nonzero of the same DTensor are right; so are all() and amax(0) > 0.
# Source: run as below with torch 2.13.0, three processes on the CPU; no other software is involved.
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

dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (3,))
codes = torch.zeros(6, 6)  # two tokens on each rank
codes[:, 0] = 1.0  # fires on all ranks
codes[::2, 1] = 2.0  # on all ranks
codes[:4, 2] = 3.0  # on two of them
codes[5, 3] = 4.0  # on one; the last two features are silent
sharded = distribute_tensor(codes, mesh, [Shard(0)])


def compare(name, value, same):
    whole, found = value(codes), value(sharded).full_tensor()
    if rank == 0:
        print(f"{name}: one process {whole.tolist()}, three {found.tolist()}")
    assert torch.equal(whole, found) == same, f"changed: {name}"
    return found


def alive(x):
    return (x > 0).any(0)


compare("alive", alive, True)
compare("~alive", lambda x: ~alive(x), True)
compare("how many, by count_nonzero", lambda x: alive(x).count_nonzero(), True)
compare("how many, by where", lambda x: torch.where(alive(x), 1, 0).sum(), True)
compare("how many, by amax", lambda x: (x.amax(0) > 0).sum(), True)
compare("how many are silent", lambda x: (~alive(x)).sum(), True)
compare("features that always fire", lambda x: (x > 0).all(0).sum(), True)
assert compare("how many, by sum", lambda x: alive(x).sum(), False).item() == 9
assert compare("share alive", lambda x: alive(x).float().mean(), False).item() == 1.5
assert compare("alive as numbers", lambda x: alive(x).int(), False).tolist() == [3, 3, 2, 1, 0, 0]
assert compare("1 - alive", lambda x: 1 - alive(x).float(), False).tolist() == [-2, -2, -1, 0, 1, 1]
masked = compare("sums of the masked codes", lambda x: (x * alive(x)).sum(0), False)
assert masked.tolist() == [18, 18, 24, 4, 0, 0], "changed: a product with the mask"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 probe.py
