"""What the page must answer first, each sentence computed from the records."""

from __future__ import annotations

import itertools
from statistics import fmean

from benchmarks.study.cell import Setting
from benchmarks.study.findings import Findings, Runs, pairs
from benchmarks.study.long.plan import ALIGNED_ONES, LONG, OTHER_VARIANTS, SHORT, WIDE
from benchmarks.study.methods import (
    BATCH_TOP_K,
    BATCH_TOP_K_DECAYED,
    FLOORS_DECAYED,
    LARGER_FLOORS,
    LET_GO,
    MUTUAL,
    MUTUAL_DECAYED,
    PEERS,
    SPARSIFY,
    TOKEN,
)
from benchmarks.study.verdicts import Status, bar

CHOSEN_AMONG = (LARGER_FLOORS, LET_GO, MUTUAL, FLOORS_DECAYED, MUTUAL_DECAYED)
ALL_PEERS = (*PEERS, BATCH_TOP_K_DECAYED)
OPEN = "not known yet: what it needs has not been run"


def answers(findings: Findings) -> str:
    """The five questions and their answers."""
    asked = (
        ("Do mutual choice's dead features come back with more tokens?", _come_back(findings)),
        ("Does the floor still pay with all tokens, and at which price?", _floor(findings)),
        ("Does anything of 2026 beat it?", _rivals(findings)),
        ("How much of the distance to the peers is the trainer?", _trainer(findings)),
        ("What would we use for a hundred million tokens?", _choice(findings)),
    )
    lines = [f"- **{question}** {answer[0].upper() + answer[1:]}." for question, answer in asked]
    for setting in (LONG, WIDE):
        default = FLOORS_DECAYED if findings.of(setting, FLOORS_DECAYED) else LARGER_FLOORS
        verdict = bar(findings, setting, default)
        one_price = "" if verdict.status is Status.NOT_RUN else _at_one_price(findings, setting, default)
        lines.append(f"- The bar at {verdict.claim}: **{verdict.status}**. {verdict.because}{one_price}")
    return "\n".join(lines) + "\n"


def curve(findings: Findings, runs: Runs) -> list[dict[str, float]]:
    """Points of the learning curve of the first seed."""
    return list(findings.records.figures(runs.cells[0]).get("curve", ()))


def _come_back(findings: Findings) -> str:
    runs = findings.of(LONG, MUTUAL)
    points = curve(findings, runs) if runs else []
    if len(points) < 2:
        return OPEN
    said = ", ".join(f"{point['silent']:.0f} at {_millions(point['tokens'])}" for point in points)
    fell = points[-1]["silent"] < points[0]["silent"]
    return f"{'yes, some do' if fell else 'no'}: of {LONG.n_features} features {said} are dead"


def _floor(findings: Findings) -> str:
    found = []
    ways = (
        (LARGER_FLOORS, MUTUAL, ""),
        (LET_GO, MUTUAL, " when they are let go after 80 % of the steps"),
        (FLOORS_DECAYED, MUTUAL_DECAYED, ", both with the longer decay,"),
    )
    for setting, (method, other, how) in itertools.product((LONG, WIDE), ways):
        floors, mutual = findings.of(setting, method), findings.of(setting, other)
        if floors and mutual:
            found.append(
                f"at {setting.n_features} features{how} its error is {_against(floors, mutual)} from mutual "
                f"choice's, with {floors.mean('silent'):.0f} dead features against {mutual.mean('silent'):.0f}"
            )
    return "; ".join(found) or OPEN


def _at_one_price(findings: Findings, setting: Setting, method: str) -> str:
    """The same weights with one threshold for all features, beside the best peer."""
    floors, peer = findings.of(setting, method), findings.best(findings.among(setting, ALL_PEERS))
    if floors is None or peer is None or not floors.all("nmse_one_price"):
        return ""
    error = floors.mean("nmse_one_price")
    return (
        f" With one threshold for all features the same weights have {error:.4f}, "
        f"{100 * (error / peer.mean('nmse_at_k') - 1):+.1f} %, with {floors.mean('silent_one_price'):.0f} dead."
    )


def _rivals(findings: Findings) -> str:
    floors = findings.of(SHORT, LARGER_FLOORS)
    rivals = [runs for name in (*ALIGNED_ONES, *OTHER_VARIANTS) if (runs := findings.of(SHORT, name))]
    if floors is None or not rivals:
        return OPEN
    said = ", ".join(f"{runs.method} {_against(runs, floors)}" for runs in rivals)
    return f"error at a million tokens against larger floors: {said}"


def _trainer(findings: Findings) -> str:
    """Between each pair only the trainer differs; between floors and the best peer, all."""
    setting = LONG if findings.of(LONG, TOKEN, "k") else SHORT
    said = []
    for method, peer in ((MUTUAL, BATCH_TOP_K), (MUTUAL_DECAYED, BATCH_TOP_K_DECAYED), (TOKEN, SPARSIFY)):
        for auxiliary in ("k", "none"):
            ours, theirs = findings.of(setting, method, auxiliary), findings.of(setting, peer, auxiliary)
            if ours and theirs:
                said.append(f"{method} in our trainer is {_against(ours, theirs)} from {theirs.label}")
                break
    # the longer decay beside the longer decay, or neither
    both = findings.of(setting, FLOORS_DECAYED) and findings.of(setting, BATCH_TOP_K_DECAYED)
    peer = findings.best(findings.among(setting, ALL_PEERS if both else PEERS))
    floors = findings.of(setting, FLOORS_DECAYED if both else LARGER_FLOORS)
    if not said or peer is None or floors is None:
        return OPEN
    said.append(f"{floors.label} are {_against(floors, peer)} from {peer.label}, the best peer")
    return f"at {_where(setting)}, by error: {'; '.join(said)}"


def _choice(findings: Findings) -> str:
    ours = [each for name in CHOSEN_AMONG if (each := findings.of(LONG, name))]
    peer = findings.best(findings.among(LONG, ALL_PEERS))
    runs = [*ours, *([peer] if peer else [])]
    lively = [each for each in runs if each.mean("silent") == 0]
    best = findings.best(lively or runs) if len(ours) > 1 else None
    if best is None:
        return OPEN
    of_those = " of those that leave no feature dead" if lively else ""
    points = {each.label: curve(findings, each) for each in runs}
    last = "; ".join(
        f"{name} {shown[-2]['nmse_at_k']:.4f} then {shown[-1]['nmse_at_k']:.4f}"
        for name, shown in points.items()
        if len(shown) > 1
    )
    return (
        f"{best.label}, which has the least error with all tokens{of_those}; the last two points of the curves: {last}"
    )


def _against(ours: Runs, theirs: Runs) -> str:
    """By how much the error differs, over the seeds that both have."""
    both = pairs(ours, theirs, "nmse_at_k")
    if not both:
        return "not comparable, without a seed in common,"
    return f"{100 * (fmean(a for a, _ in both) / fmean(b for _, b in both) - 1):+.1f} %"


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:g} M"


def _where(setting: Setting) -> str:
    return f"{setting.source.partition('/')[0]}, {setting.n_features} features"
