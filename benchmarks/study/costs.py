"""What a step costs, from the benchmark of the training step, and what is gained for it."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.harness import RESULTS
from benchmarks.study.findings import Findings
from benchmarks.study.grid import MAIN
from benchmarks.study.methods import LARGER_FLOORS, LONGER_MUTUAL, LONGER_TOKEN, METHODS, MUTUAL, TOKEN
from benchmarks.study.words import NOTHING, markdown, spread

STEP = RESULTS / "training_step.json"
# Size of the main setting's training step: batch, d_model, features, features per token.
STUDY_SIZE = (2048, 576, MAIN.n_features, MAIN.k)


def cost(findings: Findings) -> str:
    """Tokens per second and memory of a training step beside token choice's, from the benchmark of the step."""
    rows, table = _steps(), []
    for size in dict.fromkeys(row["size"] for row in rows):
        steps = {row["step"].removesuffix(", auxiliary none"): row for row in rows if row["size"] == size}
        names = [row["step"].removesuffix(", auxiliary none") for row in rows if row["size"] == size]
        token = steps[TOKEN]
        for name in names:
            if name in METHODS or name in ("feature choice", "SAELens BatchTopK"):
                speed = steps[name]["tokens/s"]
                memory = f"{steps[name]['peak MiB']:,}" if steps[name]["peak MiB"] else "–"
                table.append([name, size, f"{speed:,}", f"{speed / token['tokens/s']:.2f}", memory])
    about = json.loads(STEP.read_text(encoding="utf-8"))["machine"]
    heading = ["step of", "(N, d, F, k)", "tokens/s", "of token choice's", "peak MiB"]
    return markdown(heading, table) + f"\n{about['processor']}, {about['cores']} cores, {about['date']}.\n"


def equal_time(findings: Findings) -> str:
    """Error beside the time that training takes."""
    steps = {row["step"].removesuffix(", auxiliary none"): row for row in _steps() if row["size"] == str(STUDY_SIZE)}
    rows = []
    for name, step in (
        (LARGER_FLOORS, "floors"),
        (MUTUAL, MUTUAL),
        (LONGER_MUTUAL, MUTUAL),
        (TOKEN, TOKEN),
        (LONGER_TOKEN, TOKEN),
    ):
        runs = findings.of(MAIN, name)
        if runs is None or step not in steps:
            continue
        time = METHODS[name].tokens * steps[step]["ms"] / steps[TOKEN]["ms"]
        rows.append(
            [name, f"{time:.2f}", spread(runs, "nmse_at_k"), ", ".join(f"{value:.0f}" for value in runs.all("silent"))]
        )
    headings = ["method", "time of training, of token choice's", f"NMSE at L0 = {MAIN.k}", "dead, each seed"]
    return markdown(headings, rows) if rows else NOTHING + "\n"


def _steps() -> list[dict[str, Any]]:
    """Rows of the benchmark of the training step."""
    content = json.loads(STEP.read_text(encoding="utf-8"))
    return [dict(zip(content["headings"], row, strict=True)) for row in content["rows"]]
