"""Everything that needs a CUDA device, in stages: the same answers as NumPy, no races, and how fast.

`make gpu-check` runs all of them with the machine's own Python, from source, without a network. Each stage is a command
of its own, `python -m benchmarks.gpu_check --stage NAME`, with a time limit, and writes what it finds as it goes into
`benchmarks/results/<device>/<stage>.json`: one that fails, hangs or is cut off costs only itself. Where a figure has a
target, it says whether that is met. `--dry-run` walks through every stage without a GPU, on small tensors of the CPU
and by torch's engine, and writes only where `--out` says.
"""

from __future__ import annotations

import argparse
import os
import signal
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
    "flashinfer": gpu_selection.FLASHINFER_HEADINGS,
    "training steps": gpu_training.HEADINGS,
    "profile": gpu_training.PROFILE_HEADINGS,
    "short training": gpu_training.SHORT_HEADINGS,
}
# Seconds before its end in which a stage starts no other part, and those that its start takes at least.
MARGIN, START = 10.0, 15.0
# What a process ends with whose device does not answer any more: all parts after would fail there.
LOST = 3


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
    "selection": Stage(100, {"selections": gpu_selection.selection_rows, "flashinfer": gpu_selection.flashinfer_rows}),
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
    "ops": Stage(60, {"memcheck of ops": gpu_parity.memcheck_of_ops}),
    "large": Stage(
        180,
        {
            "beyond 32 bits": gpu_parity.beyond_32_bits,
            "largest autoencoder": gpu_training.largest_autoencoder,
        },
    ),
}
ALL = STAGES | FURTHER


class Record:
    """What a stage has found so far, in a file that is whole at any moment."""

    def __init__(self, file: Path | None, stage: str, gpu: Gpu, goes_on: bool = False) -> None:
        self.file = file
        about = harness.machine() | {"device": gpu.name}
        self.content: dict[str, Any] = {"stage": stage, "machine": about, "parts": {}}
        if goes_on and file is not None:
            self.content = read_json(file)

    def note(self, part: str, **facts: Any) -> None:
        """Add to what is known of a part."""
        self.content["parts"].setdefault(part, {}).update(facts)
        if self.file is not None:
            write_json(self.file, self.content)


def run_stage(name: str, gpu: Gpu, folder: Path | None, parts: list[str] | None = None) -> list[str]:
    """Run a stage here, or some parts of it; those that failed, or for which no time was left."""
    file = None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.json"
    record, failed = Record(file, name, gpu, goes_on=parts is not None), []
    for part, work in ALL[name].parts.items():
        if parts is not None and part not in parts:
            continue
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
        if not gpu.answers():
            print(f"the device does not answer this process after {part}", flush=True)
            raise SystemExit(LOST)
    return failed


def in_own_process(name: str, words: list[str], folder: Path | None) -> bool:
    """A stage in processes that are ended when its time is over; whether all of it was done.

    There is a second one only where the first one died: it takes the parts that are left.
    """
    stage = ALL[name]
    if folder is not None:
        (folder / f"{name}.json").unlink(missing_ok=True)
    deadline, left, is_done = time.time() + stage.seconds, list(stage.parts), True
    print(f"== {name}, at most {stage.seconds:.0f} s", flush=True)
    while left and deadline - time.time() > (START if not is_done else 0.0):
        rest = [] if len(left) == len(stage.parts) else ["--parts", ",".join(left)]
        command = [sys.executable, "-m", "benchmarks.gpu_check", "--stage", name, "--deadline", str(deadline)]
        ended = ended_by([*command, *rest, *words], deadline - time.time())
        if ended in (0, 1):
            return is_done and ended == 0
        status = "cut off" if ended is None else f"the process ended with {ended}"
        print(f"FAILED {name}: {status}", flush=True)
        is_done, began = False, len(left)
        left = _mark_cut_off(folder, name, status)
        if ended is None or len(left) == began:
            break
    return False


def ended_by(command: list[str], seconds: float) -> int | None:
    """The status that a command ends with; None if it was ended then, with all that it had started."""
    process = subprocess.Popen(command, start_new_session=True)
    try:
        return process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _mark_cut_off(folder: Path | None, name: str, status: str = "cut off") -> list[str]:
    """Say so in what the stage has written; the parts that had not begun."""
    parts = list(ALL[name].parts)
    if folder is None or not (folder / f"{name}.json").exists():
        return parts
    content = read_json(folder / f"{name}.json")
    for part in content["parts"].values():
        if part["status"] == "running":
            part["status"] = status
    write_json(folder / f"{name}.json", content)
    return [part for part in parts if part not in content["parts"]]


def folder_of(gpu: Gpu, out: Path | None) -> Path | None:
    """Where results go: by the device's name, unless said otherwise; nowhere in a dry run."""
    if out is not None or not gpu.is_real:
        return out
    return harness.RESULTS / gpu.name.lower().replace(" ", "_").replace("-", "_")


def summary(folder: Path) -> Iterator[str]:
    """A line for each part that has something to tell: how it ended, and the targets that it judged."""
    for name in STAGES:
        file = folder / f"{name}.json"
        if not file.exists():
            yield f"{name}: nothing was written"
            continue
        for part, facts in read_json(file)["parts"].items():
            if facts["status"] != "done" or str(facts.get("said", "")).startswith("not run"):
                yield f"{part}: {facts['status']} {facts.get('error', facts.get('said', ''))}".rstrip()
            for row in facts.get("rows", []):
                if "missed" in str(row[-1]) or "met" in str(row[-1]).split():
                    yield f"{part}, {', '.join(str(cell) for cell in row[:3])}: {row[-1]}"


def main() -> None:
    """Run on the GPU, or walk through everything on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", "--dry", action="store_true", help="every stage on the CPU, with tiny sizes")
    parser.add_argument("--stage", choices=list(ALL), help="one stage alone, in this process")
    parser.add_argument("--parts", help="with --stage: these parts alone, beside what the file of results has")
    parser.add_argument("--deadline", type=float, help="with --stage: when it is ended, in seconds of the epoch")
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--kernels-once", choices=["selections", "ops"], help="a few problems, for the sanitizer")
    parser.add_argument("--alarm", type=int, default=60, help="with --kernels-once: seconds after which it ends itself")
    options = parser.parse_args()
    if options.kernels_once is not None:
        return gpu_parity.kernels_once(options.kernels_once, options.alarm)
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
        seconds = ALL[options.stage].seconds if options.deadline is None else options.deadline - time.time()
        parts = None if options.parts is None else options.parts.split(",")
        failures = run_stage(options.stage, Gpu(device, seconds - MARGIN), folder, parts)
    else:
        words = [*(["--dry-run"] if options.dry_run else []), *([] if folder is None else ["--out", str(folder)])]
        failures = [name for name in STAGES if not in_own_process(name, words, folder)]
        if folder is not None:
            print("== summary", *summary(folder), sep="\n", flush=True)
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
