"""Pictures and tables of the documentation are what their scripts draw and measure now."""

from __future__ import annotations

import importlib
import math
import re
from pathlib import Path

import pytest

from docs.scripts import demo_page, readme_figures, threshold_bias

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["choices", "price", "quotas", "rough"])
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


def test_the_demo_page_shows_what_the_demo_wrote() -> None:
    """Every figure of every choice, what was run, and as many panels as there are choices and pictures."""
    numbers = {"nmse": 0.25, "l0": 31.5, "dead": 7, "ce_clean": 3.0, "ce_spliced": 3.5, "ce_mean": 8.0, "ce_zero": 11.0}
    rows = [{"name": name, **numbers, "recovered_zero": 0.9, "recovered_mean": 0.8} for name in ("one", "two")]
    asked = {"model": "m", "site": "s", "tokens": 1000, "features": 64, "k": 8, "seed": 3}
    found = {"results": rows, "configuration": asked, "versions": {"torch": "2"}, "test_tokens": 99}
    table = demo_page.table(found, "2026-01-02")
    assert table.startswith("| on held-out text | one | two |")
    for text in (
        "| 0.2500 | 0.2500 |",
        "| 31.50 |",
        "| 7 |",
        "1,000 training tokens",
        "2026-01-02",
    ):
        assert text in table
    assert demo_page.pictures('<div class="figures">A</div><div class="figures">B</div>').count("panels") == 2
    with pytest.raises(ValueError, match="expected the spectra and the histograms, found 1"):
        demo_page.pictures('<div class="figures">A</div>')


def test_the_readme_shows_what_was_measured() -> None:
    """Its table, its picture, and every figure in its sentences."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = readme_figures.TABLE.findall(readme)
    assert shown == readme_figures.table(), "run docs/scripts/readme_figures.py"
    assert readme_figures.TARGET.read_text(encoding="utf-8") == readme_figures.picture()
    assert readme_figures.INLINE.read_text(encoding="utf-8") == readme_figures.inline()
    said = re.search(r"come (\d+) times faster than from `torch.topk`.*?every row ([\d.]+) times", readme, re.DOTALL)
    assert said is not None
    times = readme_figures.times()
    assert (said[1], said[2]) == (f"{times['whole']:.0f}", f"{times['rows']:.1f}")
    assert all(pair.ours.complete and pair.peer.complete for pair in readme_figures.pairs())
