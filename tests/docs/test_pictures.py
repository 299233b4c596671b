"""Pictures and tables of the documentation are what their scripts draw and measure now."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest

from docs.scripts import threshold_bias

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["choices", "price", "quotas"])
def test_pictures_are_current(name: str) -> None:
    script = importlib.import_module(f"docs.scripts.draw_{name}")
    committed = script.TARGET.read_text(encoding="utf-8")
    assert committed == script.picture(), f"run docs/scripts/draw_{name}.py"
    assert committed.count("<svg") >= 1


def test_the_bias_of_averaged_prices_follows_the_formula() -> None:
    """For exponential tails the measured ratio is the predicted one, and heavier tails are worse."""
    for quota in (1, 4):
        measured = threshold_bias.averaged("exponential", quota, batches=40)
        assert measured == pytest.approx(threshold_bias.predicted(quota), rel=0.08)
        assert threshold_bias.averaged("Pareto, index 2", quota, batches=40) < measured - 0.03
    assert threshold_bias.predicted(1) == pytest.approx(math.exp(-0.5772156649), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(threshold_bias.TABLES))
def test_tables_are_current(name: str) -> None:
    committed = (threshold_bias.FOLDER / f"{name}.md").read_text(encoding="utf-8")
    written = threshold_bias.TABLES[name]()
    for row, now in zip(committed.splitlines(), written.splitlines(), strict=True):
        for cell, value in zip(row.split("|"), now.split("|"), strict=True):
            try:
                assert float(cell) == pytest.approx(float(value), abs=2e-3), (
                    f"run docs/scripts/threshold_bias.py: {now}"
                )
            except ValueError:  # words
                assert cell == value
