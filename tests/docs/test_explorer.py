"""The explorer shows what `allocation` answers: in its files, and in the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import allocation as al
from docs.scripts import explorer_answers as explorer

pytestmark = pytest.mark.slow

SEED = 2411
SIZES = (
    len(explorer.BUDGETS),
    len(explorer.TOKEN_CAPS),
    len(explorer.FEATURE_CAPS),
    len(explorer.FLOORS),
    len(explorer.TEMPERATURES),
)
Position = tuple[int, ...]


def drawn(count: int, rng: np.random.Generator) -> list[tuple[str, Position]]:
    """Presets and positions of the sliders."""
    names = list(explorer.presets())
    return [(str(rng.choice(names)), tuple(int(rng.integers(size)) for size in SIZES)) for _ in range(count)]


def problem(name: str, position: Position) -> al.Problem:
    budget, token_cap, feature_cap, floor, _ = position
    limits = explorer.TOKEN_CAPS[token_cap], explorer.FEATURE_CAPS[feature_cap], explorer.FLOORS[floor]
    return explorer.problem(explorer.presets()[name], budget, *limits)


@pytest.fixture(scope="module")
def files(site: Path) -> dict[str, Any]:
    """What the files of the site hold, as the page receives it."""
    found = {}
    for file in (site / "assets" / "explorer").glob("*.js"):
        text = file.read_text(encoding="utf-8")
        found[file.stem] = json.loads(text.removeprefix("allocationExplorer.receive(").removesuffix(");\n"))
    return found


def test_the_files_are_complete_and_small(files: dict[str, Any], site: Path) -> None:
    assert set(files) == set(explorer.presets())
    for file in files.values():
        assert len(file["exact"]["positions"]) == math.prod(SIZES[:4])
        assert len(file["soft"]["positions"]) == math.prod(SIZES[:3]) * (SIZES[4] - 1)
    assert sum(file.stat().st_size for file in (site / "assets" / "explorer").iterdir()) < 5e6


def test_the_files_hold_the_answers_of_solve(files: dict[str, Any]) -> None:
    """Also where limits that contradict each other were not tried again with other scores."""
    infeasible = 0
    for name, position in drawn(300, np.random.default_rng(SEED)):
        budget, token_cap, feature_cap, floor, _ = position
        row = (floor * SIZES[1] + token_cap) * SIZES[2] + feature_cap
        table = files[name]["exact"]
        found = table["answers"][table["positions"][row * SIZES[0] + budget]]
        solution = al.solve(problem(name, position), throw=False)
        if solution.error is not None:
            infeasible += 1
            assert found == str(solution.error)
            continue
        bits, total, lam, lower, upper, tokens, features, solver = found
        mask = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8)).reshape(explorer.TOKENS, -1)
        assert np.array_equal(mask, solution.mask()), (name, position)
        assert total == solution.objective
        price = solution.prices.budget
        assert (lam, lower, math.inf if upper is None else upper) == (price.value, price.lower, price.upper)
        assert np.array_equal(tokens, solution.prices.tokens.value)
        assert np.array_equal(features, solution.prices.features.value)
        assert solver == solution.stats["solver"]
    assert infeasible > 30


def shown(page: Any) -> dict[str, Any]:
    """What a reader sees: the matrix, its margins, the summary, the verdict."""
    return dict(
        page.evaluate(
            """() => {
            const rows = Array.from(document.querySelectorAll('#matrix tbody tr'));
            const number = text => text === '' ? null : Number(text.replace('−', '-').replace('∞', 'Infinity'));
            const item = key => document.querySelector(`#summary [data-value=${key}]`);
            const value = key => item(key)?.textContent.replaceAll('−', '-');
            const cells = (row, see) => Array.from(row.querySelectorAll('[data-at]'), see);
            const at = (row, kind) => number(row.querySelector('td.' + kind).title);
            const foot = Array.from(document.querySelectorAll('#matrix tfoot tr:last-child td'));
            return {
                match: rows.map(row => cells(row, cell => cell.classList.contains('match'))),
                share: rows.map(row => cells(row, cell => Number(cell.style.getPropertyValue('--share')))),
                warm: document.querySelectorAll('#matrix .warm').length,
                loads: rows.map(row => number(row.querySelector('td.load').textContent)),
                tokens: rows.map(row => at(row, 'price')),
                features: foot.slice(0, -2).map(cell => number(cell.title)),
                lam: number(foot.at(-1).title),
                total: value('total'), bound: value('bound'), interval: value('lam'), soft: value('soft'),
                verdict: document.querySelector('#verdict').textContent,
            };
        }"""
        )
    )


def go(page: Any, name: str, position: Position) -> None:
    """Move the controls as a reader does: each change is an event."""
    page.check(f"input[name=preset][value={name}]", force=True)
    for control, value in zip(("budget", "token-cap", "feature-cap", "floor", "temperature"), position, strict=True):
        page.locator(f"#{control}").fill(str(value))
    page.wait_for_function(f"document.querySelector('#matrix').dataset.shows === '{name}'")


def test_thirty_random_positions_agree_with_solve(visit: Any) -> None:
    one = visit()
    page = one.open("explorer.html")
    kinds = {"infeasible": 0, "exact": 0, "soft": 0, "refused": 0}
    for name, position in drawn(30, np.random.default_rng(SEED)):
        go(page, name, position)
        found, asked = shown(page), problem(name, position)
        temperature = explorer.TEMPERATURES[position[-1]]
        solution = al.solve(asked, throw=False)
        if solution.error is not None:
            kinds["infeasible"] += 1
            assert found["verdict"] == f"InfeasibleError{solution.error}"
            assert not np.any(found["match"])
            assert (found["total"], found["lam"]) == (None, None)
            continue
        assert np.array_equal(found["match"], solution.mask()), (name, position)
        assert float(found["total"]) == float(found["bound"]) == solution.objective
        price = solution.prices.budget
        assert found["interval"].replace("∞", "inf") == f"{price.value:g} in [{price.lower:g}, {price.upper:g}]"
        if temperature and not explorer.FLOORS[position[3]]:
            kinds["soft"] += 1
            soft = al.soft_solve(asked, temperature)
            prices, counts, tolerance = soft.prices, soft.token_counts, 1e-3
            assert np.allclose(found["share"], soft.allocation, atol=1e-3)
            assert float(found["soft"]) == pytest.approx(soft.objective, abs=0.06)
            assert found["warm"] == soft.allocation.size
        else:
            kinds["refused" if temperature else "exact"] += 1
            prices, counts, tolerance = solution.prices, solution.token_counts, 0.0
            assert ("soft_solve" in found["verdict"]) == bool(temperature)
            assert found["warm"] == 0
        assert found["lam"] == pytest.approx(prices.budget.value, abs=tolerance)
        assert np.allclose(found["tokens"], prices.tokens.value, rtol=0, atol=tolerance)
        assert np.allclose(found["features"], prices.features.value, rtol=0, atol=tolerance)
        assert np.allclose(found["loads"], counts, atol=0.06 if tolerance else 0)
    assert min(kinds.values()) >= 2, kinds
    assert one.complaints == []
    assert one.elsewhere == []


def test_the_keyboard_moves_sliders_and_cells(visit: Any) -> None:
    page = visit("phone").open("explorer.html")
    page.locator("#budget").focus()
    before = shown(page)["total"]
    page.keyboard.press("ArrowRight")
    assert page.locator("#budget-shown").inner_text() == "≤ 25"
    assert float(shown(page)["total"]) > float(before)
    page.locator("#matrix [data-at='0 0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    score = explorer.presets()["generic"][1, 1]
    assert f"Token 1, feature 1: score {score}" in page.locator("#readout").inner_text()
    assert page.locator("#matrix [tabindex='0']").count() == 1
    page.locator("input[name=preset][value=generic]").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#matrix').dataset.shows === 'tied'")


CONTRASTS = """() => {
    const draw = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const linear = v => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
    const light = colour => {
        draw.fillStyle = colour;
        draw.fillRect(0, 0, 1, 1);
        const [r, g, b] = draw.getImageData(0, 0, 1, 1).data;
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    return Array.from(document.querySelectorAll('#matrix [data-at]'), cell => {
        const style = getComputedStyle(cell);
        const [a, b] = [light(style.color), light(style.backgroundColor)].sort((x, y) => y - x);
        return [(a + 0.05) / (b + 0.05), Number(cell.style.getPropertyValue('--share'))];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_cell_can_be_read(visit: Any, scheme: str) -> None:
    """Text has the contrast of 4.5 that the guidelines for accessible pages ask for, at every share."""
    page = visit("desk", scheme).open("explorer.html")
    shares: list[float] = []
    for position in [(24, 4, 4, 0, 0), (24, 4, 4, 0, 2), (24, 2, 1, 0, 3), (40, 3, 2, 0, 2), (96, 4, 4, 0, 3)]:
        go(page, "generic", position)
        for contrast, share in page.evaluate(CONTRASTS):
            assert contrast >= 4.5, (position, share, contrast)
            shares.append(share)
    assert np.histogram(shares, bins=20, range=(0.0, 1.0))[0].min() >= 1


def test_every_thing_to_try_leads_to_what_it_says(visit: Any) -> None:
    page = visit().open("explorer.html")
    buttons = page.locator("button[data-position]")
    assert buttons.count() >= 8
    seen = []
    for index in range(buttons.count()):
        buttons.nth(index).click()
        name, *position = buttons.nth(index).get_attribute("data-position").split(" ")
        page.wait_for_function(f"document.querySelector('#matrix').dataset.shows === '{name}'")
        assert [page.locator(f"#{control}").input_value() for control in ("budget", "floor")] == [
            position[0],
            position[3],
        ]
        seen.append(shown(page))
    errors = [found["verdict"] for found in seen if found["verdict"]]
    assert len(errors) == 1
    assert errors[0].startswith("InfeasibleErrorthe floors of features")
