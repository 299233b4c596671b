"""Everything that needs a CUDA device, in stages: the same answers as NumPy, no races, and how fast.

`make gpu-check` runs all of them with the machine's own Python, from source, without a network. Each stage is a command
of its own, `python -m benchmarks.gpu_check --stage NAME`, with a time limit, and writes what it finds as it goes into
`benchmarks/results/<device>/<stage>.json`: one that fails, hangs or is cut off costs only itself. Where a figure has a
target, it says whether that is met. `--dry-run` walks through every stage without a GPU, on small tensors of the CPU
and by torch's engine, and writes only where `--out` says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import allocation
import allocation.validation
from benchmarks import gpu_parity, gpu_ranks, gpu_selection, gpu_steps, gpu_training, harness
from benchmarks.gpu_device import Gpu
from sae_torch.files import read_json, write_json

Part = Callable[[Gpu], str | Iterator[list[Any]]]
# What ends with a sentence is a check; what ends with rows is a table, under these headings.
HEADINGS = {
    "selections": gpu_selection.HEADINGS,
    "training steps": gpu_training.HEADINGS,
    "profile": gpu_training.PROFILE_HEADINGS,
    "short training": gpu_training.SHORT_HEADINGS,
}
# Seconds that a stage needs to start and to end.
MARGIN = 10.0


@dataclass(frozen=True)
class Stage:
    """Parts that share a process, and the seconds they may take together."""

    seconds: float
    parts: dict[str, Part]


# Seven minutes in all, of the fifteen of which a card's start takes some.
STAGES = {
    "parity": Stage(
        90,
        {
            "refusals": gpu_parity.refusals,
            "large parity": gpu_parity.large_parity,
            "exact steps": gpu_steps.exact_parity,
            "nested parity": gpu_parity.nested_parity,
            "two-sided parity": gpu_parity.two_sided_parity,
            "no waiting": gpu_parity.no_waiting,
            "graph capture": gpu_parity.graph_capture,
            "steps without waiting": gpu_steps.steps_without_waiting,
            "training parity": gpu_steps.training_parity,
            "small parity": gpu_parity.small_parity,
        },
    ),
    "races": Stage(60, {"racecheck": gpu_parity.racecheck, "memcheck": gpu_parity.memcheck}),
    "selection": Stage(100, {"selections": gpu_selection.selection_rows}),
    "steps": Stage(
        95,
        {
            "training steps": gpu_training.training_rows,
            "profile": gpu_training.profile_rows,
            "captured steps": gpu_steps.captured_steps,
        },
    ),
    "training": Stage(50, {"short training": gpu_training.short_training}),
    "ranks": Stage(20, {"collectives": gpu_ranks.collectives}),
}
# Asked for by name: they take what is left of a session.
FURTHER = {
    "large": Stage(
        180,
        {
            "beyond 32 bits": gpu_parity.beyond_32_bits,
            "largest autoencoder": gpu_training.largest_autoencoder,
        },
    )
}
ALL = STAGES | FURTHER


class Record:
    """What a stage has found so far, in a file that is whole at any moment."""

    def __init__(self, file: Path | None, stage: str, gpu: Gpu) -> None:
        self.file = file
        about = harness.machine() | {"device": gpu.name}
        self.content: dict[str, Any] = {"stage": stage, "machine": about, "parts": {}}

    def note(self, part: str, **facts: Any) -> None:
        """Add to what is known of a part."""
        self.content["parts"].setdefault(part, {}).update(facts)
        if self.file is not None:
            write_json(self.file, self.content)


def run_stage(name: str, gpu: Gpu, folder: Path | None) -> list[str]:
    """Run a stage here; the parts that failed, or for which no time was left."""
    file = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.json"
    record, failed = Record(file, name, gpu), []
    for part, work in ALL[name].parts.items():
        if not gpu.has_time:
            record.note(part, status="no time left")
            failed.append(part)
            continue
        record.note(part, status="running")
        started = time.perf_counter()
        try:
            answer = work(gpu)
            if isinstance(answer, str):
                record.note(part, said=answer)
                print(f"{part}: {answer} ({time.perf_counter() - started:.1f} s)", flush=True)
            else:
                rows: list[list[Any]] = []
                for row in answer:
                    rows.append(row)
                    record.note(part, headings=HEADINGS[part], rows=rows)
                    print(f"{part}: {dict(zip(HEADINGS[part], row, strict=True))}", flush=True)
                print(f"{part}: {len(rows)} rows ({time.perf_counter() - started:.1f} s)", flush=True)
            record.note(part, status="done")
        except Exception as error:  # the other parts are worth their run
            print(f"FAILED {part}\n{traceback.format_exc()}", flush=True)
            record.note(part, status="failed", error=f"{type(error).__name__}: {error}"[:2000])
            failed.append(part)
        record.note(part, seconds=round(time.perf_counter() - started, 1))
        gpu.free()
    return failed


def in_own_process(name: str, words: list[str], folder: Path | None) -> bool:
    """A stage in a process that is ended when its time is over; whether all of it was done."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--stage", name, *words]
    stage = ALL[name]
    print(f"== {name}, at most {stage.seconds:.0f} s: {' '.join(command[1:])}", flush=True)
    try:
        code = subprocess.run(command, timeout=stage.seconds, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"FAILED {name}: cut off after {stage.seconds:.0f} s", flush=True)
        _mark_cut_off(folder, name)
        return False
    if code not in (0, 1):
        print(f"FAILED {name}: its process ended with {code}", flush=True)
        _mark_cut_off(folder, name, f"the process ended with {code}")
    return code == 0


def _mark_cut_off(folder: Path | None, name: str, status: str = "cut off") -> None:
    """Say so in what the stage has written."""
    if folder is None or not (folder / f"{name}.json").exists():
        return
    content = read_json(folder / f"{name}.json")
    for part in content["parts"].values():
        if part["status"] == "running":
            part["status"] = status
    write_json(folder / f"{name}.json", content)


def folder_of(gpu: Gpu, out: Path | None) -> Path | None:
    """Where results go: by the device's name, unless said otherwise; nowhere in a dry run."""
    if out is not None or not gpu.is_real:
        return out
    return harness.RESULTS / gpu.name.lower().replace(" ", "_").replace("-", "_")


def main() -> None:
    """Run on the GPU, or walk through everything on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", "--dry", action="store_true", help="every stage on the CPU, with tiny sizes")
    parser.add_argument("--stage", choices=list(ALL), help="one stage alone, in this process")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--kernels-once", action="store_true", help="a few problems, for the sanitizer")
    options = parser.parse_args()
    if options.kernels_once:
        return gpu_parity.kernels_once()
    if options.dry_run:
        sys.modules["cupy"] = None  # type: ignore[assignment]  # which may be installed, and finds no device
        allocation.is_on_device = allocation.validation.is_on_device = lambda array: (
            hasattr(array, "detach") and array.ndim == 2
        )
        warnings.filterwarnings("ignore", "CuPy is not installed|.* works in main memory", RuntimeWarning)
    elif not torch.cuda.is_available():
        raise SystemExit("gpu-check needs a CUDA device; --dry-run walks through it without one")
    device = "cpu" if options.dry_run else "cuda"
    gpu = Gpu(device, 60.0)
    folder = folder_of(gpu, options.out)
    if options.stage is not None:
        gpu = Gpu(device, ALL[options.stage].seconds - MARGIN)
        failures = run_stage(options.stage, gpu, folder)
    else:
        words = [*(["--dry-run"] if options.dry_run else []), *([] if folder is None else ["--out", str(folder)])]
        failures = [name for name in STAGES if not in_own_process(name, words, folder)]
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
