"""Balanced choice: a budget for the batch, with caps and floors on tokens and on features."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import allocation as al
from sae_torch.choices.choice import SOLVER, Choice, tokens_of
from sae_torch.choices.densities import densities_of
from sae_torch.choices.feature import DENSITY_RATE
from sae_torch.choices.low_prices import LowPrices
from sae_torch.choices.settings import TABLE, require_known, setting
from sae_torch.choices.thresholds import FrequencyTracker, Threshold, TokenLimits, require_settled, require_thresholds
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.matches import PaddedMatches
from sae_torch.ops.segments import segment_sums
from sae_torch.plain_numbers import is_whole, plain

# Entries of the pooled problem that calibration solves at once; in float32 a quarter of a gigabyte.
POOLED_ENTRIES = 1 << 26
# Rounds in which calibration gives what floors force at no value back to the budget.
FORCED_ROUNDS = 3


class BalancedChoice(Choice):
    """The best matches of the batch under limits on both sides.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_ij A_ij <= k * tokens,
            token_floors <= sum_j A_ij <= token_caps,   floor_j * tokens <= sum_i A_ij <= cap_j * tokens

    A floor on features keeps every feature in use: a match that only a floor forces has value 0 where its
    pre-activation is negative, and still passes the gradient that revives it. Densities below one token per batch are
    carried from batch to batch, so that they hold in the long run.

    In eval mode each token decides alone: it ranks features by ``S - nu_j``, keeps those above the budget's price, and
    applies its own cap and floor.

    Parameters
    ----------
    k : float
        Mean number of features per token.
    token_caps, token_floors : int, optional
        Most and least features of every token.
    feature_caps, feature_floors : float or (features,) densities, optional
        Largest and least share of the tokens of every feature. Floors of a quarter of the mean share,
        ``k / (4 * n_features)``, leave no feature dead and cost no reconstruction; `sae-torch train` sets them.
    floors_in_eval : bool, default True
        Whether floors of features count where thresholds are calibrated, which gives each feature its own. Without,
        they are the budget's price, one for all where there are no caps: a little less error, and features that score
        below it everywhere do not fire. Floors hold in training either way.

    Source: this project; two-sided limits by `allocation.TwoSided`.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> choice = st.BalancedChoice(k=1, token_caps=1, feature_floors=0.5)
    >>> choice.mask(torch.tensor([[3.0, 1.0], [2.0, 1.5]])).tolist()
    [[True, False], [False, True]]
    """

    supports_padded = True
    supports_rough = True
    supports_parts = True
    # whether it has been said that there are no limits
    _is_said: bool = False
    on_host = ("cap_densities", "floor_densities", "caps_owed", "floors_owed", "steps")

    cap_densities: Tensor
    floor_densities: Tensor
    caps_owed: Tensor
    floors_owed: Tensor
    densities: Tensor
    steps: Tensor
    n_features_saved: Tensor

    def __init__(
        self,
        k: float,
        token_caps: int | None = None,
        token_floors: int | None = None,
        feature_caps: ArrayLike | None = None,
        feature_floors: ArrayLike | None = None,
        floors_in_eval: bool = True,
    ) -> None:
        super().__init__(k)
        for name, limit in (("token_caps", token_caps), ("token_floors", token_floors)):
            if limit is not None and (not is_whole(limit) or limit < 0):
                raise InputError(f"{name}: expected a whole number of features per token, found {limit!r}")
        if token_floors is not None and token_floors > k:
            raise InputError(f"token_floors: {token_floors} per token exceed the budget of k = {k}")
        if token_caps is not None and token_caps < (token_floors or 0):
            raise InputError(f"token_caps: {token_caps} is below token_floors = {token_floors}")
        self.token_caps, self.token_floors = plain(token_caps), plain(token_floors)
        self.feature_caps = None if feature_caps is None else densities_of("feature_caps", feature_caps)
        self.feature_floors = None if feature_floors is None else densities_of("feature_floors", feature_floors)
        if not isinstance(floors_in_eval, bool):
            raise InputError(f"floors_in_eval: expected True or False, found {floors_in_eval!r}")
        self.floors_in_eval = floors_in_eval

    @functools.cached_property
    def _low_prices(self) -> LowPrices:
        return LowPrices()

    @property
    def reads_rough(self) -> bool:
        """Not with limits of tokens: of several optimal prices those found depend on which scores are asked for."""
        return super().reads_rough and not self.has_token_limits

    @property
    def has_token_limits(self) -> bool:
        """Whether a token's matches depend on more than thresholds."""
        return self.token_caps is not None or self.token_floors is not None

    @property
    def feeds_every_feature(self) -> bool:
        """Whether every feature has a floor."""
        return self.n_features is not None and bool((self.floor_densities > 0).all())

    def make_buffers(self, n_features: int) -> None:
        """Densities, ledgers and thresholds, one entry per feature."""
        self.tracker = FrequencyTracker(n_features)
        caps = _expanded("feature_caps", self.feature_caps, n_features, 1.0)
        floors = _expanded("feature_floors", self.feature_floors, n_features, 0.0)
        above = (floors > caps).nonzero()
        if above.numel():
            at = int(above[0])
            raise InputError(
                f"feature_floors: {float(floors[at]):g} of feature {at} exceeds its cap {float(caps[at]):g}"
            )
        if float(floors.sum()) > self.k * (1 + 1e-9):
            raise InputError(f"feature_floors: they sum to {float(floors.sum()):.6g}, more than k = {self.k}")
        zeros = torch.zeros(n_features, dtype=torch.float64)
        for name, start in (("cap_densities", caps), ("floor_densities", floors), ("densities", zeros)):
            self.register_buffer(name, start.clone())
        self.register_buffer("caps_owed", zeros.clone())
        self.register_buffer("floors_owed", zeros.clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("n_features_saved", torch.tensor(n_features))

    def in_words(self) -> str:
        """Its limits, those of features in multiples of the mean use, k / n_features."""
        said = []
        for kind, densities in (("floors", self.feature_floors), ("caps", self.feature_caps)):
            if densities is not None and self.n_features is not None:
                use = densities * self.n_features / self.k
                alike = bool((use == use.flatten()[0]).all())
                said.append(f"{kind} of {float(use.mean()):.3g} mean use" if alike else f"{kind} for each")
        for kind, limit in (("floor", self.token_floors), ("cap", self.token_caps)):
            if limit is not None:
                said.append(f"{kind} {limit} a token")
        return ", ".join(said)

    def settings(self) -> dict[str, Any]:
        """The limits."""
        of_features = {"feature_caps": self.feature_caps, "feature_floors": self.feature_floors}
        limits: dict[str, Any] = {name: limit.tolist() for name, limit in of_features.items() if limit is not None}
        of_tokens = {"token_caps": self.token_caps, "token_floors": self.token_floors}
        limits |= {name: limit for name, limit in of_tokens.items() if limit is not None}
        if not self.floors_in_eval:  # left out otherwise, as older folders have it
            limits["floors_in_eval"] = False
        return super().settings() | {"limits": limits}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BalancedChoice:
        """With its limits."""
        require_known(settings, "k", "limits")
        limits = setting(settings, "limits", TABLE, {})
        names = ("token_caps", "token_floors", "feature_caps", "feature_floors", "floors_in_eval")
        require_known(limits, *names, table="limits.")
        return cls(settings["k"], **limits)

    def problem(self, scores: Tensor, advance: bool = False, part: al.Part | None = None) -> al.Problem:
        """All limits of this batch, densities turned into whole tokens by the ledgers."""
        return self._limited(scores, *self._of_batch(tokens_of(scores, part), advance), part)

    def padded_limits(self, tokens: int, advance: bool = False) -> dict[str, Any] | None:
        """The same without limits of tokens; None with them: then both sides need prices."""
        if self.has_token_limits:
            return None
        budget, caps, floors = self._of_batch(tokens, advance)
        return {"budget": budget, "feature_caps": caps, "feature_floors": floors}

    def _of_batch(self, count: int, advance: bool) -> tuple[int, Any, Any]:
        """Budget, caps and floors of so many tokens."""
        floors = (
            None if self.feature_floors is None else _granted(self.floor_densities, self.floors_owed, count, advance)
        )
        caps = None if self.feature_caps is None else _granted(self.cap_densities, self.caps_owed, count, advance)
        budget = self.total(count)
        if floors is not None:
            budget = max(budget, int(floors.sum()))  # rounding may grant one more than the budget
            caps = None if caps is None else np.maximum(caps, floors)
        return budget, caps, floors

    def _limited(self, scores: Tensor, budget: int, caps: Any, floors: Any, part: al.Part | None) -> al.Problem:
        return al.Problem(
            scores,
            budget=budget,
            token_caps=self.token_caps,
            token_floors=self.token_floors,
            feature_caps=caps,
            feature_floors=floors,
            part=part,
        )

    def expected_prices(self, tokens: int) -> al.Prices | None:
        """Those of the last batch; of features the least of late, or with caps thresholds, counted at next."""
        prices = super().expected_prices(tokens)
        if prices is None or self.has_token_limits:
            return prices
        if self.feature_caps is None:
            return self._low_prices.expected(prices)
        if not self.tracker.is_set:
            return prices
        features = self.tracker.theta.double().cpu().numpy() - float(prices.budget.value)
        return dataclasses.replace(prices, features=al.Price(self.world.mine(features)))

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        """Follow budget's and features' prices by frequency: the thresholds fire as often as features were matched."""
        self._low_prices.observe(solution.prices)
        count = max(self.world.total(scores.shape[0]), 1)
        positive = solution.values > 0
        features, values = solution.features[positive], solution.values[positive]
        fired = self.world.of_features(np.bincount(features, minlength=scores.shape[1]))
        self._measure(torch.from_numpy(fired / count))
        of_features = self.world.all_features(np.array(solution.prices.features.value))
        prices = float(solution.prices.budget.value) + torch.from_numpy(of_features)
        totals = self.world.of_features(np.bincount(features, weights=values, minlength=scores.shape[1]))
        with np.errstate(invalid="ignore"):
            excess = torch.from_numpy(totals / fired) - prices
        above = None
        if self.has_token_limits and self.tracker.is_set:
            alone = self.batch_free()
            alone.join(self.world.own)
            above = torch.bincount(alone.select(scores)[1], minlength=scores.shape[1])
        self.tracker.observe(scores, self.densities, prices.clamp_min(0.0), excess.clamp_min(0.0), above)

    def observe_padded(self, scores: Tensor, padded: PaddedMatches) -> None:
        """Follow the prices by frequency."""
        tokens, features = scores.shape
        # a match that only a floor forces has value 0
        values = scores[padded.tokens, padded.features].double().clamp_min(0.0)
        codes = SparseCodes(padded.tokens, padded.features, values, (tokens, features), padded.count)
        positive, totals = (
            segment_sums(each[codes.feature_order], codes.feature_offsets)
            for each in ((codes.values > 0).double(), codes.values)
        )
        self._measure(positive / max(tokens, 1))
        excess = totals / positive - padded.prices
        self.tracker.observe(scores, self.densities, padded.prices.clamp_min(0.0), excess.clamp_min(0.0))

    def next_start(self, padded: PaddedMatches) -> Tensor | None:
        """The price of as many scores as the budget has; those of caps are too volatile."""
        return padded.warm_start if self.feature_caps is None else None

    def _measure(self, fired: Tensor) -> None:
        """Take the densities of a batch into the running ones."""
        limits = (self.token_caps, self.token_floors, self.feature_caps, self.feature_floors)
        if not self._is_said and all(limit is None for limit in limits):
            self._is_said = True
            floor = self.k / (4 * self.densities.numel())
            warnings.warn(
                "BalancedChoice: no limits are given, so it is mutual choice, and features may die; a quarter of the "
                f"mean use, feature_floors={floor:.3g} (k / (4 * n_features)), keeps all in use",
                stacklevel=2,
            )
        self.steps.add_(1)
        self.densities.lerp_(fired.to(self.densities), max(1.0 / int(self.steps), DENSITY_RATE))

    def batch_free(self) -> Threshold | TokenLimits:
        """The prices as thresholds, and the token's own limits."""
        require_thresholds(self.tracker)
        if not self.has_token_limits:
            return Threshold(self.tracker.theta)
        return TokenLimits(self.tracker.theta, self.token_caps, self.token_floors)

    def require_settled(self) -> None:
        """As of the last batches."""
        require_settled(self.tracker)

    def set_thresholds(self, theta: Tensor) -> None:
        """One for each feature."""
        self.tracker.restart(theta)

    def rescale(self, factor: float) -> None:
        """Adapt the thresholds to scores multiplied by `factor`."""
        if self.n_features is not None:
            self.tracker.rescale(factor)

    def calibrate(self, chunks: Any, tokens: int) -> None:
        """Prices of one pooled problem over as many of the tokens as fit a quarter of a gigabyte."""
        assert self.n_features is not None
        most, blocks = max(1, POOLED_ENTRIES // self.n_features), []
        for block in chunks:
            blocks.append(block[: self.world.among_first(block.shape[0], most)])
            most -= min(self.world.total(block.shape[0]), most)
            if not most:
                break
        pooled = torch.cat(blocks)
        part = self.world.part(pooled.shape)
        count = tokens_of(pooled, part)
        floors = caps = None
        if self.feature_floors is not None and self.floors_in_eval:
            floors = np.floor(self.floor_densities.cpu().numpy() * count).astype(np.int64)
        if self.feature_caps is not None:
            caps = np.ceil(self.cap_densities.cpu().numpy() * count).astype(np.int64)
        budget, forced = self.total(count), 0
        for _ in range(FORCED_ROUNDS):
            problem = self._limited(pooled, budget + forced, caps, floors, part)
            solution = al.solve(problem, SOLVER, ranks=self.world.ranks)
            before, forced = forced, self.world.sum(int(np.count_nonzero(solution.on_host().values <= 0)))
            if forced == before:
                break  # forced matches do not exist in eval mode, so they are not charged to the budget
        prices = solution.prices
        of_features = self.world.all_features(np.array(prices.features.value))
        theta = float(prices.budget.value) + torch.from_numpy(of_features)
        self.tracker.restart(theta.clamp_min(0.0))

    def extra_repr(self) -> str:
        """What a prompt shows."""
        names = ("token_caps", "token_floors", "feature_caps", "feature_floors")
        given = [f"{name}={_brief(limit)}" for name in names if (limit := getattr(self, name)) is not None]
        return ", ".join([f"k={self.k}", *given, *([] if self.floors_in_eval else ["floors_in_eval=False"])])


def _expanded(name: str, densities: Tensor | None, n_features: int, absent: float) -> Tensor:
    if densities is None:
        return torch.full((n_features,), absent, dtype=torch.float64)
    if densities.ndim and densities.numel() != n_features:
        raise InputError(f"{name}: expected {n_features} densities, found shape {tuple(densities.shape)}")
    return densities.expand(n_features)


def _granted(densities: Tensor, owed: Tensor, tokens: int, advance: bool) -> np.ndarray[Any, np.dtype[np.int64]]:
    ledger = al.QuotaLedger(densities, owed=owed)
    granted = ledger.allot(tokens)
    if advance:
        owed.copy_(torch.from_numpy(ledger.owed))
    return granted


def _brief(limit: Any) -> str:
    if isinstance(limit, Tensor) and limit.ndim:
        return f"{limit.numel()} densities"
    return f"{float(limit):g}"
