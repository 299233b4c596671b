"""The training loop."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import allocation as al
from sae_torch.calibration import require_several
from sae_torch.choices.choice import Progress
from sae_torch.errors import InputError
from sae_torch.matches import is_on_device
from sae_torch.plain_numbers import whole
from sae_torch.sparse_coder import Batch, SparseCoder
from sae_torch.training.config import TrainConfig
from sae_torch.training.divergence import LossWatch
from sae_torch.training.first_sight import FirstSight, LastInputs
from sae_torch.training.graph import StepGraph, require_graph
from sae_torch.training.log import StepRecord, TrainLog, with_progress
from sae_torch.training.objective import Objective
from sae_torch.training.schedule import Annealing, Schedule
from sae_torch.training.start import start, untouched_transcoder
from sae_torch.training.to_device import to_device
from sae_torch.training.units import Units
from sae_torch.training.update import has_unit_rows, parameter_groups, set_rate, update
from sae_torch.training.usage import FeatureUsage

# Tokens from which the mean and the scale of the activations are estimated.
PROBE_TOKENS = 8192


@dataclass
class ScheduleState:
    """A planned number of steps, and how far they are."""

    steps: int
    rates: Schedule
    annealing: Annealing | None
    usage: FeatureUsage
    objective: Objective
    watch: LossWatch
    first_sight: FirstSight
    step: int = 0
    tokens: int = 0
    has_entered: bool = False  # whether weights are in training units


class Trainer:
    """Trains a sparse autoencoder on activations, or a transcoder on pairs of them.

    ::

        minimise  (1/N) sum_i ||x_i - x_hat_i||^2 + c * auxiliary   over batches, decoder rows of norm 1

    Activations may have any scale: training runs in units where their mean norm is sqrt(d_model), and the weights are
    folded back, so the module works on raw activations before, after and when interrupted.

    `fit` is the loop; `begin`, `step` and `end` are its parts for a loop of your own, and `state_dict` holds all that
    the next step depends on.

    Parameters
    ----------
    sae : SparseAutoencoder or Transcoder
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

    def __init__(self, sae: SparseCoder, config: TrainConfig | None = None) -> None:
        if getattr(sae, "input_transform", None) is not None:
            raise InputError(
                f"sae: expected an autoencoder that reads activations as they are, found {sae.input_transform!r}; "
                "train one without it on activations that you transform"
            )
        _require_range(sae)
        self.sae = sae
        self.world = sae.world
        self.config = config or TrainConfig()
        self.units: Units | None = None  # unknown until the first batches are seen
        self.schedule: ScheduleState | None = None
        self._graph: StepGraph | None = None
        if self.config.graph:
            require_graph(sae)
        # on a GPU the fused one alone can skip a step that the host has not seen yet
        fused = is_on_device(sae.W_dec) or (sae.W_dec.device.type == "cpu" and sae.W_dec.dtype == torch.float32)
        self.optimizer = torch.optim.Adam(parameter_groups(sae), betas=self.config.betas, fused=fused)

    def fit(self, batches: Iterable[Batch], steps: int | None = None) -> TrainLog:
        """Train for one pass over `batches`, then calibrate the thresholds as `FirstSight` says.

        Parameters
        ----------
        batches : iterable of (tokens, d_model) tensors
            Of a transcoder pairs (x, y) of shapes (tokens, d_in) and (tokens, d_out), or rows of `Pairs`. Of several
            processes each passes its own tokens; a batch is those of all.
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
            If the loss is not finite or diverges; the message names the step.
        """
        require_several(batches)
        steps = self.world.same("steps", _step_count(batches, steps))
        self._require_idle("fit")
        was_training = self.sae.training
        inputs = LastInputs(self.config, steps)
        log = TrainLog()
        begun = self._begun(iter(batches), steps)
        if self.config.progress and self.world.leads:
            begun = with_progress(begun, steps, log, self)
        try:
            for x in begun:
                before = log.seen
                log.append(self.step(x))
                inputs.append(x, log.seen - before)
            self.check_losses()
            assert self.schedule is not None
            first_sight = self.schedule.first_sight
        finally:
            self.end()
            self.sae.train(was_training)
        log.settle()
        if len(log.loss) < steps:
            raise InputError(f"batches: ended after {len(log.loss)} of {steps} steps")
        first_sight.calibrate(self.sae, dict(enumerate(inputs.batches, start=steps - len(inputs.batches))))
        return log

    def begin(self, probe: Batch | Sequence[Batch], steps: int, planned_tokens: int) -> None:
        """Start a schedule of `steps` steps over about `planned_tokens` tokens, in training mode and training units.

        Parameters
        ----------
        probe : (tokens, d_model), or several of them
            The first activations, from which a fresh autoencoder takes its bias and its units, and a transcoder its
            encoder; of a transcoder a list of pairs. Of several processes those of each, in the batches in which they
            will come.

        Raises
        ------
        InputError
            If the probe does not fit the autoencoder, every weight is frozen, a schedule has begun already, or several
            processes do not begin alike.
        """
        steps, planned_tokens = whole("steps", steps, what="1 or more"), whole("planned_tokens", planned_tokens)
        self._require_idle("begin")
        _require_range(self.sae)
        if not any(weight.requires_grad for weight in self.sae.parameters()):
            raise InputError(
                "sae: expected at least one weight that is trained, found all frozen (requires_grad=False)"
            )
        self.world.require_alike("config", lambda: [self.config, self.sae.choice])
        self.world.require_alike("sae", lambda: self.sae.state_dict().values())
        is_pair = isinstance(probe, tuple) and self.sae.takes_pairs and isinstance(probe[0], Tensor)
        given: Any = [probe] if isinstance(probe, Tensor) or is_pair else probe

        def all_checked() -> list[Tensor]:
            if not isinstance(given, (list, tuple)) or not given:
                raise InputError(f"probe: expected activations or a list of them, found {probe!r}")
            return [self.checked(x, number) for number, x in enumerate(given)]

        parts, _ = self.world.agreed(all_checked, len)
        schedule, known = self._plan(steps, planned_tokens), self.units
        try:
            schedule.first_sight.begin([self.sae.inputs_of(part) for part in parts])
            self._enter(schedule, torch.cat(parts))
        except BaseException:  # Ctrl-C too: the module works on raw activations again
            self.end()
            self.units = known  # a fresh module stays one
            raise

    def step(self, x: Batch) -> StepRecord:
        """One step on raw activations, (tokens, d_model), or of a transcoder on a pair (x, y).

        A GPU is not waited for: the numbers of the record stay there until they are read, every 50 steps or by
        `check_losses`. A step whose loss diverges, and all after it, then leave the weights as they are until the error
        is raised.

        Raises
        ------
        InputError
            If the batch does not fit the autoencoder, or all steps of the schedule are done.
        FloatingPointError
            If the loss is not finite or diverges; the weights are those before the step.
        """
        schedule, units = self.schedule, self.units
        if schedule is None or units is None:
            raise InputError("step: no schedule has begun; call begin(probe, steps, planned_tokens) first, or fit")
        if schedule.step >= schedule.steps:
            raise InputError(f"step: all {schedule.steps} steps of the schedule are done; call end() first")
        given, done = x, schedule.step
        x, tokens = self.world.taken(lambda: units.batch(self.sae, self.checked(given, done, wait=False)))
        k = None if schedule.annealing is None else schedule.annealing.at(schedule.step)
        self.sae.choice.at_step(Progress(schedule.step, schedule.steps, k))
        try:
            if self._calibrates(tokens, schedule):
                schedule.first_sight.observe(self.sae, self.sae.inputs_of(x), schedule.step, units)
            record = self._step(x, tokens, schedule)
        except al.InvalidProblemError as error:
            schedule.watch.failed_step = schedule.step
            raise FloatingPointError(f"step {schedule.step}: {error}; {self._remedy}") from error
        schedule.step += 1
        schedule.tokens = record.tokens
        if not record.is_read:
            schedule.watch.add(record)
        return record

    def check_losses(self) -> None:
        """Read what a GPU has measured since the last reading, which waits for it.

        Raises
        ------
        FloatingPointError
            If a loss is not finite or diverges; the weights are those before that step.
        InputError
            If a batch held NaN or infinite values.
        """
        if self.schedule is not None:
            self.schedule.watch.check_losses()

    def look(self) -> None:
        """The old name of `check_losses`."""
        warnings.warn("look is now called check_losses", DeprecationWarning, stacklevel=2)
        self.check_losses()

    @property
    def scale(self) -> float:
        """What activations, of pairs the targets, are multiplied by in training; NaN before any have been seen."""
        return math.nan if self.units is None else self.units.scale

    @property
    def failed_step(self) -> int | None:
        """The step of the schedule whose loss was refused."""
        return None if self.schedule is None else self.schedule.watch.failed_step

    def end(self) -> None:
        """Leave the schedule: back to a module that works on raw activations; a second call does nothing."""
        if self.schedule is None:
            return
        if self.schedule.annealing is not None:
            self.sae.choice.set_budget(self.schedule.annealing.k)
        watch, has_entered = self.schedule.watch, self.schedule.has_entered
        self.schedule = self._graph = None
        if has_entered:
            assert self.units is not None
            self.units.leave(self.sae)
        watch.check_losses()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and plain values; `begin` comes first.

        The tensors are the trainer's own: write them before the next step.

        Raises
        ------
        FloatingPointError
            If a weight is not finite: there is nothing to go on from.
        """
        schedule, units = self.schedule, self.units
        if schedule is None or units is None:
            raise InputError("state_dict: no schedule has begun; call begin(probe, steps, planned_tokens) first")
        self.check_losses()
        self.world.agreed(partial(self._require_finite, schedule.step), lambda _: 0)
        return {
            "steps": schedule.steps,
            "step": schedule.step,
            "tokens": schedule.tokens,
            **units.state_dict(),
            "sae": self.sae.state_dict(),
            "choice": self.sae.choice.carried_state(),
            "optimizer": self.optimizer.state_dict(),
            "usage": schedule.usage.state_dict(),
            "first_sight": schedule.first_sight.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], planned_tokens: int) -> None:
        """Take up a schedule where `state_dict` left it, with the same autoencoder and configuration."""
        schedule = self._plan(state["steps"], planned_tokens)
        schedule.step, schedule.tokens = state["step"], state["tokens"]
        schedule.usage.load_state_dict(state["usage"])
        if "first_sight" in state:  # older ones have none
            schedule.first_sight.load_state_dict(state["first_sight"])
        self.units = Units.of_state(state, self.world.local(self.sae.W_dec))
        schedule.has_entered = True
        weights, placed_like = dict(self.sae.named_parameters()), self.world.placed_like
        self.sae.load_state_dict(
            {name: placed_like(value, weights.get(name, value)) for name, value in state["sae"].items()}
        )
        self.sae.choice.load_carried_state(state["choice"])
        trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments = {
            number: {name: placed_like(value, trained[number]) if value.ndim else value for name, value in kept.items()}
            for number, kept in state["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict(state["optimizer"] | {"state": moments})
        if "W_enc" in state["sae"]:  # checkpoints once held the encoder transposed, and its moments with it
            moments = self.optimizer.state[self.sae.encoder]
            moments |= {name: value.T.contiguous() for name, value in moments.items() if value.ndim == 2}
        for weight, moments in self.optimizer.state.items():  # the fused one goes by their places in memory
            moments |= {
                name: torch.empty_like(weight).copy_(value)
                for name, value in moments.items()
                if value.ndim and value.stride() != weight.stride()
            }

    def _require_finite(self, step: int) -> None:
        for name, weight in self.sae.named_parameters():
            if not bool(torch.isfinite(self.world.local(weight)).all()):
                raise FloatingPointError(f"{name} is not finite after step {step}: {self._remedy}")

    def _require_idle(self, call: str) -> None:
        if self.schedule is not None:
            raise InputError(
                f"{call}: a schedule has begun already, {self.schedule.step} of {self.schedule.steps} steps are done; "
                "call end() first"
            )

    def _plan(self, steps: int, planned_tokens: int) -> ScheduleState:
        config, choice = self.config, self.sae.choice
        annealing = None
        if config.k_start is not None:
            annealing = Annealing(config.k_start, choice.k, steps, config.k_annealing)
        config.require_room(choice, self.sae.n_features)
        rates = Schedule(config.learning_rate, steps, config.warm_up, config.decay, config.decay_shape == "cosine")
        usage = FeatureUsage(self.sae, config, planned_tokens)
        self.schedule = ScheduleState(
            steps, rates, annealing, usage, Objective(self.sae, config, usage),
            LossWatch(self.sae.d_out, self._remedy), FirstSight(choice.k, self.world),
        )  # fmt: skip
        if config.graph:
            self._graph = StepGraph(partial(self.launch, schedule=self.schedule), self.optimizer, choice, usage)
        self.sae.train()
        return self.schedule

    def _enter(self, schedule: ScheduleState, probe: Tensor) -> None:
        """Bring the module into training units, and a fresh one to where training starts."""
        fresh = self.units is None
        untouched = untouched_transcoder(self.sae) if fresh else None
        units = self.units = self.units or Units.of(self.sae, probe)
        units.enter(self.sae)
        schedule.has_entered = True
        if fresh:
            start(self.sae, probe, units, untouched)
        if has_unit_rows(self.sae):
            self.sae.normalise_decoder()

    def _begun(self, iterator: Iterator[Any], steps: int) -> Iterator[Tensor]:
        """The batches; the first ones begin the schedule."""
        probe: list[Tensor] = []
        sizes: list[int] = []
        batches = self.world.together(iterator)
        while sum(sizes) < PROBE_TOKENS and len(probe) < steps:
            batch = next(batches, None)
            if batch is None:
                break
            x, tokens = self.world.taken(partial(self.checked, batch, len(probe)))
            probe.append(x)
            sizes.append(tokens)
        if not probe:
            raise InputError(f"batches: ended after 0 of {steps} steps")
        self.begin(probe, steps, steps * sizes[0])
        yield from itertools.islice(itertools.chain(probe, batches), steps)

    def checked(self, x: Batch, step: int, wait: bool = True) -> Tensor:
        """A batch of raw activations as the module takes it; `step` is its number, for the message.

        A pair becomes one tensor, x beside y.

        Without `wait`, values on a GPU are not read: what is wrong with them shows in the loss.

        Raises
        ------
        InputError
            If its shape does not fit, or it holds NaN or infinite values.
        """
        x = self.sae.joined(x, f"batch {step}").detach().to(self.sae.W_enc.dtype)
        check_finite = wait or not (is_on_device(x) and is_on_device(self.sae.W_enc))
        if check_finite and not bool(torch.isfinite(x).all()):
            raise InputError(f"batches: batch {step} holds NaN or infinite activations")
        return to_device(x, self.sae.W_enc.device)

    def _calibrates(self, tokens: int, schedule: ScheduleState) -> bool:
        """Whether a batch of so many tokens will be among those that set the thresholds."""
        last = self.config.calibration_batches(schedule.steps, tokens)
        return self.sae.choice.token_k is None and schedule.step >= schedule.steps - last

    def _step(self, x: Tensor, tokens: int, schedule: ScheduleState) -> StepRecord:
        record = StepRecord(schedule.step, schedule.rates.rate(schedule.step), schedule.tokens + tokens)
        set_rate(self.optimizer, record.learning_rate)
        if is_on_device(x):
            record.numbers = self._graph(x) if self._graph else self.launch(x, schedule, tokens)
            return record
        loss, (*losses, matches, baseline) = schedule.objective(x, tokens)
        record.numbers = [*map(float, losses), float(matches) / tokens, float(baseline)]
        schedule.watch.add(record)  # refuses before the weights change
        self._descend(loss)
        return record

    def launch(self, x: Tensor, schedule: ScheduleState, tokens: int | None = None) -> Tensor:
        """A step on a GPU, in training units; the numbers of its record, which are not there yet."""
        tokens = len(x) if tokens is None else tokens
        loss, (*losses, matches, baseline) = schedule.objective(x, tokens)
        flag = schedule.watch.flag(losses[0], baseline)
        if self.optimizer.defaults["fused"]:
            self.optimizer.found_inf = flag  # type: ignore[attr-defined]
        count = matches if isinstance(matches, Tensor) else torch.full((), matches, device=x.device)
        numbers = torch.stack([number.double() for number in (*losses, count.double() / tokens, baseline)])
        self._descend(loss)
        return numbers

    def measured(self, error: float, x: Tensor) -> dict[str, float]:
        """Share of dead features, and the normalised error of a step.

        ::

            nmse = sum ||y - y_hat||^2 / sum ||y - mean(y)||^2

        Parameters
        ----------
        error : float
            Reconstruction of the step, in training units.
        x : (N, width) tensor
            Its batch, or another of the same data.
        """
        assert self.schedule is not None
        assert self.units is not None
        y = self.sae.sides_of(x)[1].float()  # squares leave the range of float16
        variance = float((y - y.mean(dim=0)).square().sum(dim=1).mean())
        dead = float(self.schedule.usage.dead.float().mean())
        return {"dead": dead, "nmse": error / (self.units.scale**2 * variance) if variance else 0.0}

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        update(self.sae, self.optimizer, self.config.clip)

    @property
    def _remedy(self) -> str:
        return f"lower the learning rate ({self.config.learning_rate:g})"


def _require_range(sae: SparseCoder) -> None:
    """Refuse weights in float16: gradients and squared errors leave its range in the first steps."""
    if any(weight.dtype == torch.float16 for weight in sae.parameters()):
        raise InputError(
            "sae: expected weights in bfloat16 or float32 for training, found float16, whose range ends at 65504; make "
            "it with dtype=torch.float32, or call sae.float() first"
        )


def _step_count(batches: Iterable[Any], steps: int | None) -> int:
    if steps is None:
        if not isinstance(batches, Sized):
            raise InputError(f"steps: {type(batches).__name__} has no length; say how many steps to train")
        steps = len(batches)
    return whole("steps", steps, what="1 or more")
