"""Parts on the processes of MPI, started as a user starts them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from mpi4py import MPI
import allocation as al

ranks = al.mpi_ranks(MPI.COMM_WORLD)
scores = np.random.default_rng(0).normal(size=(300, 200)).astype(np.float32)
rows = [slice(0, 100), slice(100, 100), slice(100, 300)][ranks.index]  # one rank has nothing
found = {}
for name, limits in {
    "budget": {"budget": 2000},
    "floors": {"budget": 2000, "feature_floors": 2},
    "caps": {"feature_caps": 7},
    "both": {"token_caps": 9, "feature_caps": 12, "feature_floors": 2},
}.items():
    problem = al.Problem(scores[rows], **limits, part=al.Part(tokens=(rows.start, 300)))
    solution = al.solve(problem, ranks=ranks)
    whole = al.solve(al.Problem(scores, **limits))
    same = np.array_equal(solution.mask(), whole.mask()[rows])
    proved = al.verify(problem, solution, ranks=ranks).optimal
    found[name] = [solution.objective == whole.objective, same or name == "both", proved]
scores[250, 7] = np.nan
try:
    al.solve(al.Problem(scores[rows], budget=5, part=al.Part(tokens=(rows.start, 300))), ranks=ranks)
except al.InvalidProblemError as error:
    found["error"] = str(error)
Path(sys.argv[1], f"{ranks.index}.json").write_text(json.dumps(found))
"""


def test_three_processes_have_the_answer_of_one(tmp_path: Path) -> None:
    script = tmp_path / "solve.py"
    script.write_text(SCRIPT, encoding="utf-8")
    mpiexec = Path(sys.executable).with_name("mpiexec")
    done = subprocess.run(
        [mpiexec, "-n", "3", sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(3)]
    assert answers[0] == answers[1] == answers[2]
    message = answers[0].pop("error")
    assert message.endswith("found that 1 entries are NaN, the first at token 250, feature 7")
    assert all(all(checks) for checks in answers[0].values()), answers[0]
