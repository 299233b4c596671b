"""What the build does to formulas and docstrings."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest

import allocation as al
from docs.hooks import docstrings, formulas, options, reference, results
from sae_torch.cli import COMMANDS

PAGE = SimpleNamespace(file=SimpleNamespace(src_path="api/page.md"))


def test_formulas_become_mathml_with_their_tex_as_text() -> None:
    html = '<p><span class="arithmatex">\\(a &lt; \\lam\\)</span></p><div class="arithmatex">\\[\\sum_i x_i\\]</div>'
    shown = formulas.on_page_content(html, PAGE)
    assert 'alttext="a &lt; \\lam"' in shown
    assert "<mi>λ</mi>" in shown
    assert '<div class="formula" data-search-exclude' in shown
    assert "arithmatex" not in shown


def test_an_unknown_command_ends_the_build() -> None:
    with pytest.raises(formulas.TexError, match=r"api/page\.md: the formula '\\\\nothing x' cannot be converted"):
        formulas.on_page_content('<span class="arithmatex">\\(\\nothing x\\)</span>', PAGE)


def test_docstrings_show_the_problem_as_a_block_and_the_source_before_the_sections() -> None:
    text = "One line.\n\n::\n\n    max x\n      y\n\nMore.\n\nParameters\n----------\nk : int, default ``Auto()``\n\n"
    text += "Source: Someone\n2024.\n\nExamples\n--------\n>>> 1\n"
    shown = docstrings.for_the_page(text)
    assert "```{.text .problem}\nmax x\n  y\n```" in shown
    assert shown.index("Source: Someone\n2024.\n\nParameters") < shown.index("Examples\n--------")
    assert shown.count("Source") == 1
    assert "default Auto()\n" in shown
    assert docstrings.for_the_page("Plain: text.\n") == "Plain: text.\n"


def test_entries_without_a_description_have_no_dash() -> None:
    html = '<b>x</b> –\n <div class="doc-md-description">\n </div><b>y</b> – <div class="doc-md-description">Y</div>'
    assert reference.on_page_content(html, PAGE) == '<b>x</b><b>y</b> – <div class="doc-md-description">Y</div>'


def test_options_are_those_of_the_command() -> None:
    """Each field of the demo is an option, with the value one would type."""
    from dataclasses import fields

    from sae_torch.commands.demo import Demo

    table = options.table("sae_torch.commands.demo", "Demo")
    for field in fields(Demo):
        assert f"| `--{field.name.replace('_', '-')}` |" in table
    assert f"`{Demo.out}`" in table
    assert f"`{Demo.model}`" in table
    assert f"`{Demo.tokens}`" in table


def test_options_that_are_inherited_or_nested_are_shown_with_their_section() -> None:
    from dataclasses import fields

    from sae_torch.training.config import TrainConfig

    table = options.table("sae_torch.commands.train", "Train")
    for field in fields(TrainConfig):
        assert f"| `--train.{field.name.replace('_', '-')}` |" in table
    for option in ("--out", "--allow-inexact", "--harvest.model", "--sweep.k", "--sae.n-features"):
        assert f"| `{option}` |" in table


def test_results_show_what_the_file_holds() -> None:
    assert (results.cell(0.123456), results.cell(1234.5), results.cell(float("nan")), results.cell("x")) == (
        "0.123",
        "1,234",
        "–",
        "x",
    )
    files = sorted(results.RESULTS.glob("*.json"))
    assert files
    assert all(f"benchmarks/results/{file.name}" in results.section(file) for file in files)


def test_a_page_shows_one_result_by_name_and_the_others_leave_it_out() -> None:
    named = results.on_page_markdown("before <!-- results: rivals --> after")
    assert "benchmarks/results/rivals.json" in named
    everything = results.on_page_markdown(results.PLACE)
    assert "rivals.json" not in everything
    assert "two_sided.json" in everything


def test_tables_of_a_device_are_shown_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every stage the parts that have rows; one that was cut off says so."""
    machine = {"date": "2026-01-01", "processor": "x", "cores": 2, "python": "3.12", "versions": {"torch": "2.11"}}
    rows = {"status": "cut off", "headings": ["selection", "solve ms"], "rows": [["whole", 1.5]]}
    content = {
        "stage": "selection",
        "machine": machine | {"device": "A Card"},
        "parts": {"selections": rows, "checked": {"status": "done", "said": "fine"}, "failed": {"status": "failed"}},
    }
    (tmp_path / "a_card").mkdir()
    (tmp_path / "a_card" / "selection.json").write_text(json.dumps(content))
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    page = results.on_page_markdown(results.PLACE)
    assert page.count("## ") == 1
    assert "## A Card: selections" in page
    assert "On A Card; cut off." in page
    assert "| whole | 1.5 |" in page
    assert "benchmarks/results/a_card/selection.json" in page


def test_times_are_drawn_where_several_sides_took_turns() -> None:
    """One dot for each time, none for a side that did not run, and a larger time further to the right."""
    rows = [["whole", 1.0, 10.0, 2.0], ["rows", 5.0, float("nan"), 3.0]]
    (picture,) = results.timings({"headings": ["selection", "floor ms", "solve ms", "ratio"], "rows": rows})
    dots = re.findall(r'<circle class="dot c\d" cx="([\d.]+)" cy="(\d+)" r="4.5">', picture)
    assert len(dots) == 3
    (solve, _), (floor, _) = dots[:2]
    assert float(solve) > float(floor)
    assert results.timings({"headings": ["choice", "training s", "one ms"], "rows": [["token", 1.0, 2.0]]}) == []


def options_of(kind: Any, prefix: str = "") -> dict[str, str]:
    """What the command line takes, with the defaults as the page has them."""
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):
        option, value = f"{prefix}{field.name.replace('_', '-')}", field.default
        if is_dataclass(hints[field.name]):
            found |= options_of(hints[field.name], f"{option}.")
        elif value is MISSING:
            found[option] = "required" if field.default_factory is MISSING else ""
        else:
            words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            found[option] = "" if value is None or value is False or value == () else f"`{words}`"
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_lists_each_option_of_each_command_once(command: str) -> None:
    module, name, _ = COMMANDS[command]
    page = Path("docs/api/command-line.md").read_text(encoding="utf-8")
    assert f"## {command}\n" in page
    assert f"<!-- options of sae_torch.commands.{module}.{name} -->" in page
    rows = re.findall(r"^\| `--(\S+)` \| (.*?) \|", options.table(f"sae_torch.commands.{module}", name), re.MULTILINE)
    assert sorted(rows) == sorted(options_of(getattr(import_module(f"sae_torch.commands.{module}"), name)).items())


def test_a_table_of_a_docstring_is_one_on_the_page() -> None:
    shown = docstrings.for_the_page(inspect.cleandoc(al.Auto.__doc__ or ""))
    assert "====" not in shown
    assert "| limits beside the budget | solver |\n| --- | --- |\n" in shown
    assert "| of both sides | `TwoSided` |" in shown
