"""Everything that needs a CUDA card, in one run: the same answers as NumPy, no races, and how fast.

`make gpu-check` runs it with the machine's own Python, from source, without a network. Each part reports for itself:
one that fails does not keep the others from running, but the run fails. `--dry-run` walks through every part without a
card, on small tensors of the processor and by torch's engine, and writes nothing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import util
from typing import Any

import numpy as np
import torch
from torch import Tensor

import allocation as al
from allocation import scores as score_types
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_engine import TorchEngine
from benchmarks.gpu_training import largest_autoencoder, training_rows
from benchmarks.harness import arguments, report
from tests.allocation.cuda.matrices import KINDS, SHAPES, TYPES, assert_same, drawn, typed

# Seconds after which no further benchmark starts.
ENOUGH = 390
K, M = 32, 8
HEADINGS = ["selection", "type", "entries", "floor ms", "solve ms", "kernels ms", "torch.topk ms", "cupy.partition ms"]
HEADINGS += ["solve / floor", "topk / solve"]


@dataclass
class Card:
    """The device of this run; in a dry run the processor."""

    device: str
    started: float = field(default_factory=time.perf_counter)

    @property
    def name(self) -> str:
        """What results are called."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "dry run"

    @property
    def has_time(self) -> bool:
        """Whether another benchmark may start."""
        return time.perf_counter() - self.started < ENOUGH

    def wait(self) -> None:
        """Until everything launched has ended."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def times(self, sides: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
        """Median milliseconds of every side, in turn, each from an idle device to an idle device."""
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(repeats + 2):
            for name, run in sides.items():
                self.wait()
                start = time.perf_counter()
                run()
                self.wait()
                if turn > 1:
                    found[name].append(1e3 * (time.perf_counter() - start))
        return {name: statistics.median(values) for name, values in found.items()}


def has_cupy() -> bool:
    """Whether the kernels can run here."""
    return util.find_spec("cupy") is not None


def on_card(held: np.ndarray, type_name: str, card: Card) -> Tensor:
    """Scores of the tests as a tensor of the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(held)).to(card.device)
    return tensor.view(torch.bfloat16) if type_name == "bfloat16" else tensor


def in_numpy(scores: Tensor) -> np.ndarray:
    """The same values in main memory; bfloat16 widened."""
    return np.asarray((scores.float() if scores.dtype == torch.bfloat16 else scores).cpu().numpy())


def limits_of(shape: tuple[int, int], axis: int | None, seed: int) -> dict[str, Any]:
    """A budget, and caps that differ from line to line."""
    rng = np.random.default_rng(seed)
    limits: dict[str, Any] = {"budget": int(rng.integers(0, shape[0] * 4))}
    if axis is not None:
        limits[("token_caps", "feature_caps")[axis]] = rng.integers(0, 9, shape[axis])
    return limits


def small_parity(card: Card) -> str:
    """Every type, kind of scores and side, small: tensors, CuPy arrays, and torch alone."""
    count = 0
    cases = [(shape, kind, type_name) for shape in SHAPES for kind in KINDS for type_name in TYPES]
    for number, (shape, kind, type_name) in enumerate(cases if card.device == "cuda" else cases[::7]):
        held, plain = typed(drawn(shape, kind, number), type_name)
        tensor = on_card(held, type_name, card)
        for axis in (None, 0, 1):
            limits = limits_of(shape, axis, number)
            expected = al.solve(al.Problem(plain, **limits))
            inputs: list[Any] = [tensor, DeviceScores(tensor, type_name, TorchEngine(card.device))]
            if has_cupy() and card.device == "cuda" and type_name != "bfloat16":
                import cupy

                inputs.append(cupy.asarray(held))
            for scores in inputs:
                assert_same(al.solve(al.Problem(scores, **limits)), expected)
                count += 1
    return f"{count} small problems"


def large_parity(card: Card) -> str:
    """A batch of training size, on a stream of its own."""
    shape = (4096, 16384) if card.device == "cuda" else (64, 512)
    done = 0
    for dtype in (torch.float32, torch.bfloat16):
        generator = torch.Generator(card.device).manual_seed(0)
        stream = torch.cuda.Stream() if card.device == "cuda" else None
        with torch.cuda.stream(stream):
            scores = torch.randn(shape, generator=generator, device=card.device).to(dtype)
            limits: list[dict[str, Any]] = [{"budget": K * shape[0]}, {"token_caps": K}, {"feature_caps": M}]
            found = [al.solve(al.Problem(scores, **limit)) for limit in limits]
            plain = in_numpy(scores)
        for limit, solution in zip(limits, found, strict=True):
            assert_same(solution, al.solve(al.Problem(plain, **limit)))
            done += 1
    return f"{done} of {shape[0]} x {shape[1]}"


def beyond_32_bits(card: Card) -> str:
    """More entries than a 32-bit integer counts."""
    shape = ((1 << 16) + 3, (1 << 15) + 1) if card.device == "cuda" else (67, 129)
    scores = torch.empty(shape, dtype=torch.float16, device=card.device)
    scores.normal_(generator=torch.Generator(card.device).manual_seed(0))
    scores[-1, -5:] = 9.0
    plain = in_numpy(scores)
    for limit in ({"budget": 100_000}, {"token_caps": 2}, {"feature_caps": 3}):
        assert_same(al.solve(al.Problem(scores, **limit)), al.solve(al.Problem(plain, **limit)))
    return f"{scores.numel():,} entries"


def nested_parity(card: Card) -> str:
    """Floors and groups of one side: candidates from the card, the answer from main memory."""
    shape = (2048, 8192) if card.device == "cuda" else (16, 64)
    scores = torch.randn(shape, generator=torch.Generator(card.device).manual_seed(0), device=card.device)
    groups = [al.Group(range(start, start + 8), cap=100, floor=20) for start in range(0, shape[0], 8)]
    for limits in ({"token_groups": groups}, {"token_floors": 2, "budget": 16 * shape[0]}):
        assert_same(al.solve(al.Problem(scores, **limits)), al.solve(al.Problem(in_numpy(scores), **limits)))
    return f"{shape[0]} x {shape[1]}"


def refusals(card: Card) -> str:
    """What is wrong is named with its place."""
    scores = torch.zeros(300, 200, device=card.device)
    scores[7, 9], scores[8, 1] = float("nan"), float("inf")
    said = ""
    try:
        al.mutual_choice(scores, 3)
    except al.InvalidProblemError as error:
        said = str(error)
    assert "1 entries are NaN, the first at token 7, feature 9" in said, said
    return "NaN and +inf"


def sanitizer(card: Card) -> str:
    """The small problems again under compute-sanitizer, where it is installed."""
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None or card.device != "cuda" or not has_cupy():
        return "not run: compute-sanitizer, CuPy or the card is missing"
    done = []
    for name in ("racecheck", "memcheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_check"]
        run = subprocess.run([*command, "--kernels-once"], capture_output=True, text=True, timeout=75, check=False)
        assert run.returncode == 0, f"{name}: {run.stdout[-3000:]}{run.stderr[-2000:]}"
        done.append(name)
    return f"{' and '.join(done)} clean"


def kernels_once() -> None:
    """A few problems that reach every kernel and both sources of the finish, for the sanitizer; torch stays asleep."""
    import cupy

    for kind in ("generic", "tied"):
        for type_name in ("float32", "float16"):
            held, plain = typed(drawn((70, 600), kind, 1), type_name)
            for limits in ({"budget": 80}, {"token_caps": 3}, {"feature_caps": 3, "budget": 200}):
                found = al.solve(al.Problem(cupy.asarray(held), **limits))
                assert_same(found, al.solve(al.Problem(plain, **limits)))


def selection_rows(card: Card) -> Iterator[list[Any]]:
    """Whole matrix, rows and columns against one read and the peers."""
    powers = (24, 26, 28, 30) if card.device == "cuda" else (12, 13)
    plan = [("whole", dtype, power) for power in powers for dtype in (torch.float32, torch.bfloat16)]
    plan += [(kind, dtype, powers[1]) for kind in ("rows", "columns") for dtype in (torch.float32, torch.bfloat16)]
    for kind, dtype, power in sorted(plan, key=lambda entry: entry[2]):
        if not card.has_time:
            print(f"no time left for {kind}, {dtype}, 2^{power}", flush=True)
            continue
        tokens = 1 << min(12, power // 2)
        scores = torch.empty(tokens, (1 << power) // tokens, dtype=dtype, device=card.device)
        scores.normal_(generator=torch.Generator(card.device).manual_seed(0))
        yield _selection_row(card, kind, scores)
        del scores
        _free(card)


def _selection_row(card: Card, kind: str, scores: Tensor) -> list[Any]:
    budget = K * scores.shape[0]
    limit, topk = {
        "whole": ({"budget": budget}, lambda: torch.topk(scores.flatten(), budget)),
        "rows": ({"token_caps": K}, lambda: torch.topk(scores, K, dim=1)),
        "columns": ({"feature_caps": M}, lambda: torch.topk(scores, M, dim=0)),
    }[kind]
    problem = al.Problem(scores, **limit)
    sides: dict[str, Callable[[], object]] = {
        "floor": scores.max,
        "solve": lambda: al.solve(problem),
        "torch.topk": topk,
    }
    if has_cupy() and card.device == "cuda":
        import cupy

        from allocation.cuda.kernel_engine import KernelEngine

        matrix = problem.matrix
        assert isinstance(matrix, DeviceScores)
        engine = matrix.engine
        assert isinstance(engine, KernelEngine)
        axis = {"whole": None, "rows": 0, "columns": 1}[kind]
        caps = np.full(1 if axis is None else scores.shape[axis], {"whole": budget, "rows": K, "columns": M}[kind])
        sides["kernels"] = partial(engine.selected, matrix, axis, caps)
        if kind == "whole" and scores.dtype == torch.float32:
            array = cupy.from_dlpack(scores).reshape(-1)
            sides["cupy.partition"] = lambda: cupy.partition(array, array.size - budget)
    times = card.times(sides, repeats=5)
    measured = [times.get(name, float("nan")) for name in ("floor", "solve", "kernels", "torch.topk", "cupy.partition")]
    ratios = [times["solve"] / times["floor"], times["torch.topk"] / times["solve"]]
    row = [kind, str(scores.dtype).removeprefix("torch."), scores.numel(), *measured, *ratios]
    print(dict(zip(HEADINGS, row, strict=True)), flush=True)
    return row


def _free(card: Card) -> None:
    """Two libraries with a pool each must not hold on to what the other needs."""
    if card.device == "cuda":
        torch.cuda.empty_cache()
        if has_cupy():
            import cupy

            cupy.get_default_memory_pool().free_all_blocks()


def attempted(name: str, part: Callable[[], Any], failures: list[str]) -> Any:
    """The part's answer, or None after its traceback was shown."""
    start = time.perf_counter()
    try:
        answer = part()
    except Exception:  # the other parts are worth their run
        failures.append(name)
        print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
        return None
    said = answer if isinstance(answer, str) else "done"
    print(f"{name}: {said} ({time.perf_counter() - start:.1f} s)", flush=True)
    return answer


def check(card: Card, write: bool) -> list[str]:
    """All parts; the names of those that failed."""
    failures: list[str] = []
    for part in (refusals, small_parity, large_parity, nested_parity, beyond_32_bits, sanitizer):
        attempted(part.__name__.replace("_", " "), partial(part, card), failures)
        _free(card)
    name = card.name.lower().replace(" ", "_").replace("-", "_")
    selections = attempted("selections", lambda: list(selection_rows(card)), failures)
    if selections and write:
        notes = f"{card.name}; normal scores, {K} per token in all or per row, {M} per column; floor: scores.max(); "
        notes += "kernels: without the copy of counts and prices to main memory."
        report(name, HEADINGS, selections, notes)
    attempted("largest autoencoder", partial(largest_autoencoder, card), failures)
    _free(card)
    steps = attempted("training steps", lambda: list(training_rows(card)), failures)
    if steps and write:
        notes = (
            f"{card.name}; a step is forward, reconstruction, the default auxiliary loss, backward, clip, Adam, unit "
        )
        notes += "norm and statistics; product: the encoder's forward product alone."
        report(f"{name}_training", ["size", "type", "step", "ms", "x product", "tokens/s"], steps, notes)
    return failures


def main() -> None:
    """Run on the card, or walk through everything on the processor."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--dry-run", action="store_true", help="every part on the processor, nothing written")
    parser.add_argument("--kernels-once", action="store_true", help="a few problems, for the sanitizer")
    options = parser.parse_args()
    if options.kernels_once:
        return kernels_once()
    if options.dry_run:
        score_types.is_on_device = lambda array: hasattr(array, "detach") and array.ndim == 2
        warnings.filterwarnings("ignore", "CuPy is not installed|.* works in main memory", RuntimeWarning)
    elif not torch.cuda.is_available():
        raise SystemExit("gpu-check needs a CUDA device; --dry-run walks through it without one")
    failures = check(Card("cpu" if options.dry_run else "cuda"), write=not options.dry_run)
    if failures:
        raise SystemExit(f"failed: {', '.join(failures)}")


if __name__ == "__main__":
    main()
