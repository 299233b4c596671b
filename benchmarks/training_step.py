"""One training step on the CPU: ours for every choice, the encoder's product alone, and the peers that are installed.

A step is forward, reconstruction, auxiliary loss where named, backward, clipping, Adam, unit norm and statistics. Peers
are found in the environment this runs in; `make bench-peers` makes one.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator
from importlib import util

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.harness import alternating, arguments, report
from sae_torch.training.trainer import Trainer, TrainLog
from sae_torch.training.usage import Usage

SIZES = ((2048, 384, 12288, 32), (4096, 576, 18432, 32))
SEED = 0


def activations(tokens: int, d_model: int, count: int = 4) -> list[Tensor]:
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
        self, choice: st.Choice, auxiliary: str, sizes: tuple[int, int, int, int], batches: list[Tensor]
    ) -> None:
        _, d_model, n_features, _ = sizes
        config = st.TrainConfig(auxiliary=auxiliary, progress=False)  # type: ignore[arg-type]
        self.trainer = Trainer(st.SparseAutoencoder(d_model, n_features, choice, seed=SEED), config)
        self.trainer.fit(batches * 2)
        if isinstance(choice, st.FeatureChoice) and not bool(choice.has_quotas):
            choice.fit_quotas()
        self.trainer.sae.train()
        self.usage = Usage(self.trainer.sae, config, planned_tokens=10**9)
        self.batches = batches
        self.log = TrainLog()

    def __call__(self) -> None:
        """One step on the next batch."""
        x = self.batches[len(self.log.loss) % len(self.batches)]
        self.trainer._step(x, 1e-4, self.usage, self.log)


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
    coder = SparseCoder(d_model, SparseCoderConfig(num_latents=n_features, k=k))
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
        steps=10**6, activation_dim=d_model, dict_size=n_features, k=k, layer=0, lm_name="none", device="cpu", seed=SEED
    )
    turn = iter(range(1, 10**9))

    def step() -> None:
        number = next(turn)
        trainer.update(number, batches[number % len(batches)])

    yield "dictionary_learning BatchTopK", step


def _saelens(sizes: tuple[int, int, int, int], batches: list[Tensor]) -> Iterator[tuple[str, Callable[[], object]]]:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    _, d_model, n_features, k = sizes
    sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=d_model, d_sae=n_features, k=k, device="cpu"))
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


def main() -> None:
    """Both sizes, ours and the peers in turn."""
    options = arguments(__doc__ or "").parse_args()
    rows: list[list[object]] = []
    for sizes in SIZES:
        tokens, d_model, n_features, k = sizes
        batches = activations(tokens, d_model)
        weights = torch.randn(d_model, n_features)
        sides: dict[str, Callable[[], object]] = {"encoder product": lambda b=batches, w=weights: b[0] @ w}
        for auxiliary in ("none", "zipf"):
            for choice in (st.TokenChoice(k), st.MutualChoice(k), st.FeatureChoice(k)):
                name = f"{type(choice).__name__}, auxiliary {auxiliary}"
                sides[name] = Ours(choice, auxiliary, sizes, batches)
        sides |= dict(peers(sizes, batches))
        times = alternating(sides, options.repeats)
        floor = times["encoder product"]
        for name, seconds in times.items():
            rows.append([str(sizes), name, 1e3 * seconds, seconds / floor, round(tokens / seconds)])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    notes = f"(tokens, d_model, features, k), float32, seed {SEED}; peak memory of the whole run {peak:.1f} GiB."
    report("training_step", ["size", "step", "ms", "x product", "tokens/s"], rows, notes)


if __name__ == "__main__":
    main()
