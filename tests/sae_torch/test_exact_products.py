"""Scores that are the float32 nearest to the exact sum, whoever adds up."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_torch.exact_products import ExactProducts

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from(
    [0.0, 1.0, -1.0, 2.0**-24, 1 + 2.0**-23, 2.0**24 + 2, -3e-20]
)


@st.composite
def products(draw: st.DrawFn) -> ExactProducts:
    """A few short factors, some of them repeated so that sums cancel."""
    d, tokens, features = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def matrix(rows: int, columns: int) -> Tensor:
        entries = draw(st.lists(NUMBERS, min_size=rows * columns, max_size=rows * columns))
        return torch.tensor(entries, dtype=torch.float32).view(rows, columns)

    left, right = matrix(tokens, d), matrix(features, d)
    if draw(st.booleans()):  # what one half adds, the other takes away
        left, right = torch.cat([left, left], 1), torch.cat([right, -right], 1)
    norms = matrix(features, 1).abs().squeeze(1) + 0.5
    return ExactProducts(left, right, matrix(features, 1).squeeze(1), norms)


def nearest(exact: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even, by comparing it with two neighbours."""
    near = np.float32(float(exact))
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    return min(around, key=lambda each: (abs(Fraction(float(each)) - exact), int(each.view(np.int32)) & 1))


@given(products())
def test_every_score_is_the_nearest_to_the_exact_sum(given: ExactProducts) -> None:
    scores = given.all()
    rows, columns = scores.shape
    tokens, features = (torch.from_numpy(ends) for ends in np.indices(scores.shape).reshape(2, -1))
    assert torch.equal(given.at(tokens, features), scores.view(-1))
    for i in range(rows):
        for j in range(columns):
            terms = zip(given.centred[i].tolist(), given.encoder[j].tolist(), strict=True)
            exact = sum((Fraction(a) * Fraction(b) for a, b in terms), Fraction(float(given.bias[j])))
            expected = nearest(exact) * np.float32(given.norms[j])
            assert float(scores[i, j]) == float(expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_threads_nor_the_size_of_a_batch_change_a_bit(threads: int) -> None:
    draw = torch.Generator().manual_seed(0)
    x, w, b = torch.randn(90, 70, generator=draw), torch.randn(50, 70, generator=draw), torch.randn(50, generator=draw)
    whole = ExactProducts(x, w, b, torch.ones(50)).all()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = [ExactProducts(part, w, b, torch.ones(50)).all() for part in torch.split(x, 17)]
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.cat(parts), whole)
    flipped = ExactProducts(x.flip(1), w.flip(1), b, torch.ones(50)).all()
    assert torch.equal(flipped, whole)  # another order of summation
