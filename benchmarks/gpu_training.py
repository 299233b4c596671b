"""A training step on a GPU: every choice, the encoder's product alone, and the peers that are installed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.gpu_device import Gpu, verdict
from benchmarks.training_step import PRODUCT, activations, peers
from sae_torch.training.log import StepRecord

# tokens, d_model, features, k
SIZES = ((4096, 768, 24576, 32), (4096, 768, 1 << 17, 32))
SMALL = (64, 16, 128, 4)
SHORT: dict[str, Callable[[int, int], st.Choice]] = {
    "token": lambda k, _: st.TokenChoice(k),
    "mutual": lambda k, _: st.MutualChoice(k),
    "balanced": lambda k, features: st.BalancedChoice(k, feature_floors=0.25 * k / features),
}
OURS = (PRODUCT, "token choice", "mutual choice", "feature choice")
LARGEST = (4096, 768, 1 << 20, 32)
HEADINGS = ["size", "type", "step", "ms", "x product", "tokens/s", "targets"]
PROFILE_HEADINGS = ["operation", "calls a step", "device ms a step", "share"]
SHORT_HEADINGS = ["choice", "type", "graph", "steps", "steps/s", "first loss", "last loss", "dead"]
# A step in bfloat16 against its encoder's product, and against sparsify's.
MOST_PRODUCTS, LEAST_FASTER = 1.25, 1.3


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
                said = verdicts(name, dtype, times) if gpu.is_real else "not judged"
                yield [str(sizes), str(dtype).removeprefix("torch."), name, milliseconds, ratio, rate, said]


def verdicts(name: str, dtype: torch.dtype, times: dict[str, float]) -> str:
    """Which targets of a step are met, and which are missed."""
    if dtype != torch.bfloat16 or name not in OURS[1:]:
        return ""
    fast = times[name] <= MOST_PRODUCTS * times[PRODUCT]
    said = [f"{verdict(fast)} {MOST_PRODUCTS:g} x product"]
    for peer, milliseconds in times.items():
        if "sparsify" in peer:
            faster = milliseconds >= LEAST_FASTER * times[name]
            said.append(f"{verdict(faster)} {LEAST_FASTER:g} x {peer}")
    return ", ".join(said)


def profile_rows(gpu: Gpu) -> Iterator[list[Any]]:
    """What a step of mutual choice in bfloat16 spends its time on, the largest first."""
    from torch.profiler import ProfilerActivity, profile

    sizes, count = (SIZES[0], 5) if gpu.is_real else (SMALL, 2)
    batches = [batch.to(gpu.device, torch.bfloat16) for batch in activations(*sizes[:2], count=2)]
    step = OurStep(st.MutualChoice(sizes[3]), sizes, batches)
    for _ in range(5):
        step()
    gpu.wait()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu.is_real else [])]
    with profile(activities=kinds, acc_events=True) as profiled:
        for _ in range(count):
            step()
        gpu.wait()
    name = "self_device_time_total" if gpu.is_real else "self_cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda event: getattr(event, name), reverse=True)
    total = sum(getattr(event, name) for event in events)
    for event in events[:20]:
        spent = getattr(event, name)
        yield [event.key[:80], event.count / count, spent / 1e3 / count, spent / max(total, 1.0)]


def short_training(gpu: Gpu) -> Iterator[list[Any]]:
    """Some hundred steps on one stream of activations: the loss falls, in either type, captured or not."""
    sizes, count = ((4096, 512, 8192, 32), 300) if gpu.is_real else (SMALL, 6)
    tokens, d_model, n_features, k = sizes
    for dtype in (torch.float32, torch.bfloat16):
        batches = [
            batch.to(gpu.device, dtype) for batch in activations(tokens, d_model, count=16 if gpu.is_real else 3)
        ]
        for name, make in SHORT.items():
            for graph in (False, True) if gpu.is_real and name != "balanced" else (False,):
                if not gpu.has_time:
                    return
                choice = make(k, n_features)
                sae = st.SparseAutoencoder(d_model, n_features, choice, dtype=dtype, device=gpu.device)
                trainer = st.Trainer(sae, st.TrainConfig(progress=False, graph=graph))
                gpu.wait()
                started = time.perf_counter()
                log = trainer.fit([batches[step % len(batches)] for step in range(count)])
                gpu.wait()
                seconds = time.perf_counter() - started
                silent = 1.0 - len(torch.unique(sae.eval()(batches[0]).codes.trim().features)) / n_features
                assert log.loss[-1] < log.loss[0], (name, dtype, graph, log.loss[0], log.loss[-1])
                kind = str(dtype).removeprefix("torch.")
                yield [name, kind, str(graph), count, count / seconds, log.loss[0], log.loss[-1], silent]


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
