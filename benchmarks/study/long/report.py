"""The parts of the page on more tokens, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.study.findings import Findings, Runs
from benchmarks.study.grid import Plan
from benchmarks.study.ledger import Records
from benchmarks.study.long.answers import answers, curve
from benchmarks.study.long.measures import RECALIBRATION_TOKENS
from benchmarks.study.long.plan import LONG, NORMS, OURS, PLAN, SHORT, UNSEEN, WIDE
from benchmarks.study.methods import BATCH_TOP_K, DECAYED, LARGER_FLOORS, MUTUAL, PEERS, SPARSIFY, TOKEN, VARIANTS
from benchmarks.study.pictures import NOTHING as PICTURE_MISSING
from benchmarks.study.pictures import columns, figure
from benchmarks.study.tables import made, progress, quality, searches, state
from benchmarks.study.words import NOTHING, markdown
from sae_torch.evaluation.report.charts import Axis, Series

METHODS = (*OURS, *PEERS, *VARIANTS, *DECAYED)
# What stands above folded tables, and which these are.
UNKNOWN = "Not known yet: no run of this has been finished.\n"
SUMMARIES = {
    "rivals": ("Aligned, whitened, signed and penalised dictionaries, at one million tokens.\n", ("million", "dense")),
    "stability": ("Decoder rows of two runs, matched.\n", ("stability",)),
}


def parts(records: Records, plan: Plan = PLAN) -> dict[str, str]:
    """Every part by the name of its file."""
    findings = Findings(plan, records)
    found = {
        "state": state(findings),
        "answers": answers(findings),
        "methods": methods(),
        "searches": searches(findings, METHODS),
        "million": quality(findings, SHORT, METHODS),
        "norms": quality(findings, NORMS, METHODS),
        "all": quality(findings, LONG, METHODS),
        "wide": quality(findings, WIDE, METHODS),
        "curves": curves(findings),
        "dense": dense(findings),
        "by_text": by_text(findings),
        "transfer": transfer(findings),
        "stability": stability(findings),
        "progress": progress(findings),
        "made": made(findings, "long_study.jsonl"),
    }
    found |= {
        f"{name}_summary": UNKNOWN if all(found[table] == NOTHING + "\n" for table in tables) else said
        for name, (said, tables) in SUMMARIES.items()
    }
    found["transfer_summary"] = transfer_in_words(findings)
    return {f"long_{name}.md": text for name, text in found.items()} | {
        "long_curves.svg.html": learning_curves(findings)
    }


def methods() -> str:
    """What the variants are."""
    what = {
        "aligned": "the encoder row of every feature has inner product 1 with its decoder row, after every step",
        "whitened": "trained on activations whose covariance is the identity; reconstructions go back exactly",
        "signed": "scores are absolute values, so that a feature may be negative; it has two directions",
        "penalised": "a penalty on the frequency of features on over a tenth of the tokens, as Gemma Scope 2 has one",
        None: "no feature on more than a tenth of the tokens of a batch",
    }
    return markdown(["variant", "what it is"], [[name, what[each.variant]] for name, each in VARIANTS.items()], False)


def curves(findings: Findings) -> str:
    """Error and dead features by tokens."""
    rows = []
    for setting in (LONG, WIDE):
        for runs in findings.among(setting, METHODS):
            rows += [
                [
                    runs.label,
                    str(setting.n_features),
                    f"{point['tokens'] / 1e6:g} M",
                    f"{point['nmse_at_k']:.4f}",
                    f"{point['silent']:.0f}",
                    f"{point['under_used']:.0f}",
                    f"{100 * point['ce_recovered']:.2f} %",
                ]
                for point in curve(findings, runs)
            ]
    headings = ["method", "features", "tokens", "NMSE at L0 = k", "dead", "under-used", "loss recovered"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def learning_curves(findings: Findings) -> str:
    """Error by tokens, as a picture."""
    lines = (
        (LARGER_FLOORS, "none", 1, False),
        (MUTUAL, "none", 2, True),
        (BATCH_TOP_K, "none", 2, False),
        (TOKEN, "k", 3, True),
        (SPARSIFY, "k", 3, False),
    )
    series = []
    for method, auxiliary, colour, dashed in lines:
        runs = findings.of(LONG, method, auxiliary)
        points = [(point["tokens"], point["nmse_at_k"]) for point in curve(findings, runs)] if runs else []
        if len(points) > 1:
            series.append(Series(method, *columns(points), colour, dashed))
    if not series:
        return PICTURE_MISSING
    title = f"Error at L0 = k by tokens trained on, {LONG.n_features} features, first seed"
    return figure(series, Axis("tokens", log=True), Axis("NMSE", log=True), title)


def dense(findings: Findings) -> str:
    """Features on over a tenth of the tokens."""
    rows = [
        [runs.label, f"{runs.mean('dense'):.0f}", f"{100 * runs.mean('dense_share'):.1f} %", f"{_error(runs)}"]
        for runs in findings.among(SHORT, METHODS)
        if runs.all("dense")
    ]
    headings = ["method", "dense features", "share of the matches", "NMSE at L0 = k"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def by_text(findings: Findings) -> str:
    """Features per token on each text, with the thresholds of training."""
    rows = []
    names: list[str] = []
    for setting in (LONG, SHORT):
        for runs in findings.among(setting, METHODS):
            found = findings.records.figures(runs.cells[0]).get("by_text", {})
            names = names or list(found)
            if found:
                cells = [f"{found[name]['l0']:.1f}" if name in found else "" for name in names]
                rows.append([runs.label, setting.source.partition("/")[0], *cells])
    return markdown(["method", "trained on", *names], rows) if rows else NOTHING + "\n"


def transfer(findings: Findings) -> str:
    """On the text that was not trained on."""
    rows = [
        [
            runs.label,
            f"{runs.mean('transfer_l0'):.1f}",
            f"{runs.mean('transfer_nmse'):.4f}",
            f"{runs.mean('transfer_nmse_at_k'):.4f}",
            f"{runs.mean('recalibrated_l0'):.1f}",
            f"{runs.mean('recalibrated_nmse'):.4f}",
        ]
        for runs in findings.among(UNSEEN, METHODS)
    ]
    headings = ["method", "L0", "NMSE", "NMSE at L0 = k", "L0, recalibrated", "NMSE, recalibrated"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def transfer_in_words(findings: Findings) -> str:
    """What all methods have in common there."""
    every = list(findings.among(UNSEEN, METHODS))
    # the others give every token the same number of features
    with_thresholds = [runs for runs in every if runs.method not in (TOKEN, SPARSIFY)]
    if not with_thresholds:
        return UNKNOWN

    def span(values: Sequence[float]) -> str:
        lowest, highest = (f"{value:.1f}" for value in (min(values), max(values)))
        return lowest if lowest == highest else f"{lowest} to {highest}"

    as_they_are, again = (
        span([runs.mean(figure) for runs in with_thresholds]) for figure in ("transfer_l0", "recalibrated_l0")
    )
    error = {runs.method: runs.mean("transfer_nmse_at_k") for runs in every}
    compared = ""
    if LARGER_FLOORS in error and MUTUAL in error:
        against = 100 * (error[LARGER_FLOORS] / error[MUTUAL] - 1)
        compared = f", and that of larger floors {against:+.1f} % from mutual choice's"
    worse = span([runs.mean("transfer_nmse_at_k") / runs.mean("nmse_at_k") for runs in every])
    return (
        f"Thresholds do not carry over: those for {UNSEEN.k} features per token give {as_they_are} there, and {again} "
        f"set again on {RECALIBRATION_TOKENS:,} of its tokens; at {UNSEEN.k} the error is {worse} times that on the "
        f"texts trained on{compared}.\n"
    )


def stability(findings: Findings) -> str:
    """How alike the dictionaries of two seeds are."""
    rows = [
        [
            runs.label,
            f"{fmean(runs.all('stable_cosine')):.3f}",
            f"{100 * fmean(runs.all('stable_share')):.1f} %",
            f"{100 * fmean(runs.all('mutual_share')):.1f} %",
        ]
        for runs in findings.among(SHORT, METHODS)
        if runs.all("stable_cosine")
    ]
    headings = ["method", "cosine of mutual nearest rows", "share of rows above 0.9", "rows with a mutual nearest one"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def _error(runs: Runs) -> str:
    return f"{runs.mean('nmse_at_k'):.4f}"
