"""Sweeps: which autoencoders are of one method, and which have about the same L0."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sae_torch.evaluation.evaluation import Evaluation

COLOURS = 8
# L0 that differ by less are compared as equal.
EQUAL_L0 = 0.05


def methods(evaluations: Sequence[Evaluation]) -> list[str]:
    """The method of each: its choice in words, and its limits and number of features where these differ.

    Limits make methods where some share them. Where each has its own, as fixed caps at several k in multiples of the
    mean use, or where a file does not say them, the choice alone does.
    """
    sizes = {evaluation.n_features for evaluation in evaluations}
    variants: dict[str, list[str | None]] = {}
    for evaluation in evaluations:
        variants.setdefault(evaluation.choice, []).append(evaluation.variant)
    named = []
    for evaluation in evaluations:
        said, found = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", evaluation.choice).lower()], variants[evaluation.choice]
        if evaluation.variant and None not in found and 1 < len(set(found)) < len(found):
            said.append(evaluation.variant)
        if len(sizes) > 1:
            said.append(f"{evaluation.n_features:,} features")
        named.append(", ".join(said))
    return named


def colours(evaluations: Sequence[Evaluation]) -> list[int]:
    """A colour for each, from 1: its own as far as they are told apart, else that of its method."""
    if len(evaluations) <= COLOURS:
        return list(range(1, len(evaluations) + 1))
    named = methods(evaluations)
    order = list(dict.fromkeys(named))
    return [order.index(name) % COLOURS + 1 for name in named]


def equal_l0(evaluations: Sequence[Evaluation]) -> list[list[int]]:
    """Indices in groups of about the same L0, the smallest first: none is 5 % above the smallest of its group."""
    groups: list[list[int]] = []
    for index in sorted(range(len(evaluations)), key=lambda i: evaluations[i].l0):
        if groups and evaluations[index].l0 <= (1 + EQUAL_L0) * evaluations[groups[-1][0]].l0:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
