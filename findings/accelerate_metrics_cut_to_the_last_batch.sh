#!/usr/bin/env bash
# accelerate 1.15.0: in the last batch gather_for_metrics cuts any tensor to as many rows as texts were left, on one process too.
#
# Its documentation: it "potentially drops duplicates in the last batch if on a distributed system". Expected: on one process
# what comes back is what was given, and on two, what was added to fill the last batch is taken out. Seen: on any number of
# processes, if the texts do not divide into batches, the last call of an epoch keeps the first 2 rows, say, of whatever it
# gets, 2 texts being left. Of 10 texts of 3 tokens, activations or losses by token are those of 26 tokens, not 30; counts by
# feature come back for the first 2 of 5 features. Nothing is said. Rows by text are right.
# 12 texts are right throughout, and so is gather() on one process; on two it keeps the added texts.
# Source: run as below with accelerate 1.15.0, torch 2.13.0, one and two processes on the CPU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 numpy
cd "$work"
export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore
cat > probe.py <<'PYTHON'
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

LENGTH, FEATURES = 3, 5
accelerator = Accelerator(cpu=True)


def epoch(texts, gather):
    """How many texts and tokens come back, and the features for which the last batch has counts."""
    rows = TensorDataset(torch.arange(float(texts)))
    by_text = by_token = 0
    for (batch,) in accelerator.prepare(DataLoader(rows, batch_size=4 // accelerator.num_processes)):
        tokens = batch[:, None].expand(-1, LENGTH).flatten()  # one row per token, as for an autoencoder
        by_text += gather(batch).numel()
        by_token += gather(tokens).numel()
        features = gather(torch.ones(1, FEATURES).sum(0)).numel()
    return by_text, by_token, features


processes = accelerator.num_processes
for texts in (12, 10):
    found = epoch(texts, accelerator.gather_for_metrics)
    plain = epoch(texts, accelerator.gather)
    if accelerator.is_main_process:
        print(f"{processes} process(es), {texts} texts, {texts * LENGTH} tokens: gather_for_metrics {found}, gather {plain}")
    if texts == 12:
        assert found == (12, 36, FEATURES * processes), "changed: texts that divide into batches"
    else:
        assert found == (10, 26, 2), "changed: the last batch"
    assert processes > 1 or plain == (texts, texts * LENGTH, FEATURES), "changed: gather"
accelerator.end_training()
PYTHON
"$work/env/bin/python" -W ignore probe.py
"$work/env/bin/python" -W ignore -m torch.distributed.run --standalone --nproc-per-node 2 probe.py
