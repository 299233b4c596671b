"""Rivals of 2026 in our trainer, each as what is done before a step: nothing of them is in `sae_torch`.

- *aligned* (arXiv 2605.18629): the inner product of every feature's encoder and decoder rows is 1. Ours: after every
  step the encoder row moves along its decoder row, the shortest way, until it is.
- *whitened* (arXiv 2511.13981): trained on activations with the identity as their covariance; reconstructions go back.
- *signed* (arXiv 2510.00404): scores are absolute values. A feature is held as two, one the negative of the other: of
  these at most one has a positive score, so that the best scores of the pair are those of the absolute value.
- *penalised*: a penalty on the frequency of dense features, as Gemma Scope 2 has one beside its JumpReLU. Ours:
  `c sum_j max(0, p_j - 0.1)^2`, whose gradient reaches the matches just above the price, since only those would
  be lost if scores fell: the rectangle that stands for a step's derivative there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.study.long.whitening import Whitening
from benchmarks.study.methods import ALIGNED, DENSE, PENALISED, SIGNED, WHITENED
from benchmarks.study.milestones import in_raw_units
from benchmarks.study.snapshots import Snapshots
from sae_torch.activations import ActivationReader
from sae_torch.sparse_coder import Output
from sae_torch.training.ending import calibrated_end
from sae_torch.training.trainer import PROBE_TOKENS

# Rows that the covariance is taken from.
COVARIANCE_ROWS = 100_000
# Of the penalty: its weight, and the width of the rectangle as a share of the price.
COEFFICIENT, BAND = 10.0, 0.5
# Batches that set the thresholds of weights in the middle of a training.
CALIBRATION_BATCHES = 4


@dataclass(frozen=True)
class Read:
    """Batches of a reader, changed on their way.

    Parameters
    ----------
    reader
        Where they come from.
    change
        What becomes of a batch; None leaves it as it is.
    """

    reader: ActivationReader
    change: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.reader)

    def batch(self, step: int) -> Tensor:
        """One batch by its step."""
        batch = self.reader.batch(step)
        return batch if self.change is None else self.change(batch)


@torch.no_grad()
def align(sae: st.SparseAutoencoder) -> None:
    """Make the inner product of every encoder row with its decoder row 1; decoder rows have norm 1."""
    missing = 1 - (sae.encoder * sae.W_dec).sum(dim=1, keepdim=True)
    sae.encoder.addcmul_(missing, sae.W_dec)


@torch.no_grad()
def mirror(sae: st.SparseAutoencoder) -> None:
    """Make the second half of the features the negatives of the first."""
    half = sae.n_features // 2
    for weight in (sae.encoder, sae.W_dec, sae.b_enc):
        weight[half:] = -weight[:half]


def tie(sae: st.SparseAutoencoder) -> None:
    """Give both halves the gradient of what they share."""

    def shared(weight: Tensor) -> None:
        assert weight.grad is not None
        half = len(weight) // 2
        total = weight.grad[:half] - weight.grad[half:]
        weight.grad[:half], weight.grad[half:] = total, -total

    mirror(sae)
    for weight in (sae.encoder, sae.W_dec, sae.b_enc):
        weight.register_post_accumulate_grad_hook(shared)


def penalise(sae: st.SparseAutoencoder) -> None:
    """Add the gradient of the penalty on dense features to that of the codes, in every forward pass of training."""

    @torch.no_grad()
    def gradient(codes: st.SparseCodes) -> Tensor:
        norms = sae.W_dec.norm(dim=1)
        scores = codes.values.detach() * norms[codes.features]
        tokens, taken = codes.shape[0], scores > 0
        density = torch.bincount(codes.features[taken], minlength=codes.shape[1]) / tokens
        excess = (density - DENSE).clamp_min(0)
        price = scores[taken].min() if bool(taken.any()) else scores.new_zeros(())
        width = BAND * price
        near = (scores > 0) & (scores < price + width)
        slope = 2 * COEFFICIENT / tokens * excess[codes.features] * norms[codes.features] / width
        return torch.where(near, slope, torch.zeros(()))

    def hook(module: torch.nn.Module, inputs: object, out: Output) -> None:
        if out.codes.values.requires_grad:
            added = gradient(out.codes)
            out.codes.values.register_hook(lambda found: found + added)

    sae.register_forward_hook(hook)


def fit(
    variant: str | None, sae: st.SparseAutoencoder, config: st.TrainConfig, reader: ActivationReader,
    milestone: Callable[[int, Callable[[], st.SparseAutoencoder]], None], snapshots: Snapshots,
) -> st.SparseAutoencoder:  # fmt: skip
    """Train as a variant asks for.

    Parameters
    ----------
    variant
        None trains as our trainer does.
    sae, config, reader
        What is trained, how, and on what.
    milestone
        Called before every step with the steps done and what makes a copy for raw activations.
    snapshots
        Keeps the state for a process that goes on.
    """
    trainer = st.Trainer(sae, config)
    enforce = {ALIGNED: align, SIGNED: mirror}.get(variant or "")
    prepare = {SIGNED: tie, PENALISED: penalise}.get(variant or "")
    if prepare is not None:
        prepare(sae)
    whitening = _whitening(reader) if variant == WHITENED else None

    batches = Read(reader, whitening)
    for step in range(_begun(trainer, batches, snapshots), len(reader)):
        if enforce is not None:
            enforce(sae)
        milestone(step, partial(_copied, trainer, batches, step))
        trainer.step(batches.batch(step))
        snapshots(step + 1, lambda: {"trainer": trainer.state_dict()})
    calibrated_end(trainer, batches.batch, reader.batch_size)
    if enforce is not None:
        enforce(sae)
    sae.input_transform = whitening
    return sae


def _begun(trainer: st.Trainer, batches: Read, snapshots: Snapshots) -> int:
    """Begin with the first batches, or go on where a stopped process was; the steps that are done."""
    steps, tokens, kept = len(batches), len(batches) * batches.reader.batch_size, snapshots.begun
    if kept is not None:
        trainer.load_state_dict(kept["trainer"], tokens)
        return int(kept["step"])
    first = min(-(-PROBE_TOKENS // batches.reader.batch_size), steps)
    trainer.begin([batches.batch(step) for step in range(first)], steps, tokens)
    return 0


def _copied(trainer: st.Trainer, batches: Read, step: int) -> st.SparseAutoencoder:
    """What is being trained, with thresholds from the batches that come next."""
    sae = in_raw_units(trainer)
    st.calibrate(sae, [batches.batch(each) for each in range(step, min(step + CALIBRATION_BATCHES, len(batches)))])
    sae.input_transform = batches.change if isinstance(batches.change, Whitening) else None
    return sae


def _whitening(reader: ActivationReader) -> Whitening:
    rows = min(COVARIANCE_ROWS, len(reader.activations))
    return Whitening.of(reader.activations.gather(torch.arange(rows)))
