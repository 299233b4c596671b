"""Pictures show the numbers they claim to show, at any size, and come only when asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

import allocation as al

mpl.use("Agg")
from matplotlib import pyplot

RNG = np.random.default_rng(0)
SMALL = al.balanced_choice(RNG.normal(size=(8, 12)), 16, token_caps=3, token_floors=1, feature_caps=2, feature_floors=1)
LARGE = al.Problem(
    RNG.standard_normal((150, 400)).astype(np.float16),
    budget=900,
    feature_caps=al.zipf_quotas(1200, 400, alpha=1.0, beta=10.0, tokens=150),
)
EMPTY = al.balanced_choice(np.empty((0, 3)), 2, token_caps=1, feature_caps=1)
ONE = al.token_choice([[2.0]], 1)
EDGES = al.Problem.from_edges([0, 1, 1], [2, 0, 1], [1.5, 2.0, -1.0], shape=(2, 3), budget=2)
PROBLEMS = {"small": SMALL, "large": LARGE, "empty": EMPTY, "one": ONE, "edges": EDGES}


@pytest.fixture(autouse=True)
def _no_figures_are_left() -> Iterator[None]:
    yield
    pyplot.close("all")


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_picture_of_every_size_is_drawn(name: str) -> None:
    problem = PROBLEMS[name]
    solution = al.solve(problem)
    pictures = [al.plot.matrix(problem), al.plot.matrix(problem, solution), al.plot.value_curve(problem)]
    pictures += [al.plot.load(problem, solution, side) for side in ("tokens", "features")]
    blocks = ("tokens", "features", "token_groups", "feature_groups")
    pictures += [al.plot.prices(solution, block) for block in blocks]
    if problem is not SMALL:  # floors have no soft twin
        pictures.append(al.plot.soft_to_exact(problem, form="clipped"))
    for ax in pictures:
        ax.figure.canvas.draw()
        assert ax.get_xlabel()
        assert ax.get_ylabel()


def test_axes_given_are_drawn_into_and_returned() -> None:
    _, (left, right) = pyplot.subplots(1, 2)
    assert al.plot.matrix(SMALL, ax=left) is left
    assert al.plot.load(SMALL, al.solve(SMALL), ax=right) is right
    assert pyplot.get_fignums() == [left.figure.number]


def test_the_matrix_shows_scores_forbidden_pairs_and_matches() -> None:
    scores = RNG.normal(size=(5, 7))
    scores[1, 2:4] = -np.inf
    problem = al.mutual_choice(scores, 6)
    solution = al.solve(problem)
    ax = al.plot.matrix(problem, solution)
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), scores == -np.inf)
    np.testing.assert_array_equal(shown.filled(-np.inf), scores)
    places = ax.collections[0].get_offsets()
    np.testing.assert_array_equal(np.asarray(places), np.stack([solution.features, solution.tokens], axis=1))


def test_a_large_matrix_is_shown_in_blocks() -> None:
    solution = al.solve(LARGE)
    ax = al.plot.matrix(LARGE, solution)
    shown, step = ax.images[0].get_array(), 7
    assert shown.shape == (22, 58)
    assert shown[3, 5] == LARGE.scores[21:28, 35:42].max()
    blocks = {(t // step, f // step) for t, f in zip(solution.tokens, solution.features, strict=True)}
    assert len(ax.collections[0].get_offsets()) == len(blocks)


@pytest.mark.parametrize("problem", [SMALL, LARGE])
@pytest.mark.parametrize("side", ["tokens", "features"])
def test_bars_are_the_loads_and_lines_the_limits(problem: al.Problem, side: Any) -> None:
    solution = al.solve(problem)
    counts = solution.feature_counts if side == "features" else solution.token_counts
    ax = al.plot.load(problem, solution, side)
    bars, labels = ax.get_legend_handles_labels()
    drawn = dict(zip(labels, bars, strict=True))
    np.testing.assert_array_equal(np.sort(drawn["load"].get_data().values[::2]), np.sort(counts))
    caps = getattr(problem, f"{side[:-1]}_caps")
    assert ("cap" in drawn) == (caps is not None)
    if caps is not None:
        assert np.sum(drawn["cap"].get_data().values == drawn["load"].get_data().values[::2]) == np.sum(counts == caps)


def test_prices_and_their_intervals() -> None:
    solution = al.solve(SMALL)
    price = solution.prices.features
    ax = al.plot.prices(solution)
    order = [int(text.get_text()) for text in ax.get_xticklabels()]
    assert sorted(order) == list(range(12))
    segments = np.array(ax.collections[0].get_segments())[:, :, 1]
    np.testing.assert_allclose(segments, np.stack([price.lower, price.upper], axis=1)[order])
    dots = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(np.sort(dots["floor binds"]), np.sort(price.value[price.value < 0]))


def test_an_interval_without_an_end_is_an_arrow() -> None:
    problem = al.Problem(np.ones((2, 3)), token_caps=[1, 2], token_groups=[al.Group([0, 1], floor=3)])
    solution = al.solve(problem)
    assert np.all(np.isinf(solution.prices.tokens.upper))
    ax = al.plot.prices(solution, "tokens")
    assert [len(line.get_xdata()) for line in ax.lines if line.get_marker() == "^"] == [2]


def test_the_value_curve_is_concave_and_touched_by_the_price() -> None:
    ax = al.plot.value_curve(SMALL)
    budgets, worth = ax.lines[0].get_data()
    assert budgets[0] >= 12, "fewer matches than floors demand have no value"
    slopes = np.diff(worth) / np.diff(budgets)
    assert np.all(np.diff(slopes) <= 1e-9)
    tangent = ax.lines[1]
    x, y = tangent.get_data()
    price = al.solve(SMALL).prices.budget
    assert (y[2] - y[1]) / (x[2] - x[1]) == pytest.approx(price.value)
    assert np.all(np.interp(budgets, x, y)[(budgets >= x[0]) & (budgets <= x[2])]
                  >= worth[(budgets >= x[0]) & (budgets <= x[2])] - 1e-9)  # fmt: skip
    chosen = al.plot.value_curve(al.mutual_choice([[4.0, 3.0, 1.0]], 1), budgets=[3, 1, 3])
    np.testing.assert_array_equal(chosen.lines[0].get_data(), [[1, 3], [4, 8]])


def test_soft_encloses_exact() -> None:
    problem = al.mutual_choice(RNG.normal(size=(6, 9)), 10)
    ax = al.plot.soft_to_exact(problem, [1.0, 0.1, 1e-4])
    exact = al.solve(problem).objective
    above, below, line = (np.asarray(drawn.get_ydata()) for drawn in ax.lines)
    assert np.all(above >= exact - 1e-9)
    assert np.all(below <= exact + 1e-9)
    np.testing.assert_array_equal(line, exact)
    assert above[-1] - below[-1] < 1e-2 < above[0] - below[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: al.plot.load(SMALL, al.solve(SMALL), "rows"), "side: expected 'tokens', 'features', found 'rows'"),  # type: ignore[arg-type]
        (lambda: al.plot.prices(al.solve(SMALL), "budget"), "block: expected 'features', .* found 'budget'"),  # type: ignore[arg-type]
        (lambda: al.plot.value_curve(SMALL, [1.5]), "budget: expected an integer, found 1.5"),
        (lambda: al.plot.soft_to_exact(LARGE, [0.0]), "temperature: expected a positive finite number"),
    ],
)
def test_bad_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=message):
        call()


def test_without_matplotlib_one_sentence_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import allocation as al\n"
        "try:\n    al.plot.matrix(al.token_choice([[1.0]], 1))\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said == "al.plot needs matplotlib: run `pip install 'sae-allocation[plot]'`\n"


def test_notebooks_show_a_table_that_escapes_what_it_is_given() -> None:
    solution = al.solve(SMALL)
    for shown, parts in (
        (SMALL, ["<strong>Problem</strong>", "8 tokens x 12 features, float64", "token floors", ">16<"]),
        (solution, ["16 of 8 tokens x 12 features", "TwoSided: ", al.Status.OPTIMAL.value]),
        (al.solve(SMALL, al.TopSelection(), throw=False), ["UNSUPPORTED", "TopSelection knows no floors"]),
        (al.soft_solve(ONE, 0.5), ["entropy, 0.5", "0.982 to 0.982, 0.982 on average"]),
        (EMPTY, ["0 tokens x 3 features"]),
        (al.solve(EMPTY), [">none<"]),
    ):
        text = shown._repr_html_()
        for part in parts:
            assert part in text
        assert text.count("<tr") == text.count("</tr>") == text.count("</td>")
    broken = al.Solution((1, 1), al.Status.INFEASIBLE, {}, ValueError("<b>"))
    assert "&lt;b&gt;" in broken._repr_html_()


def test_a_grid_of_pictures_uses_its_room() -> None:
    problem = al.balanced_choice(np.eye(4), budget=3, token_caps=1, feature_caps=1)
    figure, grid = pyplot.subplots(3, 1, figsize=(6, 9), layout="constrained")
    for ax in grid:
        al.plot.prices(al.solve(problem), ax=ax)
    figure.canvas.draw()
    assert all(ax.get_window_extent().height > 150 for ax in grid)
    pyplot.close(figure)


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda p, s: al.plot.prices(p), "solution: expected an allocation.Solution, found Problem"),
        (lambda p, s: al.plot.load(s, p), "problem: expected an allocation.Problem, found Solution"),
        (lambda p, s: al.plot.matrix(p, p), "solution: expected an allocation.Solution, found Problem"),
        (lambda p, s: al.plot.matrix(s), "problem: expected an allocation.Problem, found Solution"),
        (lambda p, s: al.plot.matrix(ONE, s), r"solution: expected one of shape \(1, 1\) as the problem, found"),
        (lambda p, s: al.plot.load(ONE, s), r"solution: expected one of shape \(1, 1\) as the problem, found"),
        (lambda p, s: al.plot.value_curve(s), "problem: expected an allocation.Problem, found Solution"),
        (lambda p, s: al.plot.soft_to_exact(s), "problem: expected an allocation.Problem, found Solution"),
        (lambda p, s: al.plot.prices(s, ax=3), "ax: expected matplotlib Axes of the usual kind, found 3"),
        (lambda p, s: al.plot.load(p, s, ax=pyplot.subplot(projection="polar")), "ax: expected matplotlib Axes of the"),
        (lambda p, s: al.plot.value_curve(p, []), "budgets: expected whole numbers, found"),
        (lambda p, s: al.plot.value_curve(p, pyplot.subplot()), "budgets: expected whole numbers, found"),
        (lambda p, s: al.plot.soft_to_exact(p, []), "temperatures: expected positive numbers, found"),
    ],
)
def test_arguments_in_the_wrong_place_are_named(draw: Any, sentence: str) -> None:
    with pytest.raises(al.InvalidProblemError, match=sentence):
        draw(SMALL, al.solve(SMALL))
