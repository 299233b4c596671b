"""Floors in training, and what their thresholds are in eval mode: a price for each feature, or one for all.

In every setting of the study *larger floors* are trained once, at their rate there, with the first seed, and the
same weights are judged on the test split at L0 = k both ways. Finished rows are kept and not run again.
"""

from __future__ import annotations

from dataclasses import replace

import torch

import sae_torch as st
from benchmarks.harness import RESULTS, arguments, kept_rows, report
from benchmarks.study.cell import Cell
from benchmarks.study.equal_l0 import at_equal_l0, at_one_price
from benchmarks.study.findings import Findings
from benchmarks.study.grid import PLAN
from benchmarks.study.ledger import Records
from benchmarks.study.methods import LARGER_FLOORS
from benchmarks.study.request import blank
from benchmarks.study.sources import Scale, Sources
from benchmarks.study.training import config
from sae_torch.activations import ActivationReader
from sae_torch.evaluation import measure

NAME = "one_threshold"
HEADINGS = (
    "site", "k", "features", "NMSE, a threshold each", "NMSE, one for all", "difference, %",
    "dead, a threshold each", "dead, one for all",
)  # fmt: skip


def run(cell: Cell, sources: Sources) -> list[float]:
    """Error and dead features both ways."""
    train, judged = (sources.activations(cell.source, split) for split in ("train", "test"))
    sae = blank(cell, train.d_model)
    st.Trainer(sae, config(cell)).fit(ActivationReader(train, batch_size=sources.scale.batch, seed=cell.seed))
    each, one = (measure(found, judged) for found in (at_equal_l0(sae.eval(), judged)[0], at_one_price(sae, judged)))
    return [each.nmse, one.nmse, 100 * (one.nmse / each.nmse - 1), each.dead, one.dead]


def main() -> None:
    """Run what is missing and write the table after every run."""
    arguments(__doc__ or "").parse_args()
    sources, findings = Sources(Scale()), Findings(PLAN, Records(RESULTS / "study.jsonl"))
    notes = (
        f"{sources.scale.train_tokens} training tokens once, {sources.scale.judged_tokens} of the test split, seed 0, "
        f"at L0 = k; torch {torch.__version__}"
    )
    for setting in dict.fromkeys(block.setting for block in PLAN.blocks if LARGER_FLOORS in block.methods):
        runs = findings.of(setting, LARGER_FLOORS)
        key = [setting.source, setting.k, setting.n_features]
        if runs is None or key in [row[:3] for row in kept_rows(NAME, notes)]:
            continue
        found = run(replace(runs.cells[0], seed=0), sources)
        report(NAME, HEADINGS, [*kept_rows(NAME, notes), [*key, *found]], notes)


if __name__ == "__main__":
    main()
