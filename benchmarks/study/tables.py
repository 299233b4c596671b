"""The tables of the page, in Markdown, each from the records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from benchmarks.study.cell import Setting
from benchmarks.study.costs import cost, equal_time
from benchmarks.study.findings import Findings, Runs
from benchmarks.study.grid import MAIN, Block
from benchmarks.study.ledger import FAILED, FINISHED
from benchmarks.study.methods import (
    BATCH_TOP_K,
    LARGER_FLOORS,
    METHODS,
    MUTUAL,
    PEERS,
    SPARSIFY,
    TOKEN,
    WHAT,
)
from benchmarks.study.sources import SYNTHETIC
from benchmarks.study.verdicts import CANDIDATES, Status, bar, verdicts
from benchmarks.study.words import NOTHING, markdown, percent, spread


def methods(findings: Findings) -> str:
    """What each method is."""
    return markdown(["method", "what it is"], [[name, WHAT[name]] for name in METHODS], numbers=False)


def state(findings: Findings) -> str:
    """How much of the study there is."""
    done, missing = len(findings.records), sum(1 for _ in findings.plan.pending(findings.records))
    if not missing:
        return f"All {done} runs are finished.\n"
    said = f"**The study is not finished: runs recorded {done}, known to be missing {missing}.**"
    return f"{said} What needs those says so.\n"


def claims(findings: Findings) -> str:
    """Every claim with its status and its numbers."""
    rows = [[verdict.claim, f"**{verdict.status}**", verdict.because] for verdict in verdicts(findings)]
    return markdown(["claim", "status", "why"], rows, numbers=False)


def the_bar(findings: Findings) -> str:
    """Ours against the best peer in every setting."""
    words = {Status.CONFIRMED: "met", Status.NOT_CONFIRMED: "not met"}
    rows = []
    with_peers = [block for block in findings.plan.blocks if set(PEERS) <= set(block.methods)]
    held = [(block.setting, method) for block in with_peers for method in CANDIDATES if method in block.methods]
    for setting, candidate in dict.fromkeys(held):
        verdict = bar(findings, setting, candidate)
        rows.append([verdict.claim, candidate, f"**{words.get(verdict.status, verdict.status)}**", verdict.because])
    return markdown(["setting", "ours", "bar", "why"], rows, numbers=False)


def quality(findings: Findings, setting: Setting, methods: Sequence[str] = tuple(METHODS)) -> str:
    """Every method of a setting, the least error first."""
    runs = sorted(findings.among(setting, methods), key=lambda each: each.mean("nmse_at_k"))
    if not runs:
        return NOTHING + "\n"
    headings = [
        "method",
        "rate",
        f"NMSE at L0 = {setting.k}",
        "NMSE, L0 as trained",
        "dead, each seed",
        "under-used",
    ]
    last: list[tuple[str, Callable[[Runs], str]]] = [("loss recovered", lambda each: percent(each, "ce_recovered", 2))]
    if setting.source == SYNTHETIC:
        last = [
            ("features found", lambda each: percent(each, "recovered", 1)),
            ("of the rarest quarter", lambda each: percent(each, "recovered_rare", 1)),
            ("matched cosine", lambda each: f"{each.mean('matched_cosine'):.3f}"),
            ("frequency off by", lambda each: percent(each, "frequency_error", 0)),
        ]
    rows = [
        [
            each.label,
            f"{each.learning_rate:g}",
            spread(each, "nmse_at_k"),
            f"{each.mean('nmse'):.4f}, {each.mean('l0'):.2f}",
            ", ".join(f"{value:.0f}" for value in each.all("silent")),
            f"{each.mean('under_used'):.0f}",
            *[cell(each) for _, cell in last],
        ]
        for each in runs
    ]
    return markdown([*headings, *[name for name, _ in last]], rows)


def batch(findings: Findings) -> str:
    """The batch's allocation against every token by itself."""
    rows = []
    for runs in findings.among(MAIN, tuple(METHODS)):
        modes = [
            figures["batch_modes"]
            for cell in runs.cells
            if "batch_modes" in (figures := findings.records.figures(cell))
        ]
        if not modes:
            continue
        cells = [f"{fmean(seed[at]['nmse'] for seed in modes):.4f}" for at in range(len(modes[0]))]
        same = [
            f"{100 * min(shares):.0f} to {100 * max(shares):.0f} %"
            for order in ("shuffled", "topical")
            for shares in [[mode["agreement"] for seed in modes for mode in seed if mode["order"] == order]]
        ]
        rows.append([runs.label, f"{runs.mean('nmse'):.4f}", *cells, *same])
        headings = [f"{mode['batch_size']}, {mode['order']}" for mode in modes[0]]
    if not rows:
        return NOTHING + "\n"
    return markdown(
        ["method", "batch-free", *headings, "same matches, shuffled", "same matches, topical"],
        rows,
    )


def allocations(findings: Findings) -> str:
    """Every dictionary under its own allocation, under token choice and under mutual choice."""
    rows = [
        [runs.label, *[spread(runs, figure) for figure in ("nmse_at_k", "nmse_equal_tokens", "nmse_one_price")]]
        for runs in sorted(findings.among(MAIN, tuple(METHODS)), key=lambda each: each.mean("nmse_at_k"))
        if runs.all("nmse_equal_tokens")
    ]
    headings = ["trained with", "as trained", f"its {MAIN.k} best features per token", "one threshold for all features"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def collapse(findings: Findings) -> str:
    """How close decoder rows lie, and what is left of the matches when only the counts are kept."""
    rows = []
    for runs in findings.among(MAIN, tuple(METHODS)):
        nulls = [figures["null"] for cell in runs.cells if "null" in (figures := findings.records.figures(cell))]
        if nulls and runs.all("cosine_median"):
            kept = fmean(each["null_total_score"] / each["total_score"] for each in nulls)
            rows.append(
                [
                    runs.label,
                    f"{runs.mean('cosine_median'):.3f}",
                    f"{runs.mean('cosine_highest_percent'):.3f}",
                    percent(runs, "cosine_alike", 2),
                    f"{fmean(each['null_nmse'] for each in nulls):.3f}",
                    f"{100 * kept:.0f} %",
                ]
            )
    headings = [
        "method",
        "nearest row: median",
        "one row in a hundred above",
        "rows above 0.9",
        "NMSE of the null",
        "score of the null",
    ]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def width_matched(findings: Findings) -> str:
    """Methods with as many features as another leaves alive, beside that other."""
    said = []
    for block in findings.plan.blocks:
        if block.as_wide_as is None:
            continue
        full = findings.of(block.setting, block.as_wide_as)
        for matched in findings.settings:
            if (
                full
                and replace(matched, n_features=block.setting.n_features) == block.setting
                and _is_matched(findings, matched)
            ):
                others = [runs for method in (MUTUAL, *PEERS) if (runs := findings.of(block.setting, method))]
                rows = [full, *others, *findings.among(matched, block.methods)]
                said += [
                    [
                        each.label,
                        str(each.cells[0].n_features),
                        f"{each.cells[0].n_features - each.mean('silent'):.0f}",
                        spread(each, "nmse_at_k"),
                    ]
                    for each in rows
                ]
    return markdown(["method", "features", "alive", "NMSE at L0 = k"], said) if said else NOTHING + "\n"


def shares(findings: Findings) -> str:
    """What of the distance to the peers is the trainer's, and what the floors'."""
    steps = (
        ("trainer: mutual choice against dictionary_learning BatchTopK", MUTUAL, BATCH_TOP_K),
        ("trainer: token choice against sparsify TopK", TOKEN, SPARSIFY),
        ("floors: larger floors against mutual choice", LARGER_FLOORS, MUTUAL),
        ("both: larger floors against dictionary_learning BatchTopK", LARGER_FLOORS, BATCH_TOP_K),
    )
    rows = []
    for setting in dict.fromkeys(block.setting for block in findings.plan.blocks if block.as_wide_as is None):
        cells = []
        for _, ours, theirs in steps:
            left, right = findings.of(setting, ours), findings.of(setting, theirs)
            cells.append(
                f"{100 * (left.mean('nmse_at_k') / right.mean('nmse_at_k') - 1):+.1f} %" if left and right else "–"
            )
        rows.append([f"{setting.source}, k {setting.k}, {setting.n_features} features", *cells])
    return markdown(["setting", *[name for name, *_ in steps]], rows)


def _is_matched(findings: Findings, setting: Setting) -> bool:
    return all(setting != block.setting for block in findings.plan.blocks)


def searches(findings: Findings, methods: Sequence[str] = tuple(METHODS)) -> str:
    """Error on the development split by learning rate."""
    found = [
        cell
        for cell in findings.records.cells()
        if cell.split == "dev" and cell.setting in findings.settings and cell.method in methods
    ]
    if not found:
        return NOTHING + "\n"
    rates = sorted({cell.learning_rate for cell in found})
    lines: dict[tuple[Setting, str], dict[float, str]] = {}
    for cell in found:
        failed = findings.records.status(cell) == FAILED
        said = "failed" if failed else f"{findings.records.figure(cell, 'nmse_at_k'):.4f}"
        silent = findings.records.figure(cell, "silent")
        if not failed and silent:
            said += f" ({silent:.0f} dead)"
        if cell.learning_rate == findings.plan.chosen_rate(cell.setting, cell.method, findings.records):
            said = f"**{said}**"
        lines.setdefault((cell.setting, cell.method), {})[cell.learning_rate] = said
    rows = [
        [method, setting.source, str(setting.k), str(setting.n_features), *[row.get(rate, "") for rate in rates]]
        for (setting, method), row in lines.items()
    ]
    return markdown(["method", "activations", "k", "features", *[f"{rate:g}" for rate in rates]], rows)


def progress(findings: Findings) -> str:
    """Which runs are there and which are not."""
    states: dict[tuple[str, str], Counter[str]] = {}
    for block in findings.plan.blocks:
        setting, auxiliary = block.setting, "none" if block.auxiliary == "none" else f"aux_{block.auxiliary}_loss"
        width = f"as many as {block.as_wide_as} leaves alive" if block.as_wide_as else f"{setting.n_features} features"
        row = states.setdefault((f"{setting.source}, k {setting.k}, {width}", auxiliary), Counter())
        known = [each for each in findings.plan.blocks_by(findings.records) if _is_from(each, block)]
        row.update(_state(findings, each, method) for each in known for method in each.methods)
        row.update(STATES[3] for _ in block.methods if not known)
    rows = [[*names, *[str(row[state]) for state in STATES]] for names, row in states.items()]
    failed = [cell.name for cell in findings.records.cells() if findings.records.status(cell) == FAILED]
    said = "Failed runs: " + ("; ".join(failed) if failed else "none") + "."
    return markdown(["setting", "auxiliary loss", *STATES], rows) + f"\n{said}\n"


STATES = ("methods with every seed", "with some seeds", "rate being searched", "not begun")


def _is_from(block: Block, planned: Block) -> bool:
    """Whether a block is the planned one, its width perhaps found since."""
    if planned.as_wide_as is None:
        return block == planned
    same = replace(block.setting, n_features=planned.setting.n_features) == planned.setting
    return same and block.setting != planned.setting and block.methods == planned.methods


def _state(findings: Findings, block: Block, method: str) -> str:
    runs = findings.of(block.setting, method, block.auxiliary)
    if runs is not None:
        return STATES[0] if runs.complete else STATES[1]
    # with an auxiliary loss there is nothing to search
    searched = block.auxiliary == "none" and any(
        cell.setting == block.setting and cell.method == method and cell.split == "dev"
        for cell in findings.records.cells()
    )
    return STATES[2] if searched else STATES[3]


def made(findings: Findings, file: str = "study.jsonl") -> str:
    """Machines, versions and dates of the runs."""
    lines = [findings.records.line(cell) for cell in findings.records.cells()]
    finished = [line for line in lines if line["status"] == FINISHED]
    if not finished:
        return NOTHING + "\n"
    machines = {f"{line['machine']['processor']}, {line['machine']['cores']} cores" for line in finished}
    versions = {f"{name} {version}" for line in finished for name, version in line["training"]["versions"].items()}
    dates = sorted(line["finished"][:10] for line in finished)
    return (
        f"{len(finished)} runs from {dates[0]} to {dates[-1]} on {'; '.join(sorted(machines))}; "
        f"{', '.join(sorted(versions))}. Each line of `benchmarks/results/{file}` has its own.\n"
    )


def tables(findings: Findings) -> dict[str, str]:
    """Every table by the name of its file."""
    found = {
        table.__name__: table(findings)
        for table in (
            state,
            methods,
            claims,
            the_bar,
            allocations,
            batch,
            collapse,
            width_matched,
            shares,
            equal_time,
            searches,
            progress,
            cost,
            made,
        )
    }
    for setting in dict.fromkeys(block.setting for block in findings.plan.blocks):
        found[f"quality_{file_name(setting)}"] = quality(findings, setting)
    return found


def file_name(setting: Setting) -> str:
    """A setting in a file name."""
    site = setting.source.replace("hidden_states[", "site_").rstrip("]")
    return f"{site}_k{setting.k}_f{setting.n_features}"
