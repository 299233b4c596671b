"""`python -m benchmarks.study` runs what is missing; `--report` rebuilds the page, `--status` says what is left."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.harness import RESULTS
from benchmarks.study.grid import PLAN
from benchmarks.study.ledger import FAILED, Records
from benchmarks.study.long.measures import LONG_MEASURES
from benchmarks.study.long.plan import MILESTONES
from benchmarks.study.long.plan import PLAN as LONG_PLAN
from benchmarks.study.long.sources import LONG_SCALE, LongSources
from benchmarks.study.long.texts import write_texts
from benchmarks.study.run import ROOT, Study
from benchmarks.study.sources import Scale, Sources
from sae_torch.activations.harvesting import cache_folder

FILE = RESULTS / "study.jsonl"
LONG_FILE = RESULTS / "long_study.jsonl"
SHOWN = 12
PEERS = ROOT / ".venv-peers" / "bin" / "python"


def main() -> None:
    """Run, report or say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, help="runs to do at most")
    parser.add_argument("--lock", type=Path, help="file to hold while a run works, on a machine that is shared")
    parser.add_argument("--peers", type=Path, default=PEERS, help="Python of the environment with the peers")
    parser.add_argument("--report", action="store_true", help="rebuild the page's parts from the records")
    parser.add_argument("--status", action="store_true", help="say what is finished and what comes next")
    parser.add_argument("--long", action="store_true", help="the study at more tokens of five texts")
    parser.add_argument("--texts", type=Path, default=cache_folder() / "texts", help="folder of the five texts")
    parser.add_argument("--texts-only", action="store_true", help="write the five texts, and nothing else")
    options = parser.parse_args()
    if options.texts_only:
        write_texts(options.texts)
        return
    plan = LONG_PLAN if options.long else PLAN
    records = Records(LONG_FILE if options.long else FILE)
    if options.report:
        from benchmarks.study.long.report import parts as long_parts
        from benchmarks.study.report import parts, write

        for file in write(records, plan, parts=long_parts if options.long else parts):
            print(file)
    elif options.status:
        failed = [cell.name for cell in records.cells() if records.status(cell) == FAILED]
        print(f"{len(records)} runs recorded, {len(failed)} of them failed")
        for name in failed:
            print(f"  failed: {name}")
        missing = list(plan.pending(records))
        follow = ", others follow from the searches; next:" if missing else ""
        print(f"{len(missing)} more are known to be missing{follow}")
        for cell in missing[:SHOWN]:
            print(f"  {cell.name}")
    else:
        peers = options.peers if options.peers.exists() else None
        if peers is None:
            print(f"no peers at {options.peers}: their runs are left out; `make study` makes the environment")
        weights = cache_folder() / "study"
        if options.long:
            write_texts(options.texts)
            sources = LongSources(LONG_SCALE, texts=options.texts)
            study = Study(
                plan, records, sources, weights, peers, options.lock, measures=LONG_MEASURES, milestones=MILESTONES
            )
        else:
            study = Study(plan, records, Sources(Scale()), weights, peers, options.lock)
        done = study(options.most)
        print(f"{done} runs done; `make study-report` rebuilds the page")


if __name__ == "__main__":
    main()
