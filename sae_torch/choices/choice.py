"""Who chooses: the token, the batch as a whole, or the feature. Every choice is an allocation problem solved exactly.

In training mode a choice allocates the batch. In eval mode it decides token by token, with the thresholds that training
measured, so that the answer for a token does not depend on the batch it came in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from torch import Tensor

import allocation as al
from sae_torch.choices.recomputation import MatchMemory
from sae_torch.choices.statistics import Statistics
from sae_torch.choices.thresholds import BatchFree
from sae_torch.codes import SparseCodes
from sae_torch.dense import selected
from sae_torch.errors import InputError
from sae_torch.matches import PaddedMatches, PaddedStart, is_on_device, matches_of, padded_matches
from sae_torch.ops.compiling import no_compile
from sae_torch.plain_numbers import positive
from sae_torch.rough_scores import RoughScores
from sae_torch.score_blocks import ChunkedScores, Scores

# What k is, in the sentence that refuses another.
PER_TOKEN = "a positive number of features per token"
# With OR-tools other optimal prices may be returned; trained weights are the same bits whatever else is installed.
SOLVER = al.Auto(compiled=False)
# A class that says one of these anew states or observes its batches in a way of its own.
STATEMENT = ("limits", "problem", "select", "observe")
# What reads scores, or says who does.
READING = (*STATEMENT, "matches", "batch_free", "expected_prices")


@dataclass(frozen=True)
class Progress:
    """Where training is, before a step.

    Attributes
    ----------
    step : int
        Steps that are done.
    steps : int
        Steps in all.
    k : float or None
        The budget of this step in matches per token; None where it is not annealed.
    """

    step: int
    steps: int
    k: float | None = None


class Choice(Statistics):
    """A sparsifying activation: which token is matched with which feature.

    Statistics and thresholds change once per training-mode forward with gradients enabled, never in eval mode or under
    `torch.no_grad()`. Casts of the module leave them their type.

    A subclass says `problem` (or `limits`, if they stand on one side), `observe`, `batch_free`, `rescale` and
    `calibrate`. The other methods have defaults that suit most.

    Attributes
    ----------
    k : float
        Mean number of features per token.
    n_features : int or None
        Known after `build` or the first forward.
    supports_padded : bool
        On a GPU, `observe_padded` stands in for `observe`, and training does not wait for the number of matches. A
        subclass that states or observes its batches anew has to say so anew.
    supports_graph : bool
        Every step has one size and reads nothing back, so that a CUDA graph may hold it.
    supports_rough : bool
        `problem`, `select` and `observe` take scores that are exact only where they are asked. Otherwise they are given
        a matrix.
    supports_parts : bool
        `problem` and `observe` take the scores of this process's tokens where the batch is that of several; what they
        measure they add up by ``self.world``.
    """

    supports_padded: ClassVar[bool] = False
    supports_graph: ClassVar[bool] = False
    supports_rough: bool = False
    supports_parts: ClassVar[bool] = False
    _kinds: ClassVar[dict[str, type[Choice]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        known = Choice._kinds.get(cls.__name__)
        if known is None or not known.__module__.startswith("sae_torch."):  # yours never stands in for one of ours
            Choice._kinds[cls.__name__] = cls
        if any(name in vars(cls) for name in STATEMENT):
            for promise in ("supports_padded", "supports_graph", "supports_rough", "supports_parts"):
                if promise not in vars(cls):
                    setattr(cls, promise, False)

    @staticmethod
    def named(name: str) -> type[Choice] | None:
        """The class of this name, yours too once it is defined; None where there is none."""
        return Choice._kinds.get(name)

    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = positive("k", k, PER_TOKEN)
        self.n_features: int | None = None
        # values by name; only where the next search starts, so no part of the state
        self._last_prices: dict[str, Any] | None = None
        self.memory = MatchMemory()
        self.padded_start = PaddedStart()

    @property
    def reads_rough(self) -> bool:
        """Whether what is read of scores is this library's, or promises to take them as they are."""
        own = any(not _definer(type(self), name).__module__.startswith("sae_torch.") for name in READING)
        return self.supports_rough and ("supports_rough" in vars(type(self)) or not own)

    def forward(self, scores: Tensor) -> SparseCodes:
        """The codes of a (tokens, features) matrix of scores; gradients flow through the selected scores.

        Of scores with more axes, (batch, sequence, features) for instance, all but the last are tokens of one batch;
        the dense form of the codes has the same axes again.
        """
        scores, axes = as_matrix(scores)
        tokens, features, count = self.matches(scores, observe=torch.is_grad_enabled())
        values = scores[tokens, features] if count is not None else selected(scores, tokens, features)
        # a match that only a floor forces has value 0 and gradient 1: that is how floors revive features
        values = values + (values.clamp_min(0.0) - values).detach()
        self.memory.hold(values)
        return SparseCodes(tokens, features, values, (scores.shape[0], scores.shape[1]), count, axes=axes)

    def mask(self, scores: Tensor) -> Tensor:
        """The matches as a dense boolean matrix, with the axes of the scores; statistics stay as they are."""
        matrix, _ = as_matrix(scores)
        tokens, features = self.select(matrix, observe=False)
        mask = torch.zeros(matrix.shape, dtype=torch.bool, device=scores.device)
        mask[tokens, features] = True
        return mask.view(scores.shape)

    @no_compile
    def matches(self, scores: Scores, observe: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """As `select`. On a GPU, a choice that supports padded matches trains without waiting for their number.

        Then there is a third part, the count; entries past it are no matches, and NaN among the scores is not looked
        for: it shows in the loss.

        A batch that a backward computes again, as activation checkpointing does, keeps its matches and counts once.
        """
        require_matrix(scores)
        if not (observe and self.training):
            return self._matches(scores, observe)
        self.require_room(self.world.width(scores.shape[1]))
        matches = self.memory.recall(scores)
        if matches is None:
            matches = self._matches(scores, observe)
            self.memory.keep(scores, matches)
        return matches

    def _matches(self, scores: Scores, observe: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        limits = None
        if self.training and self.supports_padded and is_on_device(scores) and self.world.ranks is None:
            self.build(scores.shape[1])
            limits = self.padded_limits(scores.shape[0], advance=observe)
        if limits is None:
            return *self.select(scores, observe), None
        scores = cast(Tensor, scores).detach()
        padded = padded_matches(scores, self.padded_start, **limits)
        if observe:
            self.observe_padded(scores, padded)
            self.padded_start.keep(self.next_start(padded))
        return padded.tokens, padded.features, padded.count

    @no_compile
    def select(self, scores: Scores, observe: bool = False) -> tuple[Tensor, Tensor]:
        """Tokens and features of the matches, sorted; `observe` says whether this batch counts as training."""
        require_matrix(scores)
        scores = scores.detach()
        self.build(self.world.width(scores.shape[1]))
        if not self.training:
            return self.decided_alone(scores)
        problem = self._stated(scores, observe, self.world.part(scores.shape))
        warm_start = self.expected_prices(scores.shape[0])
        solution = al.solve(problem, SOLVER, warm_start=warm_start, ranks=self.world.ranks)
        tokens, features = matches_of(solution)
        if isinstance(scores, RoughScores):
            scores.keep(solution)
        if observe:
            self._last_prices = {name: price.value for name, price in vars(solution.prices).items()}
            self.observe(cast(Tensor, scores), solution.on_host())  # what it reads of a matrix, the others have too
        return tokens, features

    def decided_alone(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """As `select` in eval mode: every token decides for itself.

        Where thresholds miss what was due it warns and goes on: batches of few documents differ by more than chance
        explains, and only whoever sees the numbers can tell. Files are refused then.
        """
        try:
            self.require_settled()
        except InputError as unsettled:
            warnings.warn(str(unsettled), stacklevel=2)
        form = self.batch_free()
        if form is not self:
            form.join(self.world.own)
        return form.select(scores)

    def build(self, n_features: int) -> None:
        """Make the buffers for this many features; a second call only checks the number."""
        if self.n_features is None:
            self.n_features = n_features
            self.make_buffers(n_features)
        elif self.n_features != n_features:
            raise InputError(f"scores: this choice was built for {self.n_features} features, found {n_features}")

    def require_room(self, n_features: int, k: float | None = None, name: str = "k") -> None:
        """Refuse a budget that so many features cannot hold; only training asks, since thresholds need none."""
        k = self.k if k is None else k
        if k > n_features:
            raise InputError(f"{name}: expected at most the {n_features} features, found {k:g}")

    def make_buffers(self, n_features: int) -> None:
        """Register the buffers that depend on the number of features."""

    def limits(self, tokens: int, advance: bool = False) -> dict[str, Any] | None:
        """The limits of a batch of this size if they stand on one side, by name; None where `problem` says it all.

        `advance` moves state that is carried from batch to batch.
        """
        return None

    def padded_limits(self, tokens: int, advance: bool = False) -> dict[str, Any] | None:
        """The limits of a batch by the names of `allocation.select_fixed`, if that takes them."""
        return self.limits(tokens, advance)

    def problem(self, scores: Tensor, advance: bool = False, part: al.Part | None = None) -> al.Problem:
        """The allocation problem of a batch; `advance` moves state that is carried from batch to batch.

        Of several processes each states its `part`, with the limits of the whole batch.
        """
        limits = self.limits(tokens_of(scores, part), advance)
        if limits is None:
            raise NotImplementedError
        return al.Problem(scores, **limits, part=part)

    def _stated(self, scores: Scores, advance: bool, part: al.Part | None) -> al.Problem:
        """The problem on all scores, or on the candidates of scores that come in blocks."""
        if isinstance(scores, ChunkedScores):
            limits = self.limits(tokens_of(scores, part), advance)
            assert limits is not None, "the autoencoder refuses blocks for such a choice"
            return scores.candidates(limits, part=part)
        stated = cast(Tensor, scores.rough if isinstance(scores, RoughScores) else scores)
        # a choice of the user's own may know nothing of parts
        return self.problem(stated, advance) if part is None else self.problem(stated, advance, part)

    def expected_prices(self, tokens: int) -> al.Prices | None:
        """Where the search for the batch's prices starts; it changes the time, never the answer."""
        if self._last_prices is None:
            return None
        return al.Prices(**{name: al.Price(value) for name, value in self._last_prices.items()}).without_intervals()

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        """Update statistics from a training batch."""

    def observe_padded(self, scores: Tensor, padded: PaddedMatches) -> None:
        """As `observe`, with everything that is read staying on the device."""
        raise NotImplementedError

    def next_start(self, padded: PaddedMatches) -> Tensor | None:
        """Prices that the next batch is expected to have on a GPU; None where one batch says nothing of the next."""
        return None

    def at_step(self, progress: Progress) -> None:
        """Prepare for a training step: the trainer calls it before each."""
        if progress.k is not None:
            self.set_budget(progress.k)

    def set_budget(self, k: float) -> None:
        """Another mean number of features per token, for a while."""
        self.k = positive("k", k, PER_TOKEN)

    @property
    def budget_fixed_at(self) -> float | None:
        """Share of the training steps at which k must have arrived; None where it may move until the end."""
        return None

    def in_words(self) -> str:
        """What tells it apart from others of its class, whatever k; empty where nothing does."""
        return ""

    def settings(self) -> dict[str, Any]:
        """What `from_settings` needs to make the same choice again, as values that JSON can hold."""
        return {"k": self.k}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """A choice of the given settings, as it begins."""
        return cls(**settings)

    def carried_state(self) -> dict[str, Any]:
        """What goes from step to step besides the buffers, as tensors and plain values; a checkpoint holds it.

        Here the prices from which the next search starts. One-sided answers do not depend on where the search starts;
        of several optimal prices of a two-sided problem, the one that is found may.
        """
        if self._last_prices is None:
            return {"prices": None}
        prices = {name: torch.from_numpy(np.array(value)) for name, value in self._last_prices.items()}
        prices["tokens"], _ = self.world.all_tokens(prices["tokens"])
        prices["features"] = torch.from_numpy(self.world.all_features(prices["features"].numpy()))
        return {"prices": prices}

    def load_carried_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `carried_state` gave."""
        if state["prices"] is not None:
            prices = dict(state["prices"])
            prices["tokens"], prices["features"] = (
                self.world.share(prices["tokens"]),
                self.world.mine(prices["features"]),
            )
            self._last_prices = {name: v.numpy() if v.ndim else float(v) for name, v in prices.items()}

    def density_targets(self, device: torch.device | str = "cpu") -> Tensor | None:
        """The share of tokens that every feature shall have, (features,) on `device`; None where nothing is set."""
        return None

    def set_density_targets(self, densities: Tensor) -> None:
        """Take up targets that were saved."""

    @property
    def has_batch_problem(self) -> bool:
        """Whether batches can be allocated; thresholds alone, as files of others have them, may say nothing of them."""
        return True

    @property
    def token_k(self) -> int | None:
        """Features per token where every token takes its best, whatever the batch; None for every other choice."""
        return None

    def set_thresholds(self, theta: Tensor) -> None:
        """Take up thresholds that were measured elsewhere, (features,) in units of the scores."""
        raise InputError(
            f"choice: expected one that takes up saved thresholds, found {type(self).__name__} without set_thresholds"
        )

    @property
    def feeds_every_feature(self) -> bool:
        """Whether every feature gets tokens in training, whatever their scores: then no auxiliary loss is needed."""
        return False

    def batch_free(self) -> Choice | BatchFree:
        """The form for inference: one token at a time."""
        raise NotImplementedError

    def require_settled(self) -> None:
        """Refuse thresholds that, in the last training batches, fired otherwise than they should."""

    def rescale(self, factor: float) -> None:
        """Adapt thresholds to scores multiplied by `factor`."""

    def calibrate(self, chunks: Any, tokens: int) -> None:
        """Set thresholds to the prices of one pooled problem over `tokens` tokens, in re-iterable blocks of scores."""

    def total(self, tokens: int) -> int:
        """Matches of a batch: k per token, rounded."""
        return round(self.k * tokens)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # buffers are made for the number of features that the state was saved with
        size = state_dict.get(f"{prefix}n_features_saved")
        if size is not None and self.n_features is None:
            self.build(int(size))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """What a prompt shows."""
        return f"k={self.k}"


def _definer(kind: type, name: str) -> type:
    """The class that a method comes from."""
    return next(each for each in kind.__mro__ if name in vars(each))


def tokens_of(scores: Scores, part: al.Part | None) -> int:
    """Tokens of the whole batch."""
    return scores.shape[0] if part is None or part.tokens is None else part.tokens[1]


def as_matrix(scores: Tensor) -> tuple[Tensor, tuple[int, ...] | None]:
    """Scores as a (tokens, features) matrix, and the axes that the tokens had where they were several."""
    if isinstance(scores, np.ndarray):
        raise InputError("scores: expected a tensor, found an array of NumPy; pass torch.from_numpy(scores)")
    if scores.ndim < 3:
        return scores, None
    axes = tuple(scores.shape[:-1])
    return scores.reshape(math.prod(axes), scores.shape[-1]), axes


def require_matrix(scores: Scores) -> None:
    """Scores have tokens and features.

    Raises
    ------
    InputError
        If they have another number of axes.
    """
    if scores.ndim != 2:
        raise InputError(
            f"scores: expected shape (tokens, features) or (batch, sequence, features), found {tuple(scores.shape)}"
        )
