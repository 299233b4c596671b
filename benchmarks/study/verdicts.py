"""Sentences about the claims, each computed from the records: its status and the numbers behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.study.cell import Setting
from benchmarks.study.findings import Findings, Runs, pairs
from benchmarks.study.grid import MAIN, SYNTHETIC
from benchmarks.study.methods import FLOORS, LARGER_FLOORS, MUTUAL, MUTUAL_THEN_FEATURE, PEERS, TOKEN, method_of

# The methods of ours that are held against the peers: the first was fixed before any run on the test split, the second
# added when the first had left features dead there.
CANDIDATES = (FLOORS, LARGER_FLOORS)
# Ratio of the error of the hardest to that of the easiest tenth of the tokens from which they count as unequal.
UNEQUAL = 2.0


class Status(StrEnum):
    """What can be said of a claim."""

    CONFIRMED = "confirmed"
    NOT_CONFIRMED = "not confirmed"
    PARTLY = "partly confirmed"
    NOT_TESTABLE = "not testable here"
    NOT_RUN = "not run yet"


@dataclass(frozen=True)
class Verdict:
    """A claim, its status, and why.

    Parameters
    ----------
    claim
        In our words.
    status
        What the records allow to say.
    because
        With the numbers.
    """

    claim: str
    status: Status
    because: str


def verdicts(findings: Findings) -> list[Verdict]:
    """Every claim of the abstract, in its order."""
    return [claim(findings) for claim in CLAIMS]


def _definition(findings: Findings) -> Verdict:
    return Verdict(
        "Matching tokens with features is a resource allocation problem under a bound on the total.",
        Status.NOT_TESTABLE,
        "A definition, not a measurement. That the allocations are optimal is "
        "[certified](mathematics/exactness.md), which says nothing about their use.",
    )


def _variable(findings: Findings) -> Verdict:
    claim = "Two variants, mutual and feature choice, give tokens different numbers of features."
    found = [runs for method in (MUTUAL, MUTUAL_THEN_FEATURE) if (runs := findings.of(MAIN, method))]
    if len(found) < 2:
        return _not_run(claim, [method for method in (MUTUAL, MUTUAL_THEN_FEATURE) if not findings.of(MAIN, method)])
    said = "; ".join(
        f"{runs.method}: standard deviation {runs.mean('l0_spread'):.1f} around {runs.mean('l0'):.1f} features, "
        f"rank correlation with the token's difficulty {runs.mean('difficulty_rank_correlation'):.2f}"
        for runs in found
    )
    follows = all(min(runs.all("difficulty_rank_correlation"), default=0.0) > 0 for runs in found)
    varies = all(min(runs.all("l0_spread"), default=0.0) > 0 for runs in found)
    status = Status.CONFIRMED if varies and follows else Status.PARTLY if varies else Status.NOT_CONFIRMED
    return Verdict(claim, status, _sentence(said) + _seeds(found))


def _unequal(findings: Findings) -> Verdict:
    claim = "Some tokens are harder to reconstruct than others, yet TopK gives every token the same number of features."
    token = findings.of(MAIN, TOKEN)
    if token is None:
        return _not_run(claim, [TOKEN])
    groups = [errors for cell in token.cells if (errors := findings.records.figures(cell).get("difficulty_error"))]
    if not groups:
        return _not_run(claim, ["the error of token choice by difficulty"])
    ratios = sorted(errors[-1] / errors[0] for errors in groups)
    said = (
        f"with {MAIN.k} features each, the hardest tenth of the tokens has {ratios[0]:.1f} to {ratios[-1]:.1f} times "
        "the error of the easiest"
    )
    # tenths are sorted by this error, so that it grows says nothing; by how much does
    status = Status.CONFIRMED if ratios[0] > UNEQUAL else Status.NOT_CONFIRMED
    return Verdict(claim, status, f"{_sentence(said)} Confirmed from {UNEQUAL:g} times on.")


def _adaptive(findings: Findings) -> Verdict:
    claim = "The better reconstruction is a result of the adaptive computation."
    token = findings.of(MAIN, TOKEN)
    tested = [runs for method in (MUTUAL, MUTUAL_THEN_FEATURE) if (runs := findings.of(MAIN, method))]
    tested = [runs for runs in tested if runs.all("nmse_equal_tokens")]
    if token is None or not token.all("nmse_one_price") or not tested:
        return _not_run(claim, ["every dictionary under other allocations"])
    said = (
        f"with the same weights, but {MAIN.k} features for every token, the error becomes "
        + "; ".join(f"{runs.method} {runs.mean('nmse_equal_tokens'):.4f}" for runs in tested)
        + f" (token choice {token.mean('nmse_at_k'):.4f}). The dictionary of token choice under one threshold has "
        f"{token.mean('nmse_one_price'):.4f}"
    )
    worse = [all(a > b for a, b in pairs(runs, runs, "nmse_equal_tokens", "nmse_at_k")) for runs in tested]
    all_gone = [all(a >= b for a, b in pairs(runs, token, "nmse_equal_tokens", "nmse_at_k")) for runs in tested]
    by_itself = all(a < b for a, b in pairs(token, token, "nmse_one_price", "nmse_at_k"))
    status = Status.PARTLY if any(worse) else Status.NOT_CONFIRMED
    if all(worse) and all(all_gone):
        if by_itself:
            status = Status.CONFIRMED
        else:
            said += (
                ". So adaptive allocation is needed for the gain, but not enough: dictionaries that were trained with "
                "it lose without it, and the one that was trained without it loses with it"
            )
    return Verdict(claim, status, _sentence(said) + _seeds([token, *tested]))


def _auxiliary(findings: Findings) -> Verdict:
    claim = "aux_zipf_loss extends aux_k_loss from dead to under-used features."
    zipf, k = findings.of(MAIN, MUTUAL, "zipf"), findings.of(MAIN, MUTUAL, "k")
    if zipf is None or k is None:
        names = [f"mutual choice with aux {name}" for name, runs in (("zipf", zipf), ("k", k)) if runs is None]
        return _not_run(claim, names)
    silent, under_used = (pairs(zipf, k, name) for name in ("silent", "under_used"))
    together = [(a + c, b + d) for (a, b), (c, d) in zip(silent, under_used, strict=True)]
    fewer, fewer_together = (bool(found) and all(a < b for a, b in found) for found in (under_used, together))
    said = (
        f"under mutual choice the dead features of each seed are {_counts(zipf, 'silent')} against "
        f"{_counts(k, 'silent')} with aux_k_loss, under-used ones {_counts(zipf, 'under_used')} against "
        f"{_counts(k, 'under_used')}, together {', '.join(f'{a:.0f}' for a, _ in together)} against "
        f"{', '.join(f'{b:.0f}' for _, b in together)}"
    )
    # features that are dead no more may be under-used instead, so what counts is both
    status = Status.PARTLY if fewer_together else Status.NOT_CONFIRMED
    if fewer_together and fewer:
        status = Status.CONFIRMED
    return Verdict(claim, status, _sentence(said) + _seeds([zipf, k]))


def _silent(findings: Findings) -> Verdict:
    claim = "Fewer dead features, in the best case none."
    compared = [(TOKEN, "none"), *itertools.product(PEERS, ("none", "k"))]
    others = [runs for method, auxiliary in compared if (runs := findings.of(MAIN, method, auxiliary))]
    tested = [runs for method in (MUTUAL, MUTUAL_THEN_FEATURE, FLOORS) if (runs := findings.of(MAIN, method))]
    if not others or not tested:
        return _not_run(claim, ["token choice or a peer" if not others else "mutual choice, feature choice or floors"])
    said = "dead on the test split, each seed: " + "; ".join(
        f"{runs.label} {_counts(runs, 'silent')}" for runs in (*tested, *others)
    )
    least = min(others, key=lambda runs: runs.mean("silent"))
    fewer = {
        runs.method: all(a < b or a == b == 0 for a, b in pairs(runs, least, "silent"))
        and bool(pairs(runs, least, "silent"))
        for runs in tested
    }
    papers = [fewer[method] for method in (MUTUAL, MUTUAL_THEN_FEATURE) if method in fewer]
    status = Status.NOT_CONFIRMED
    if papers and all(papers):
        status = Status.CONFIRMED
    elif any(fewer.values()):
        status = Status.PARTLY
        said += f". Never more than {least.label}: " + ", ".join(name for name, yes in fewer.items() if yes)
    return Verdict(claim, status, _sentence(said) + _seeds([*tested, *others]))


def _reconstruction(findings: Findings) -> Verdict:
    claim = "Better reconstruction at equal sparsity."
    said, better, used = [], [], []
    for setting in findings.settings:
        token = findings.of(setting, TOKEN)
        tested = [runs for method in (MUTUAL, MUTUAL_THEN_FEATURE) if (runs := findings.of(setting, method))]
        if token is None or not tested:
            continue
        better += [bool(found) and all(a < b for a, b in found) for found in (_errors(runs, token) for runs in tested)]
        errors = ", ".join(f"{runs.method} {runs.mean('nmse_at_k'):.4f}" for runs in (token, *tested))
        said.append(f"{_where(setting)}: {errors}")
        used += [token, *tested]
    if not better:
        return _not_run(claim, ["token choice beside mutual choice or feature choice"])
    status = Status.CONFIRMED if all(better) else Status.PARTLY if any(better) else Status.NOT_CONFIRMED
    count = f"better than token choice in every seed in {sum(better)} of {len(better)} comparisons"
    return Verdict(claim, status, f"In one trainer, {count}. NMSE: {'; '.join(said)}." + _seeds(used))


def _errors(ours: Runs, theirs: Runs) -> list[tuple[float, float]]:
    return pairs(ours, theirs, "nmse_at_k")


def _where(setting: Setting) -> str:
    """What is not as in the main setting."""
    changed = [
        text
        for text, same in (
            (setting.source, setting.source == MAIN.source),
            (f"k {setting.k}", setting.k == MAIN.k),
            (f"{setting.n_features} features", setting.n_features == MAIN.n_features),
        )
        if not same
    ]
    return ", ".join(changed) or f"k {MAIN.k}"


def _extraction(findings: Findings) -> Verdict:
    claim = "Accurate extraction of features."
    token = findings.of(SYNTHETIC, TOKEN)
    tested = [runs for method in (MUTUAL, MUTUAL_THEN_FEATURE) if (runs := findings.of(SYNTHETIC, method))]
    if token is None or not tested:
        return _not_run(claim, ["synthetic activations with known features"])
    said = "of the known features found: " + "; ".join(
        f"{runs.method} {100 * runs.mean('recovered'):.1f} %" for runs in (token, *tested)
    )
    better = [
        bool(found) and all(a > b for a, b in found) for runs in tested for found in [pairs(runs, token, "recovered")]
    ]
    status = Status.CONFIRMED if all(better) else Status.PARTLY if any(better) else Status.NOT_CONFIRMED
    return Verdict(claim, status, _sentence(said) + _seeds([token, *tested]))


def _scale(findings: Findings) -> Verdict:
    return Verdict(
        "Scalable, for understanding and controlling models.",
        Status.NOT_TESTABLE,
        "One model of 135 million parameters, dictionaries of thousands of features, and no experiment that steers it.",
    )


CLAIMS: Sequence[Callable[[Findings], Verdict]] = (
    _definition,
    _unequal,
    _variable,
    _auxiliary,
    _silent,
    _reconstruction,
    _adaptive,
    _extraction,
    _scale,
)


def bar(findings: Findings, setting: Setting, candidate: str) -> Verdict:
    """Whether a candidate beats the best peer at equal L0 without a dead feature, in every seed."""
    claim = f"{setting.k} features per token, {setting.n_features} features, {setting.source}"
    planned = dict.fromkeys(
        (method, block.auxiliary)
        for block in findings.plan.blocks
        if block.setting == setting
        for method in block.methods
        if method_of(method).peer
    )
    found_peers = {each: findings.of(setting, *each) for each in planned}
    peers = [runs for runs in found_peers.values() if runs]
    without = [f"{method}, auxiliary loss {name}" for (method, name), runs in found_peers.items() if runs is None]
    ours = findings.all_of(setting, candidate)
    if without or not ours:
        return _not_run(claim, without or [candidate])
    peer = findings.best(peers)
    lively = [runs for runs in ours if runs.all("silent") and max(runs.all("silent")) == 0]
    best = findings.best(lively or ours)
    assert peer is not None
    assert best is not None
    found = pairs(best, peer, "nmse_at_k")
    # every peer, since one with fewer seeds may be the best of the mean by luck, or not be it
    against = [_errors(best, each) for each in peers]
    won = bool(lively) and all(both and all(a < b for a, b in both) for both in against)
    said = (
        f"{best.label} {_error(best)}, dead features per seed {_counts(best, 'silent')}; best peer, {peer.label}, "
        f"{_error(peer)}, dead {_counts(peer, 'silent')}"
    )
    if found:
        changes = [100 * (a / b - 1) for a, b in found]
        said += f"; error against the peer's, seed by seed: {', '.join(f'{change:+.1f} %' for change in changes)}"
    return Verdict(claim, Status.CONFIRMED if won else Status.NOT_CONFIRMED, _sentence(said) + _seeds([best, *peers]))


def _not_run(claim: str, names: Sequence[str]) -> Verdict:
    return Verdict(claim, Status.NOT_RUN, f"Missing: {', '.join(names)}.")


def _error(runs: Runs) -> str:
    values = runs.all("nmse_at_k")
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{runs.mean('nmse_at_k'):.4f} ({min(values):.4f} to {max(values):.4f})" if values else "not measured"


def _counts(runs: Runs, figure: str) -> str:
    return ", ".join(f"{value:.0f}" for value in runs.all(figure)) or "not measured"


def _sentence(said: str) -> str:
    return said[0].upper() + said[1:] + "."


def _seeds(runs: Sequence[Runs]) -> str:
    """A warning where seeds are missing."""
    few = [f"{each.label} {len(each.cells)} of {each.planned}" for each in runs if not each.complete]
    return f" Provisional, seeds so far: {', '.join(few)}." if few else ""
