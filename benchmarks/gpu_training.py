"""A training step on a GPU: every choice, the encoder's product alone, and the peers that are installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.gpu_device import Gpu
from benchmarks.training_step import PRODUCT, activations, peers
from sae_torch.training.log import StepRecord

# tokens, d_model, features, k
SIZES = ((4096, 768, 24576, 32), (4096, 768, 1 << 17, 32))
SMALL = (64, 16, 128, 4)
OURS = (PRODUCT, "token choice", "mutual choice", "feature choice")
LARGEST = (4096, 768, 1 << 20, 32)
HEADINGS = ["size", "type", "step", "ms", "x product", "tokens/s"]


def training_rows(gpu: Gpu) -> Iterator[list[Any]]:
    """One row per step, type and size."""
    for sizes in SIZES if gpu.is_real else (SMALL,):
        for dtype in (torch.float32, torch.bfloat16):
            if not gpu.has_time:
                print(f"no time left for {sizes}, {dtype}", flush=True)
                continue
            batches = [batch.to(gpu.device, dtype) for batch in activations(*sizes[:2], count=8)]
            sides = {name: step for name, step in steps(sizes, batches) if runs(name, step)}
            times = gpu.times(sides, repeats=7 if gpu.is_real else 1)
            for name, milliseconds in times.items():
                ratio, rate = milliseconds / times[PRODUCT], round(1e3 * sizes[0] / milliseconds)
                row = [str(sizes), str(dtype).removeprefix("torch."), name, milliseconds, ratio, rate]
                print(row, flush=True)
                yield row


def steps(sizes: tuple[int, int, int, int], batches: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    """The encoder's product, our steps, and the peers'."""
    _, d_model, n_features, k = sizes
    weights = torch.randn(d_model, n_features, device=batches[0].device).to(batches[0])
    yield PRODUCT, lambda: batches[0] @ weights
    choices = (st.TokenChoice(k), st.MutualChoice(k), st.FeatureChoice(k, switch=0))
    for name, choice in zip(OURS[1:], choices, strict=True):
        yield name, OurStep(choice, sizes, batches)
    yield from peers(sizes, batches)


def runs(name: str, step: Callable[[], object]) -> bool:
    """Whether a step works on this device in this type; peers may not, and say why."""
    try:
        step()
    except Exception as error:  # peers raise anything
        if name in OURS:
            raise
        print(f"{name} does not run here: {type(error).__name__}: {error}", flush=True)
        return False
    return True


def largest_autoencoder(gpu: Gpu) -> str:
    """2^20 features in bfloat16, one training step after another on one GPU: at once, and in blocks of features."""
    sizes = LARGEST if gpu.is_real else SMALL
    batches = [batch.to(gpu.device, torch.bfloat16) for batch in activations(*sizes[:2], count=2)]
    said = []
    step = OurStep(st.MutualChoice(sizes[3]), sizes, batches)
    for chunk in (None, sizes[2] // 8):
        step.sae.feature_chunk = chunk
        if gpu.is_real:
            torch.cuda.reset_peak_memory_stats()
        milliseconds = gpu.times({"step": step}, repeats=3 if gpu.is_real else 1)["step"]
        said.append(f"{'at once' if chunk is None else f'{chunk} features at a time'} {milliseconds:.0f} ms a step")
        if gpu.is_real:
            said[-1] += f", at most {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return f"{sizes}: {'; '.join(said)}"


class OurStep:
    """A step in the middle of a long schedule, with the settings as shipped."""

    def __init__(
        self, choice: st.Choice, sizes: tuple[int, int, int, int], batches: list[Tensor], graph: bool = False
    ) -> None:
        _, d_model, n_features, _ = sizes
        self.sae = st.SparseAutoencoder(d_model, n_features, choice, dtype=batches[0].dtype, device=batches[0].device)
        self.trainer = st.Trainer(self.sae, st.TrainConfig(progress=False, graph=graph))
        self.trainer.begin(batches[0], steps=10**6, planned_tokens=10**9)
        self.turn, self.batches = 0, batches

    def __call__(self) -> StepRecord:
        """One step on the next batch."""
        self.turn += 1
        return self.trainer.step(self.batches[self.turn % len(self.batches)])
