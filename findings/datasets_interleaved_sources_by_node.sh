#!/usr/bin/env bash
# datasets 5.2.0: two interleaved streams split between two processes give each process one of the two sources alone.
#
# interleave_datasets takes one text of each source in turn, and split_dataset_by_node gives each process its part. Expected:
# a mixture of both sources on each process. Seen: unless the number of shards (the least of the sources') is a multiple of
# the number of processes, a process keeps every second text of the stream, as its documentation says, and every second text
# of an alternating stream is of one source. So one of two processes, or every other of four, reads only code, say, and
# the other only prose: of 3 sources on 3 processes each reads one. What is normalised, calibrated or measured on one
# process is then that of one source, and gradients of a batch vary with it. The union is complete, so nothing looks amiss.
# Splitting each source first and interleaving the parts gives the same. Both sources reach every process where each has 4
# shards for 2 processes, where probabilities are given, and where a filter by index does the splitting.
# Source: run as below with datasets 5.2.0.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet datasets==5.2.0 numpy
cd "$work"
export HF_HUB_OFFLINE=1 HF_HOME="$work/home"
"$work/env/bin/python" -W ignore - <<'PYTHON'
from collections import Counter

from datasets import Dataset, interleave_datasets
from datasets.distributed import split_dataset_by_node


def stream(name, shards, rows=24):
    return Dataset.from_dict({"source": [name] * rows, "row": list(range(rows))}).to_iterable_dataset(num_shards=shards)


def shares(make, processes):
    parts = [list(make(rank, processes)) for rank in range(processes)]
    read = [(text["source"], text["row"]) for part in parts for text in part]
    assert len(set(read)) == len(read), "changed: a text is read twice"
    return [dict(Counter(text["source"] for text in part)) for part in parts]


def after(names, shards, **options):
    def make(rank, processes):
        mixed = interleave_datasets([stream(name, shards) for name in names], **options)
        return split_dataset_by_node(mixed, rank, processes)

    return make


def before(rank, processes):
    return interleave_datasets([split_dataset_by_node(stream(name, 1), rank, processes) for name in two])


def filtered(rank, processes):
    parts = [stream(name, 1).filter(lambda text, n: n % processes == rank, with_indices=True) for name in two]
    return interleave_datasets(parts)


two, three = ("code", "prose"), ("code", "prose", "tables")
for name, make, processes, expected in (
    ("one shard each", after(two, 1), 2, 1),
    ("3 shards each", after(two, 3), 2, 1),
    ("6 shards each", after(two, 6), 4, 1),
    ("all of both", after(two, 1, stopping_strategy="all_exhausted_without_replacement"), 2, 1),
    ("3 sources", after(three, 1), 3, 1),
    ("3 sources", after(three, 1), 2, 3),
    ("4 shards each", after(two, 4), 2, 2),
    ("with probabilities", after(two, 1, probabilities=[0.5, 0.5], seed=0), 2, 2),
    ("split, then interleaved", before, 2, 1),
    ("filtered, then interleaved", filtered, 2, 2),
):
    found = shares(make, processes)
    print(f"{name}, {processes} processes: {found}")
    assert all(len(part) == expected for part in found), f"changed: {name}"
PYTHON
