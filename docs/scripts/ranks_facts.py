"""What the page "How to choose" says about a budget across processes: ours and the peers', on the same scores.

`python docs/scripts/ranks_facts.py PYTHON` runs two processes of that interpreter, in whose environment the peers are
installed (`make test-peers` makes one), and writes docs/assets/tables/ranks.md.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "assets" / "tables" / "ranks.md"
TOKENS, FEATURES, BUDGET, RANKS = 64, 512, 128, 2
# How many times larger the scores of the second half of the features are.
LARGER = (1.0, 2.0, 8.0)


def scores(larger: float) -> Any:
    """Uniform scores, those of the second half of the features so many times larger."""
    import torch

    drawn = torch.rand(TOKENS, FEATURES, generator=torch.Generator().manual_seed(0))
    drawn[:, FEATURES // 2 :] *= larger
    return drawn


def work(rank: int, folder: str, file: str) -> None:
    """Ask everyone as one of two processes; the first writes what was found."""
    import allocation as al
    import numpy as np
    import sae_torch as st
    import torch.distributed as dist
    from llamascopium.utils.distributed.ops import distributed_topk
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("model",))
    found: dict[str, list[int]] = {"ours": [], "llamascopium": []}
    width = FEATURES // RANKS
    for larger in LARGER:
        held = scores(larger)[:, rank * width : (rank + 1) * width].contiguous()
        part = al.Part(tokens=(0, TOKENS), features=(rank * width, FEATURES))
        ranks = st.parallel.ranks()
        solution = al.solve(al.Problem(held, budget=BUDGET, part=part), ranks=ranks)
        found["ours"].append(int(ranks.sum(np.array([len(solution.tokens)]))[0]))
        cut = DTensor.from_local(held, mesh, [Shard(1)])
        kept = distributed_topk(cut, k=BUDGET, device_mesh=mesh, dim=(-2, -1), mesh_dim_name="model").to_local()
        found["llamascopium"].append(int(ranks.sum(np.array([int((kept > 0).sum())]))[0]))
    values = DTensor.from_local(held, mesh, [Shard(1)]).topk(4, dim=1).values
    found["rows"] = [int(values.to_local().shape[1])]
    if rank == 0:
        about = {name: metadata.version(name) for name in ("llamascopium", "torch", "numpy")}
        place = str(values.placements[0])
        Path(file).write_text(json.dumps({"found": found, "placement": place, "versions": about}), encoding="utf-8")
    dist.destroy_process_group()


def table(answer: dict[str, Any]) -> str:
    """The facts as a page shows them."""
    found, versions = answer["found"], answer["versions"]
    counts = {name: ", ".join(f"{number:,}" for number in found[name]) for name in ("ours", "llamascopium")}
    sizes = ", ".join(f"{larger:g}" for larger in LARGER)
    tried = f"{BUDGET} matches of {TOKENS} x {FEATURES} scores over {RANKS} processes, "
    tried += f"those of one of them {sizes} times as large"
    rows = [
        f"| Llamascopium {versions['llamascopium']} | {tried}: `distributed_topk` | {counts['llamascopium']} matches |",
        f"| `allocation` | the same: `solve(ranks=)` | {counts['ours']} matches |",
        f"| torch {versions['torch'].partition('+')[0]} | top 4 of every row of the same, `DTensor.topk(dim=1)` | the "
        f"matrix is cut anew first, so all of it crosses: columns before, `{answer['placement']}` after |",
    ]
    made = (
        f"{datetime.now(UTC).date().isoformat()}, Python {platform.python_version()}, NumPy {versions['numpy']}, gloo"
    )
    lines = [
        "| | tried | found |",
        "| --- | --- | --- |",
        *rows,
        "",
        f"<small>`docs/scripts/ranks_facts.py`: {made}</small>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the two processes, and write the table."""
    if sys.argv[1] == "--ask":
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=work, args=(rank, *sys.argv[2:4])) for rank in range(RANKS)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        raise SystemExit(max(abs(process.exitcode or 0) for process in processes))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.argv[1], "-W", "ignore", __file__, "--ask", folder, str(file)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
        TARGET.write_text(table(json.loads(file.read_text(encoding="utf-8"))), encoding="utf-8")
    print(TARGET.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
