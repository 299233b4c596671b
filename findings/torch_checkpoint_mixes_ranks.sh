#!/usr/bin/env bash
# torch 2.13.0: a distributed checkpoint of values that differ by rank comes back as a mixture of ranks.
#
# Expected: each rank's own values, one rank's for all, or a refusal. Seen: dcp.save keeps one rank's copy of every plain
# tensor and object, chosen entry by entry to share out the bytes, so that of one state "tokens" comes from one rank,
# "seed" from another and the objects from a third; every rank loads that mixture. Nothing is said on either side. Counters
# and generators that each rank keeps for itself come back as a state that no rank was in.
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
import torch.distributed.checkpoint as dcp

dist.init_process_group("gloo")
rank = dist.get_rank()


def state(value):
    """What one rank keeps: all of it carries `value`."""
    return {
        "tokens": torch.full((2000,), float(value)),
        "fired": torch.full((3000,), float(value)),
        "seed": torch.full((1000,), float(value)),
        "reader": f"rank {value}",
    }


dcp.save(state(rank), checkpoint_id="checkpoint")
loaded = state(-1)
dcp.load(loaded, checkpoint_id="checkpoint")
found = {name: value if isinstance(value, str) else int(value[0]) for name, value in loaded.items()}
print(f"rank {rank} loads", found)
sources = {found["tokens"], found["fired"], found["seed"]}
assert len(sources) > 1, "changed: the entries come from one rank"
everywhere = [None] * 3
dist.all_gather_object(everywhere, found)
assert everywhere == [found] * 3, "changed: the ranks load different values"
dist.destroy_process_group()
PYTHON
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 3 probe.py
