"""Everything that needs a CUDA device, in one run: the same answers as NumPy, no races, and how fast.

`make gpu-check` runs it with the machine's own Python, from source, without a network. Each part is a process of its
own: what one leaves behind, or where it hangs, keeps no other from running; but the run fails. `--dry-run` walks
through every part without a GPU, on small tensors of the CPU and by torch's engine, and writes nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import allocation
import allocation.validation
from benchmarks import gpu_parity, gpu_selection, gpu_steps, gpu_training
from benchmarks.gpu_device import Gpu
from benchmarks.harness import arguments, report

# Seconds of the whole run, and those a part needs to start and to end.
WHOLE, MARGIN = 465.0, 12.0
# What runs, in order, with the seconds it may take: a sentence, or the rows of a table.
PARTS: dict[str, tuple[Callable[[Gpu], str | Iterator[list[Any]]], float]] = {
    "refusals": (gpu_parity.refusals, 60),
    "small parity": (gpu_parity.small_parity, 110),
    "large parity": (gpu_parity.large_parity, 60),
    "nested parity": (gpu_parity.nested_parity, 40),
    "two-sided parity": (gpu_parity.two_sided_parity, 40),
    "exact steps": (gpu_steps.exact_parity, 40),
    "training parity": (gpu_steps.training_parity, 60),
    "no waiting": (gpu_parity.no_waiting, 40),
    "graph capture": (gpu_parity.graph_capture, 40),
    "steps without waiting": (gpu_steps.steps_without_waiting, 50),
    "captured steps": (gpu_steps.captured_steps, 60),
    "selections": (gpu_selection.selection_rows, 100),
    "training steps": (gpu_training.training_rows, 110),
    "largest autoencoder": (gpu_training.largest_autoencoder, 100),
    "beyond 32 bits": (gpu_parity.beyond_32_bits, 90),
    "sanitizer": (gpu_parity.sanitizer, 190),
}


def attempted(name: str, gpu: Gpu, keep: Callable[[list[Any]], None]) -> bool:
    """Run a part here, its rows kept as they come; False after the traceback of one that failed was shown."""
    start = time.perf_counter()
    try:
        answer = PARTS[name][0](gpu)
        if not isinstance(answer, str):
            for row in answer:
                keep(row)
            answer = "done"
    except Exception:  # the other parts are worth their run
        print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        return False
    print(f"{name}: {answer} ({time.perf_counter() - start:.1f} s)", flush=True)
    return True


def in_own_process(name: str, seconds: float, file: Path) -> bool:
    """The same in a new process, which writes its rows to the file; False too where it does not end in time."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", name, "--rows", str(file)]
    try:
        run = subprocess.run([*command, "--seconds", str(seconds - MARGIN)], timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        print(f"FAILED {name}: not done after {seconds:.0f} s", flush=True)
        return False
    if run.returncode not in (0, 1):
        print(f"FAILED {name}: its process ended with {run.returncode}", flush=True)
    return run.returncode == 0


def check_gpu() -> list[str]:
    """All parts on the GPU; the names of those that failed, and the tables written."""
    gpu, failures = Gpu("cuda"), []
    end = time.perf_counter() + WHOLE
    tables: dict[str, list[list[Any]]] = {}
    for name, (_, most) in PARTS.items():
        left = end - time.perf_counter()
        if left < 2 * MARGIN:
            failures.append(name)
            print(f"FAILED {name}: no time left", flush=True)
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows"
            if not in_own_process(name, min(most, left), file):
                failures.append(name)
            if file.exists():
                tables[name] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    write(gpu.name, tables)
    return failures


def write(gpu: str, tables: dict[str, list[list[Any]]]) -> None:
    """What was measured, as the page of benchmarks shows it."""
    file = gpu.lower().replace(" ", "_").replace("-", "_")
    if tables.get("selections"):
        notes = f"{gpu}; normal scores, {gpu_parity.K} per token in all or per row, {gpu_parity.M} per column; floor: "
        notes += "scores.max(); kernels: without the copy of counts and prices to main memory."
        report(file, gpu_selection.HEADINGS, tables["selections"], notes)
    if tables.get("training steps"):
        notes = f"{gpu}; a step is forward, reconstruction, the default auxiliary loss, backward, clip, Adam, unit "
        notes += "norm and statistics; product: the encoder's forward product alone."
        report(f"{file}_training", gpu_training.HEADINGS, tables["training steps"], notes)


def main() -> None:
    """Run on the GPU, or walk through everything on the CPU."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dry-run", action="store_true", help="every part on the CPU, nothing written")
    parser.add_argument("--kernels-once", action="store_true", help="a few problems, for the sanitizer")
    parser.add_argument("--part", choices=list(PARTS), help="one part alone")
    parser.add_argument("--rows", type=Path, help="where a part alone writes its rows")
    parser.add_argument("--seconds", type=float, default=60.0, help="after these a part starts no further benchmark")
    options = parser.parse_args()
    if options.kernels_once:
        return gpu_parity.kernels_once()
    if options.dry_run:
        allocation.is_on_device = allocation.validation.is_on_device = lambda array: (
            hasattr(array, "detach") and array.ndim == 2
        )
        warnings.filterwarnings("ignore", "CuPy is not installed|.* works in main memory", RuntimeWarning)
    elif not torch.cuda.is_available():
        raise SystemExit("gpu-check needs a CUDA device; --dry-run walks through it without one")
    if options.part is None and not options.dry_run:
        failures = check_gpu()
    else:

        def keep(row: list[Any]) -> None:
            if options.rows:
                with options.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")

        names = list(PARTS) if options.part is None else [options.part]
        gpu = Gpu("cpu" if options.dry_run else "cuda", options.seconds)
        failures = [name for name in names if not attempted(name, gpu, keep)]
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
