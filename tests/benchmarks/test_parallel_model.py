"""The computed table of many GPUs: its bytes are those that were counted, and the file holds what the script gives."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks.parallel_model import NOTES, Step, ring, rows, sum_seconds

RESULTS = Path("benchmarks/results")


def test_gradients_are_as_many_bytes_as_were_counted() -> None:
    content = json.loads((RESULTS / "parallel.json").read_text())
    size, counted = content["headings"].index("size"), content["headings"].index("MiB of gradients")
    for row in content["rows"]:
        tokens, d_model, features, _ = ast.literal_eval(row[size])
        step = Step(data=2, features=1, n_features=features, tokens=tokens, d_model=d_model)
        assert row[counted] * 2**20 == step.gradients == 4 * step.weights


def test_a_mesh_shares_out_what_one_process_has() -> None:
    alone = Step(1, 1, 4609)
    assert alone.gradients == alone.reconstruction == 0
    for data, features in ((8, 1), (1, 8), (4, 2)):
        step = Step(data, features, 4609)
        assert step.rows * features >= 4609 > (step.rows - 1) * features
        assert step.operations * data * features == pytest.approx(alone.operations, rel=0.002)
        assert step.reconstruction * data == (0 if features == 1 else alone.tokens * alone.d_model * 4)
    # twice the processes of a ring send less than twice as much, and never twice their tensor
    assert ring(1) == 0 < ring(2) < ring(4) < ring(1 << 20) < 2


def test_sums_are_made_within_machines_first() -> None:
    assert sum_seconds(450_000_000_000, 4, 4) == 1.5
    assert sum_seconds(50_000_000_000, 4, 1) == 1.5  # one of each machine
    assert sum_seconds(400_000_000_000, 32, 8) == 1.75 * 400 / 450  # the ports, 50 GB each, are done before
    assert Step(512, 1, 4609).members() == (8, 1)
    assert Step(16, 4, 4609).members() == (2, 4)
    assert Step(1, 64, 4609).members() == (1, 8)
    # each of a machine's features sends its own share: cutting more of them takes nothing from its port
    sent = [Step(64 // features, features, 1 << 20).between() for features in (1, 2, 4, 8)]
    assert max(sent) < 1.3 * min(sent)


def test_the_table_is_what_the_script_gives() -> None:
    content = json.loads((RESULTS / "parallel_model.json").read_text())
    assert content["rows"] == rows()
    assert content["notes"] == NOTES
    assert "not measured" in NOTES
