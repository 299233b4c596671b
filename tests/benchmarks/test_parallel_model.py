"""The computed table of many GPUs: its bytes are those that were counted, and the file holds what the script gives."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from benchmarks.parallel_model import NOTES, Step, ring, rows

RESULTS = Path("benchmarks/results")


def test_gradients_are_as_many_bytes_as_were_counted() -> None:
    content = json.loads((RESULTS / "parallel.json").read_text())
    size, counted = content["headings"].index("size"), content["headings"].index("MiB of gradients")
    for row in content["rows"]:
        tokens, d_model, features, _ = ast.literal_eval(row[size])
        step = Step(data=2, features=1, n_features=features, tokens=tokens, d_model=d_model)
        # what is handed to the sum, of which a process of a ring of two sends as much
        assert row[counted] * 2**20 == step.gradients == 4 * step.weights


def test_a_mesh_shares_out_what_one_process_has() -> None:
    alone = Step(1, 1, 4609)
    assert alone.gradients == alone.reconstruction == 0
    for data, features in ((8, 1), (1, 8), (4, 2)):
        step = Step(data, features, 4609)
        assert step.rows * features >= 4609 > (step.rows - 1) * features
        assert step.operations * data * features == pytest.approx(alone.operations, rel=0.002)
        assert step.gradients == ring(data) * 4 * step.weights
    # twice the processes of a ring send less than twice as much, and never twice their tensor
    assert ring(1) == 0 < ring(2) < ring(4) < ring(1 << 20) < 2


def test_the_table_is_what_the_script_gives() -> None:
    content = json.loads((RESULTS / "parallel_model.json").read_text())
    assert content["rows"] == rows()
    assert content["notes"] == NOTES
    assert "not measured" in NOTES
