"""One training step on the CPU: ours for every choice, the encoder's product alone, and the peers that are installed.

A step is forward, reconstruction, auxiliary loss where named, backward, clipping, Adam, unit norm and statistics. Peers
are found in the environment this runs in; `make bench-peers` makes one.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import alternating, arguments, kept_rows, report
from sae_torch.training.trainer import Trainer

# The last is that of the evidence study.
SIZES = ((2048, 384, 12288, 32), (4096, 576, 18432, 32), (2048, 576, 4608, 32))
SEED = 0
# Steps after which warm starts and thresholds have settled.
WARM_UP = 8
# Those of the warm-up, then one for every timed step: prices of a batch seen before would be better than a run's.
BATCHES = 32
# First batches, which set units and densities.
PROBES = 4
PRODUCT = "encoder product"
HEADINGS = ["size", "step", "ms", "x product", "tokens/s", "peak MiB"]


def activations(tokens: int, d_model: int, count: int = BATCHES) -> list[Tensor]:
    """Batches with a few strong directions, so that features differ in use as they do on a language model."""
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(512, d_model, generator=generator) / math.sqrt(d_model)
    density = 8.0 / (torch.arange(512) + 16.0)
    batches = []
    for _ in range(count):
        firing = torch.rand(tokens, 512, generator=generator) < density
        batches.append((firing * 4.0) @ directions + torch.randn(tokens, d_model, generator=generator))
    return batches


class Ours:
    """A trainer in the middle of a run: every call is one step as `fit` makes it."""

    def __init__(
        self,
        choice: st.Choice,
        auxiliary: str,
        sizes: tuple[int, int, int, int],
        batches: list[Tensor],
        score_dtype: torch.dtype | Literal["auto"] | None = None,
    ) -> None:
        _, d_model, n_features, _ = sizes
        # at the full rate from the first step to the last
        config = st.TrainConfig(auxiliary=auxiliary, warm_up=0.0, decay=0.0, progress=False)  # type: ignore[arg-type]
        sae = st.SparseAutoencoder(d_model, n_features, choice, seed=SEED, score_dtype=score_dtype)
        self.batches, self.steps = batches, 0
        self.trainer = Trainer(sae, config)
        self.trainer.begin(torch.cat(batches[:PROBES]), steps=10**6, planned_tokens=10**9)
        for _ in range(PROBES):
            self()
        if isinstance(choice, st.FeatureChoice):
            choice.fit_quotas()
        for _ in range(WARM_UP):
            self()

    def __call__(self) -> None:
        """One step on the next batch."""
        self.trainer.step(self.batches[self.steps % len(self.batches)])
        self.steps += 1


def peers(sizes: tuple[int, int, int, int], batches: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Steps of the libraries that can be imported here."""
    if util.find_spec("sparsify"):
        yield from _sparsify(sizes, batches)
    if util.find_spec("dictionary_learning"):
        yield from _dictionary_learning(sizes, batches)
    if util.find_spec("sae_lens"):
        yield from _saelens(sizes, batches)


def _sparsify(sizes: tuple[int, int, int, int], batches: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    from sparsify import SparseCoder, SparseCoderConfig

    _, d_model, n_features, k = sizes
    coder = SparseCoder(d_model, SparseCoderConfig(num_latents=n_features, k=k)).to(batches[0])
    optimizer = torch.optim.Adam(coder.parameters(), lr=1e-3, fused=True)
    turn = iter(range(10**9))

    def step() -> None:
        out = coder(batches[next(turn) % len(batches)])
        out.fvu.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        coder.set_decoder_norm_to_unit_norm()

    yield "sparsify TopK", step


def _dictionary_learning(
    sizes: tuple[int, int, int, int], batches: list[Tensor]
) -> Iterator[tuple[str, Callable[[], object]]]:
    from dictionary_learning.trainers import BatchTopKTrainer

    _, d_model, n_features, k = sizes
    trainer = BatchTopKTrainer(
        steps=10**6, activation_dim=d_model, dict_size=n_features, k=k, layer=0, lm_name="none",
        device=str(batches[0].device), seed=SEED,
    )  # fmt: skip
    trainer.ae.to(batches[0])
    turn = iter(range(1, 10**9))

    def step() -> None:
        number = next(turn)
        trainer.update(number, batches[number % len(batches)])

    yield "dictionary_learning BatchTopK", step


def _saelens(sizes: tuple[int, int, int, int], batches: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    _, d_model, n_features, k = sizes
    device, dtype = str(batches[0].device), str(batches[0].dtype).removeprefix("torch.")
    config = BatchTopKTrainingSAEConfig(d_in=d_model, d_sae=n_features, k=k, device=device, dtype=dtype)
    sae = BatchTopKTrainingSAE(config).to(batches[0])
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3, fused=True)
    turn = iter(range(10**9))

    def step() -> None:
        number = next(turn)
        out = sae.training_forward_pass(
            TrainStepInput(
                sae_in=batches[number % len(batches)],
                coefficients={},
                dead_neuron_mask=None,
                n_training_steps=number,
                is_logging_step=False,
            )
        )
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    yield "SAELens BatchTopK", step


class ColdMutual(st.MutualChoice):
    """Mutual choice whose search starts from nothing."""

    def expected_prices(self, tokens: int) -> None:
        """No prices."""


class ColdFeature(st.FeatureChoice):
    """Feature choice whose search starts from nothing."""

    def expected_prices(self, tokens: int) -> None:
        """No prices."""


def sides(sizes: tuple[int, int, int, int], count: int = BATCHES) -> dict[str, Callable[[], Callable[[], object]]]:
    """Every step by name, made when called."""
    k = sizes[3]
    batches = activations(*sizes[:2], count)
    choices: dict[str, Callable[[], st.Choice]] = {
        "token choice": lambda: st.TokenChoice(k),
        "mutual choice": lambda: st.MutualChoice(k),
        "feature choice": lambda: st.FeatureChoice(k),
        "floors": lambda: st.BalancedChoice(k, feature_floors=k / sizes[2] / 4),
    }
    weights = torch.randn(sizes[1], sizes[2])
    found: dict[str, Callable[[], Callable[[], object]]] = {PRODUCT: lambda: lambda: batches[0] @ weights}
    memory = torch.empty(sizes[0], sizes[2])
    found["encoder product into kept memory"] = lambda: lambda: torch.mm(batches[0], weights, out=memory)
    for auxiliary in ("none", "zipf"):
        for name, make in choices.items():
            found[f"{name}, auxiliary {auxiliary}"] = lambda m=make, a=auxiliary: Ours(m(), a, sizes, batches)
    found["mutual choice, auxiliary none, exact"] = lambda: Ours(st.MutualChoice(k), "none", sizes, batches, "auto")
    found["mutual choice, cold prices"] = lambda: Ours(ColdMutual(k), "none", sizes, batches)
    found["feature choice, cold prices"] = lambda: Ours(ColdFeature(k), "none", sizes, batches)
    for name, step in peers(sizes, batches):
        found[name] = lambda made=step: made
    return found


def main() -> None:
    """Ours and the peers in turn, one size after the other; `--peaks` adds the memory of a step in its own process."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, choices=range(len(SIZES)), help="measure this size only, keep the other")
    parser.add_argument("--peaks", type=int, metavar="MOST", help="peak memory of so many steps that lack it")
    parser.add_argument("--alone", nargs=2, metavar=("SIZE", "STEP"), help="make one step alone, print its peak memory")
    options = parser.parse_args()
    if options.alone:
        size, name = options.alone
        step = sides(SIZES[int(size)], PROBES)[name]()
        for _ in range(3):
            step()
        print(peak_kib())
        return
    notes = (
        f"(tokens, d_model, features, k), float32, seed {SEED}, a new batch for every step; ratios to the encoder's "
        "product as any step makes it, "
        "into new memory; peak memory of a process that makes this step alone."
    )
    rows = kept_rows("training_step", notes)
    if options.peaks:
        for row in [row for row in rows if not row[-1]][: options.peaks]:
            row[-1] = peak_memory([str(size) for size in SIZES].index(row[0]), row[1])
            report("training_step", HEADINGS, rows, notes)
        return
    for sizes in SIZES if options.size is None else [SIZES[options.size]]:
        rows = [row for row in rows if row[0] != str(sizes)]
        made = {name: make() for name, make in sides(sizes).items()}
        times = alternating(made, options.repeats)
        del made
        for name, seconds in times.items():
            ratio, rate = seconds / times[PRODUCT], round(sizes[0] / seconds)
            rows.append([str(sizes), name, 1e3 * seconds, ratio, rate, ""])
        order = [str(each) for each in SIZES]
        report("training_step", HEADINGS, sorted(rows, key=lambda row: order.index(row[0])), notes)


def peak_kib() -> int:
    """Peak memory of this process; the kernel's figure for processes that have ended would count their parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def peak_memory(size: int, name: str) -> int:
    """MiB of a fresh process that imports torch and makes three steps."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--alone", str(size), name]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(printed.split()[-1]) // 1024


if __name__ == "__main__":
    main()
