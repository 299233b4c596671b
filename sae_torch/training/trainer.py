"""The training loop."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.calibration import calibrate
from sae_torch.errors import InputError
from sae_torch.feature_choice import FeatureChoice
from sae_torch.losses import matryoshka_loss, reconstruction
from sae_torch.training.config import TrainConfig
from sae_torch.training.schedule import Schedule
from sae_torch.training.usage import Usage

# Tokens from which the mean and the scale of the activations are estimated.
PROBE_TOKENS = 8192


@dataclass(frozen=True)
class TrainLog:
    """One entry per step.

    Attributes
    ----------
    loss : list of float
        Reconstruction plus weighted auxiliary loss, in units where activations have norm sqrt(d_model).
    reconstruction, auxiliary : list of float
        The two parts, the auxiliary one without its weight; the first averages over prefixes where there are some.
    l0 : list of float
        Matches per token in the batch.
    learning_rate : list of float
    tokens : list of int
        Tokens seen so far.
    """

    loss: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    auxiliary: list[float] = field(default_factory=list)
    l0: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Trainer:
    """Trains a sparse autoencoder on activations.

    ::

        minimise  (1/N) sum_i ||x_i - x_hat_i||^2 + c * auxiliary   over batches, decoder rows of norm 1

    Activations may have any scale: training runs in units where their mean norm is sqrt(d_model), and the weights are
    folded back, so the module works on raw activations before, after and when interrupted.

    Parameters
    ----------
    sae : SparseAutoencoder
    config : TrainConfig, optional

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(8, 32, choice=st.MutualChoice(k=4))
    >>> batches = [torch.randn(256, 8, generator=torch.Generator().manual_seed(i)) for i in range(20)]
    >>> log = st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
    >>> log.loss[-1] < log.loss[0]
    True
    """

    def __init__(self, sae: SparseAutoencoder, config: TrainConfig | None = None) -> None:
        self.sae = sae
        self.config = config or TrainConfig()
        # activations are multiplied by this in training; unknown until the first batches are seen
        self.scale = math.nan
        self._in_training_units = False
        fused = sae.W_dec.dtype == torch.float32 and sae.W_dec.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(sae.parameters(), betas=self.config.betas, fused=fused)

    def fit(self, batches: Iterable[Tensor], steps: int | None = None) -> TrainLog:
        """Train for one pass over `batches`, then calibrate the thresholds on the inputs of the last steps.

        Parameters
        ----------
        batches : iterable of (tokens, d_model) tensors
        steps : int, optional
            Steps of this call, ``len(batches)`` by default.

        Returns
        -------
        TrainLog

        Raises
        ------
        InputError
            If the number of steps is unknown, the batches end early, or a batch does not fit the autoencoder.
        FloatingPointError
            If the loss is not finite; the message names the step.
        """
        steps = _step_count(batches, steps)
        iterator = iter(batches)
        was_training = self.sae.training
        self.sae.train()
        recent: deque[Tensor] = deque(maxlen=max(1, math.ceil(self.config.calibration * steps)))
        log = TrainLog()
        try:
            for step, x in enumerate(self._with_progress(self._prepared(iterator, steps), steps, log)):
                if step == 0:
                    usage = Usage(self.sae, self.config, planned_tokens=steps * x.shape[0])
                    schedule = Schedule(self.config.learning_rate, steps, self.config.warm_up, self.config.decay)
                self._switch(step, steps)
                self._step(x, schedule.rate(step), usage, log)
                recent.append(x)
        finally:
            if self._in_training_units:
                self._rescale(1.0 / self.scale)
                self._in_training_units = False
            self.sae.train(was_training)
        if len(log.loss) < steps:
            raise InputError(f"batches: ended after {len(log.loss)} of {steps} steps")
        calibrate(self.sae, [x / self.scale for x in _newest(recent, self.config.calibration_tokens)])
        return log

    def _prepared(self, iterator: Iterator[Tensor], steps: int) -> Iterator[Tensor]:
        """Batches in training units; the first ones set these units."""
        probe: list[Tensor] = []
        while sum(x.shape[0] for x in probe) < PROBE_TOKENS and len(probe) < steps:
            batch = next(iterator, None)
            if batch is None:
                break
            probe.append(self._checked(batch, len(probe)))
        if not probe:
            raise InputError(f"batches: ended after 0 of {steps} steps")
        self._start(torch.cat(probe))
        later = (self._checked(x, len(probe) + n) for n, x in enumerate(iterator))
        for x in itertools.islice(itertools.chain(probe, later), steps):
            yield x * self.scale

    def _checked(self, x: Tensor, step: int) -> Tensor:
        if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != self.sae.d_model or x.shape[0] == 0:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"batches: batch {step} must have shape (tokens, {self.sae.d_model}), found {found}")
        x = x.detach().to(self.sae.W_enc)
        if not bool(torch.isfinite(x).all()):
            raise InputError(f"batches: batch {step} holds NaN or infinite activations")
        return x

    @torch.no_grad()
    def _start(self, probe: Tensor) -> None:
        """Bring the autoencoder into training units; a fresh one gets the mean as its bias."""
        fresh = math.isnan(self.scale)
        if fresh:
            norm = float(probe.norm(dim=1).mean())
            self.scale = math.sqrt(self.sae.d_model) / norm if norm > 0 else 1.0
        self._rescale(self.scale)
        self._in_training_units = True
        if fresh and not bool(self.sae.b_dec.any()):
            self.sae.b_dec.copy_(probe.mean(dim=0) * self.scale)
        self.sae.normalise_decoder()

    @torch.no_grad()
    def _rescale(self, factor: float) -> None:
        """The same function on activations multiplied by `factor`."""
        self.sae.b_enc.mul_(factor)
        self.sae.b_dec.mul_(factor)
        self.sae.choice.rescale(factor)

    def _switch(self, step: int, steps: int) -> None:
        choice = self.sae.choice
        if not isinstance(choice, FeatureChoice) or choice.switch_tokens is not None or bool(choice.has_quotas):
            return
        if step >= max(1, round(choice.switch * steps)):
            choice.fit_quotas()

    def _step(self, x: Tensor, rate: float, usage: Usage, log: TrainLog) -> None:
        sae, config = self.sae, self.config
        wants_auxiliary = config.auxiliary != "none"
        out = sae(x, return_pre=wants_auxiliary)
        usage.observe(out)
        error = reconstruction(out, x) if config.prefixes is None else matryoshka_loss(out, x, sae, config.prefixes)
        loss = error
        auxiliary = x.new_zeros(())
        if wants_auxiliary:
            auxiliary = usage.auxiliary_loss(out, x, sae)
            loss = error + config.auxiliary_coefficient * auxiliary
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(
                f"the loss is {float(loss)} at step {len(log.loss)}, after {log.loss[-1:] or 'no step'}: lower the "
                f"learning rate ({config.learning_rate:g})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        with torch.no_grad():
            gradient = sae.W_dec.grad
            assert gradient is not None
            gradient -= (gradient * sae.W_dec).sum(dim=1, keepdim=True) * sae.W_dec
        torch.nn.utils.clip_grad_norm_(sae.parameters(), config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        with torch.no_grad():
            sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        log.loss.append(float(loss.detach()))
        log.reconstruction.append(float(error.detach()))
        log.auxiliary.append(float(auxiliary.detach()))
        log.l0.append(len(out.codes) / x.shape[0])
        log.learning_rate.append(rate)
        log.tokens.append((log.tokens[-1] if log.tokens else 0) + x.shape[0])

    def _with_progress(self, batches: Iterable[Tensor], steps: int, log: TrainLog) -> Iterator[Tensor]:
        """The batches, with a bar that shows tokens per second; it reads the log and changes nothing."""
        if not self.config.progress:
            yield from batches
            return
        from tqdm import tqdm

        name = type(self.sae.choice).__name__
        with tqdm(desc=f"train {name}", unit=" tokens", unit_scale=True) as bar:
            for step, x in enumerate(batches):
                if step == 0:
                    bar.reset(total=steps * x.shape[0])
                yield x
                bar.set_postfix(loss=f"{log.loss[-1]:.1f}", refresh=False)
                bar.update(x.shape[0])


def _step_count(batches: Iterable[Tensor], steps: int | None) -> int:
    if steps is None:
        if not isinstance(batches, Sized):
            raise InputError(f"steps: {type(batches).__name__} has no length; say how many steps to train")
        steps = len(batches)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: expected 1 or more, found {steps!r}")
    return steps


def _newest(recent: deque[Tensor], tokens: int) -> list[Tensor]:
    """The last batches, as many as hold at most `tokens` tokens, but at least one."""
    kept: list[Tensor] = []
    for x in reversed(recent):
        if kept and sum(k.shape[0] for k in kept) + x.shape[0] > tokens:
            break
        kept.append(x)
    return kept
