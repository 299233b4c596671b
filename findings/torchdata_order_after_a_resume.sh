#!/usr/bin/env bash
# torchdata 0.11.0: after a resume with a generator of one's own and no workers, all later epochs have another order.
#
# StatefulDataLoader.state_dict() holds what a run needs to go on as if it had not been stopped. Expected: the rest of the
# epoch and all epochs after it come in the order of the run that was never interrupted, whatever the arguments. Seen: with
# shuffle=True, generator=torch.Generator().manual_seed(...) and num_workers=0, the rest of the epoch does, and no later
# epoch; each text still comes once per epoch. So a resumed run cannot be compared with a whole one step by step, and nothing
# is said. With a worker, or without the argument `generator`, later epochs are the same.
# It does not matter at which batch the run was stopped, or in which epoch.
# Source: run as below with torchdata 0.11.0, torch 2.13.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 torchdata==0.11.0 numpy
cd "$work"
export OMP_NUM_THREADS=1
cat > probe.py <<'PYTHON'
import torch
from torchdata.stateful_dataloader import StatefulDataLoader

TEXTS, BATCH, EPOCHS = 12, 3, 4


def loader(workers, own, seed):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed) if own else None
    return StatefulDataLoader(range(TEXTS), batch_size=BATCH, shuffle=True, num_workers=workers, generator=generator)


def epoch(batches):
    return [number for batch in batches for number in batch.tolist()]


def whole(workers, own):
    batches = loader(workers, own, 0)
    return [epoch(batches) for _ in range(EPOCHS)]


def resumed(workers, own, epochs, steps):
    batches = loader(workers, own, 0)
    orders = [epoch(batches) for _ in range(epochs)]
    running = iter(batches)
    begun = [number for _ in range(steps) for number in next(running).tolist()]
    state = batches.state_dict()
    batches = loader(workers, own, 0)  # a new process would have made it so
    batches.load_state_dict(state)
    orders.append(begun + epoch(batches))
    return orders + [epoch(batches) for _ in range(EPOCHS - epochs - 1)]


if __name__ == "__main__":
    for workers in (0, 1):
        for own in (False, True):
            expected = whole(workers, own)
            for epochs, steps in ((0, 2), (1, 1)):
                found = resumed(workers, own, epochs, steps)
                same = [a == b for a, b in zip(found, expected)]
                print(f"{workers} workers, own generator: {own}, stopped in epoch {epochs}: epochs in the same order {same}")
                assert all(sorted(order) == list(range(TEXTS)) for order in found)
                assert all(same[: epochs + 1]), "changed: the epoch that was interrupted"
                later = same[epochs + 1 :]
                assert not any(later) if own and not workers else all(later), "changed: later epochs"
PYTHON
"$work/env/bin/python" -W ignore probe.py
