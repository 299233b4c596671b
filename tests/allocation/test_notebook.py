"""What notebooks show of prices, certificates and programmes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import allocation as al

SMALL = al.balanced_choice(np.random.default_rng(0).normal(size=(8, 12)), budget=16, token_floors=1, feature_caps=4)


def test_prices_certificates_and_programmes_are_tables_that_escape_what_they_are_given() -> None:
    solution = al.solve(SMALL)
    certificate = al.verify(SMALL, solution)
    violated = dataclasses.replace(certificate, optimal=False, violations=("<b>",) * 100)
    program = al.to_linear_program(SMALL)
    for shown, parts in (
        (
            solution.prices,
            ["<strong>Prices</strong>", f">{solution.prices.budget.value:.6g}<", "of 12 not zero", "none"],
        ),
        (certificate, [">optimal<", ">yes<"]),
        (violated, [">no<", "&lt;b&gt;", " more<"]),
        (program, [">96, each from 0 to 1<", "1 of budget, 8 of tokens, 12 of features", ">288<"]),
    ):
        text = shown._repr_html_()  # type: ignore[attr-defined]
        for part in parts:
            assert part in text
        assert text.count("<tr") == text.count("</tr>") == text.count("</td>") <= 30
    assert repr(program) == "ProgramArrays(96 variables, 21 rows, 288 entries)"


def test_prices_are_shown_without_a_search_for_intervals() -> None:
    def searched() -> tuple[float, float]:
        raise AssertionError("an interval was asked for")

    price = al.Price(2.0, searched)
    assert ">2<" in al.Prices(price, price, price, price, price)._repr_html_()


def test_names_that_solvers_do_not_know_are_refused() -> None:
    with pytest.raises(al.InvalidProblemError, match=r"path: expected a name that ends in \.mps, found 'x\.lp'"):
        al.to_linear_program(SMALL).write("x.lp")
    with pytest.raises(al.InvalidProblemError, match=r"path: expected a folder that exists, found 'no/such'"):
        al.to_linear_program(SMALL).write("no/such/x.mps")
