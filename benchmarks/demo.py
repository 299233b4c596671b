"""The demo's table as the documentation shows it: runs the demo, or takes up where its folder left off."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.harness import arguments, report
from sae_torch.commands.demo import Demo
from sae_torch.evaluation.results_folder import RESULTS


def main() -> None:
    """One run with the defaults."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"))
    demo = Demo(out=parser.parse_args().out)
    demo.run()
    found = json.loads((demo.out / RESULTS).read_text(encoding="utf-8"))
    columns = {
        "NMSE": "nmse",
        "L0": "l0",
        "dead features": "dead",
        "cross-entropy clean": "ce_clean",
        "spliced": "ce_spliced",
        "zero-ablated": "ce_zero",
        "recovered": "recovered_zero",
    }
    rows = []
    for result in found["results"]:
        seconds = found["seconds"][f"training {result['name']}"]
        rows.append([result["name"], *(result[name] for name in columns.values()), round(seconds)])
    seconds = ", ".join(f"{stage} {took:.0f}" for stage, took in found["seconds"].items())
    notes = (
        f"SmolLM2-135M, hidden_states[11], {demo.tokens} training tokens once, F {demo.features}, k {demo.k}, seed "
        f"{demo.seed}; {found['test_tokens']} held-out tokens in batch-free mode. Seconds: {seconds}"
    )
    report("demo", ["choice", *columns, "training s"], rows, notes)


if __name__ == "__main__":
    main()
