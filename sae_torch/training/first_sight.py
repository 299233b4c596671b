"""Thresholds for activations never trained on, measured on those that were: training lowers their price."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import allocation as al
from sae_torch.calibration import calibrate
from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError
from sae_torch.matches import is_on_device, padded_matches
from sae_torch.parallel.world import ALONE, World
from sae_torch.rough_scores import RoughScores
from sae_torch.score_blocks import ChunkedScores
from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.config import TrainConfig
from sae_torch.training.units import Units

# Tokens of a batch whose price is taken, and entries of their scores at most.
TOKENS, ENTRIES = 512, 1 << 23
# Multiples of it, without their whole parts, are evenly spread however many there are.
GOLDEN = (5**0.5 - 1) / 2
# Thresholds below this share of their mean would make a few features stand for all.
LEAST = 0.5


class FirstSight:
    """Prices of the last batches just before they are trained on.

    ::

        theta_j <- theta_j * before(x) / after(x) * after(r) / before(r),
        before(x) = sum_t price(x_t before step t),   after(x) = sum_t price(x_t at the end)

    with `price` that of the budget, k per token, where features have quotas for scores divided by the thresholds
    tracked until then. Between the two lies the step of the batch, which is what counts, and those after it, which
    change all scores: they show in `r`, the first tokens of all, as often as there are batches. The same tokens stand
    on both sides, so that few of them say enough.

    Parameters
    ----------
    k : float
        Features per token.
    world : World
        The processes whose tokens are measured together.

    Attributes
    ----------
    reference : (tokens, d_in) tensor or None
        Raw inputs of the first steps.
    prices : dict of int to pairs of numbers
        By step, of the batch and of the reference, in units of raw activations.
    weights : (features,) tensor or None
        1 / threshold of every feature when the first price was taken; None where no feature has a quota.
    """

    def __init__(self, k: float, world: World = ALONE) -> None:
        self.k, self.world = k, world
        self.reference: Tensor | None = None
        self.prices: dict[int, tuple[float | Tensor, float | Tensor]] = {}
        self.weights: Tensor | None = None

    def observe(self, sae: SparseCoder, x: Tensor, step: int, units: Units) -> None:
        """Take the price of a batch, which is in training units, before its step."""
        if self.reference is not None:
            if not self.prices:
                self.weights = _inverse(sae.choice)
            reference = self._price(sae, units.read(self.reference))
            self.prices[step] = self._price(sae, x) / units.scale, reference / units.scale

    def calibrate(self, sae: SparseCoder, batches: Mapping[int, Tensor]) -> None:
        """Set the thresholds on batches of raw activations, by the step in which they were trained on.

        Raises
        ------
        InputError
            If there is no batch.
        """
        # a choice that reads only what fits reads early and late ones alike: their own steps differ in size
        spread = sorted(batches, key=lambda step: step * GOLDEN % 1.0)
        calibrate(sae, [batches[step] for step in spread])
        steps = [step for step in batches if step in self.prices]
        if self.reference is None or not steps:
            return
        before = [sum(float(self.prices[step][part]) for step in steps) for part in (0, 1)]
        inputs = (sae.inputs_of(batches[step]).to(sae.W_enc.device, sae.W_enc.dtype) for step in steps)
        after = [sum(float(self._price(sae, x)) for x in inputs)]
        after.append(len(steps) * float(self._price(sae, self.reference)))
        if min(*before, *after) > 0:
            sae.choice.rescale(before[0] / after[0] * after[1] / before[1])

    def begin(self, probe: Sequence[Tensor]) -> None:
        """Keep the first tokens of the first batches; of several processes each its own of them."""
        kept, most = [], TOKENS
        for x in probe:
            kept.append(x[: self.world.among_first(len(x), most)])
            most -= min(self.world.total(len(x)), most)
        self.reference = torch.cat(kept)

    def state_dict(self) -> dict[str, Any]:
        """What has been measured, as tensors and plain numbers."""
        prices = {step: tuple(map(float, pair)) for step, pair in self.prices.items()}
        state = {"reference": self.reference, "prices": prices, "weights": self.weights}
        if self.reference is None or self.world.ranks is None:
            return state
        reference, shares = self.world.all_tokens(self.reference)
        return state | {"reference": reference, "shares": shares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.prices = dict(state["prices"])
        reference, self.weights = state["reference"], state["weights"]
        self.reference = None if reference is None else self.world.share(reference, state.get("shares", ()))

    @torch.no_grad()
    def _price(self, sae: SparseCoder, x: Tensor) -> float | Tensor:
        world = self.world
        x = x[: world.among_first(len(x), max(1, min(TOKENS, ENTRIES // sae.n_features)))]
        budget, part = round(self.k * world.total(len(x))), world.part((len(x), sae.width))
        weights = None if self.weights is None else world.mine(self.weights)
        mode, sae.training = sae.training, False  # in the precision that decides later
        try:
            scores = sae.scores_or_blocks(x)
            if isinstance(scores, ChunkedScores):
                problem = scores.candidates({"budget": budget}, weights, part)
                return float(al.solve(problem, ranks=world.ranks).prices.budget.value)
        finally:
            sae.training = mode
        if isinstance(scores, RoughScores):
            rough = scores if weights is None else scores.part(slice(None), None, weights)
            return float(al.solve(al.mutual_choice(rough.rough, budget)).prices.budget.value)
        if weights is not None:
            scores = scores * weights.to(scores)
        if is_on_device(scores) and part is None:
            return padded_matches(scores, budget=budget).prices[0]
        return float(al.solve(al.Problem(scores, budget, part=part), ranks=world.ranks).prices.budget.value)


class LastInputs:
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


def _inverse(choice: Choice) -> Tensor | None:
    """1 / threshold of every feature, where each has a price of its own; of half the mean threshold at most."""
    if choice.density_targets() is None:
        return None
    try:
        theta = choice.batch_free().theta
    except InputError:  # none has been measured yet
        return None
    if not isinstance(theta, Tensor) or not theta.ndim or not float(theta.mean()) > 0:
        return None
    return 1.0 / theta.clamp_min(LEAST * theta.mean())
