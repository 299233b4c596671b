"""The training loop."""

from __future__ import annotations

import itertools
import math
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import allocation as al
from sae_torch.calibration import require_several
from sae_torch.choices.choice import Progress
from sae_torch.errors import InputError
from sae_torch.losses import matryoshka_loss, reconstruction
from sae_torch.matches import is_on_device
from sae_torch.plain_numbers import whole
from sae_torch.sparse_coder import Batch, SparseCoder
from sae_torch.training.config import TrainConfig
from sae_torch.training.divergence import LossWatch
from sae_torch.training.first_sight import FirstSight
from sae_torch.training.graph import StepGraph, require_graph
from sae_torch.training.log import StepRecord, TrainLog, with_progress
from sae_torch.training.schedule import Annealing, Schedule
from sae_torch.training.to_device import to_device
from sae_torch.training.units import InputUnits, enter, leave, start
from sae_torch.training.update import has_unit_rows, parameter_groups, set_rate, update
from sae_torch.training.usage import FeatureUsage
from sae_torch.transcoder import Transcoder

# Tokens from which the mean and the scale of the activations are estimated.
PROBE_TOKENS = 8192
# Norms below this, and above its inverse, are taken in float64.
TINY = 1e-15


@dataclass
class ScheduleState:
    """A planned number of steps, and how far they are."""

    steps: int
    rates: Schedule
    annealing: Annealing | None
    usage: FeatureUsage
    watch: LossWatch
    first_sight: FirstSight
    step: int = 0
    tokens: int = 0


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
        # activations are multiplied by this in training; unknown until the first batches are seen
        self.scale = math.nan
        self.inputs: InputUnits | None = None  # of a transcoder, beside the scale of its targets
        self.schedule: ScheduleState | None = None
        self._memory: Tensor | None = None
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
        inputs = _LastInputs(self.config, steps)
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
        self._plan(steps, planned_tokens).first_sight.begin([self.sae.inputs_of(part) for part in parts])
        self._start(torch.cat(parts))

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
        schedule = self.schedule
        if schedule is None:
            raise InputError("step: no schedule has begun; call begin(probe, steps, planned_tokens) first, or fit")
        if schedule.step >= schedule.steps:
            raise InputError(f"step: all {schedule.steps} steps of the schedule are done; call end() first")
        given, done = x, schedule.step
        x, tokens = self.world.taken(lambda: self._in_units(self.checked(given, done, wait=False)))
        k = None if schedule.annealing is None else schedule.annealing.at(schedule.step)
        self.sae.choice.at_step(Progress(schedule.step, schedule.steps, k))
        try:
            if self._calibrates(tokens, schedule):
                schedule.first_sight.observe(self.sae, self.sae.inputs_of(x), schedule.step, self.scale, self._read)
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
    def failed_step(self) -> int | None:
        """The step of the schedule whose loss was refused."""
        return None if self.schedule is None else self.schedule.watch.failed_step

    def end(self) -> None:
        """Leave the schedule: back to a module that works on raw activations; a second call does nothing."""
        if self.schedule is None:
            return
        if self.schedule.annealing is not None:
            self.sae.choice.set_budget(self.schedule.annealing.k)
        watch = self.schedule.watch
        self.schedule = self._memory = self._graph = None
        if not math.isnan(self.scale):
            leave(self.sae, self.scale, self.inputs)
        watch.check_losses()

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, as tensors and plain values; `begin` comes first.

        The tensors are the trainer's own: write them before the next step.

        Raises
        ------
        FloatingPointError
            If a weight is not finite: there is nothing to go on from.
        """
        schedule = self.schedule
        if schedule is None:
            raise InputError("state_dict: no schedule has begun; call begin(probe, steps, planned_tokens) first")
        self.check_losses()
        self.world.agreed(partial(self._require_finite, schedule.step), lambda _: 0)
        return {
            "steps": schedule.steps,
            "step": schedule.step,
            "tokens": schedule.tokens,
            "scale": self.scale,
            "inputs": None if self.inputs is None else self.inputs.state_dict(),
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
        self.scale = state["scale"]
        self.inputs = InputUnits.of_state(state.get("inputs"), self.world.local(self.sae.W_dec))
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
            steps, rates, annealing, usage, LossWatch(self.sae.d_out, self._remedy), FirstSight(choice.k, self.world)
        )
        if config.graph:
            self._graph = StepGraph(partial(self.launch, schedule=self.schedule), self.optimizer, choice, usage)
        self.sae.train()
        return self.schedule

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

    @torch.no_grad()
    def _start(self, probe: Tensor) -> None:
        """Bring the module into training units; a fresh one gets the mean as its bias, a transcoder its encoder."""
        sae, fresh = self.sae, math.isnan(self.scale)
        x, y = sae.sides_of(probe)
        learns_all = all(weight.requires_grad for weight in sae.parameters())
        untouched = sae if isinstance(sae, Transcoder) and fresh and learns_all and sae.is_fresh else None
        if fresh:
            self.scale = self._unit(y)
            self.inputs = self._input_units(x) if sae.takes_pairs else None
        enter(sae, self.scale, self.inputs)
        b_dec = self.world.local(sae.b_dec)
        if untouched is not None:
            start(untouched, self._read(x), y * self.scale)
        if fresh and sae.b_dec.requires_grad and (untouched is not None or not bool(b_dec.any())):
            mean = self.world.mean
            b_dec.copy_(mean(y * self.scale) if self.scale < TINY else mean(y) * self.scale)
        if has_unit_rows(sae):
            sae.normalise_decoder()

    def _read(self, x: Tensor) -> Tensor:
        """Raw inputs in training units."""
        return x * self.scale if self.inputs is None else self.inputs.read(x)

    def _in_units(self, rows: Tensor) -> Tensor:
        """A raw batch in training units."""
        if self.inputs is None:
            return rows * self.scale
        x, y = self.sae.sides_of(rows)
        return torch.cat([self.inputs.read(x), y * self.scale], dim=1)

    def _input_units(self, x: Tensor) -> InputUnits:
        """Those of the first inputs of a transcoder."""
        if not all(weight.requires_grad for weight in self.sae.parameters()):
            return InputUnits(2.0 ** round(math.log2(self._unit(x))), None)
        shift = self.world.mean(x)
        return InputUnits(self._unit(x - shift), shift)

    def _unit(self, probe: Tensor) -> float:
        """What brings the mean norm to sqrt(d_model); 1 where all is 0."""
        norm = float(self.world.mean(probe.norm(dim=1)))
        if not TINY < norm < 1 / TINY:  # squares in the activations' own type have over- or underflowed
            norm = float(self.world.mean(probe.double().norm(dim=1)))
        if norm == 0:
            return 1.0
        usual = math.sqrt(probe.shape[1])
        scale = usual / norm
        limits = torch.finfo(self.sae.W_dec.dtype)
        if not limits.tiny <= scale <= limits.max:
            raise InputError(
                f"batches: expected activations that {self.sae.W_dec.dtype} can bring to norm "
                f"{usual:.3g}, found a mean norm of {norm:.3g}"
            )
        weights = self.sae.parameters() if self.sae.takes_pairs else (self.sae.b_enc, self.sae.b_dec)
        if not all(weight.requires_grad for weight in weights):
            scale = 2.0 ** round(math.log2(scale))  # there and back changes no bit of a bias that is frozen
        return scale

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
        loss, (*losses, matches, baseline) = self._forward(x, tokens, schedule.usage)
        record.numbers = [*map(float, losses), float(matches) / tokens, float(baseline)]
        schedule.watch.add(record)  # refuses before the weights change
        self._descend(loss)
        return record

    def launch(self, x: Tensor, schedule: ScheduleState, tokens: int | None = None) -> Tensor:
        """A step on a GPU, in training units; the numbers of its record, which are not there yet."""
        tokens = len(x) if tokens is None else tokens
        loss, (*losses, matches, baseline) = self._forward(x, tokens, schedule.usage)
        flag = schedule.watch.flag(losses[0], baseline)
        if self.optimizer.defaults["fused"]:
            self.optimizer.found_inf = flag  # type: ignore[attr-defined]
        count = matches if isinstance(matches, Tensor) else torch.full((), matches, device=x.device)
        numbers = torch.stack([number.double() for number in (*losses, count.double() / tokens, baseline)])
        self._descend(loss)
        return numbers

    def _forward(self, x: Tensor, tokens: int, usage: FeatureUsage) -> tuple[Tensor, tuple[Any, ...]]:
        """The loss, and what is measured: it and its parts, the matches, the error of reconstructing nothing."""
        sae, config = self.sae, self.config
        wants_auxiliary = usage.auxiliary != "none"
        x, y = sae.sides_of(x)
        out = sae(x, return_pre=wants_auxiliary, memory=self._scores_memory(x))
        usage.observe(out, tokens)
        error = reconstruction(out, y) if config.prefixes is None else matryoshka_loss(out, x, sae, config.prefixes, y)
        loss = error
        auxiliary = x.new_zeros(())
        if wants_auxiliary:
            auxiliary = usage.auxiliary_loss(out, x, sae, y)
            loss = error + config.auxiliary_coefficient * auxiliary
        matches = self.world.sum(len(out.codes) if out.codes.count is None else out.codes.count)
        measured = (loss, error, auxiliary, matches, self.world.sum_tokens(y.square().sum()) / tokens)
        return loss, tuple(part.detach() if isinstance(part, Tensor) else part for part in measured)

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
        y = self.sae.sides_of(x)[1].float()  # squares leave the range of float16
        variance = float((y - y.mean(dim=0)).square().sum(dim=1).mean())
        dead = float(self.schedule.usage.dead.float().mean())
        return {"dead": dead, "nmse": error / (self.scale**2 * variance) if variance else 0.0}

    @staticmethod
    def shown(values: Mapping[str, float]) -> dict[str, str]:
        """What a progress bar shows."""
        return {
            "loss": f"{values['loss']:.1f}",
            "L0": f"{values['l0']:.1f}",
            "dead": f"{values['dead']:.1%}",
            "NMSE": f"{values['nmse']:.3f}",
        }

    def _descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        update(self.sae, self.optimizer, self.config.clip)

    def _scores_memory(self, x: Tensor) -> Tensor | None:
        """Where this step writes its scores: over the last step's. A GPU's allocator keeps freed memory by itself."""
        shape, dtype = (x.shape[0], self.sae.width), self.sae.product_dtype(x.shape[0])
        if x.device.type != "cpu" or self.sae.feature_chunk is not None:
            return None
        if self._memory is None or self._memory.shape != shape:
            self._memory = torch.empty(shape, dtype=dtype)
        return self._memory

    @property
    def _remedy(self) -> str:
        return f"lower the learning rate ({self.config.learning_rate:g})"


class _LastInputs:
    """The batches that calibrate: of the last steps, as many as hold the tokens kept, at least one."""

    def __init__(self, config: TrainConfig, steps: int) -> None:
        most = max(1, math.ceil(config.calibration * steps))
        self.batches: deque[Tensor] = deque(maxlen=most)
        self.sizes: deque[int] = deque(maxlen=most)
        self.most = config.calibration_tokens

    def append(self, x: Tensor, tokens: int) -> None:
        """A batch, of which other processes may have more; `tokens` are those of all."""
        self.batches.append(x)
        self.sizes.append(tokens)
        while len(self.batches) > 1 and sum(self.sizes) > self.most:
            self.batches.popleft()
            self.sizes.popleft()


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
