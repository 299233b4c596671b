"""Feature choice: each feature takes its best tokens, as many as its quota allows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

import allocation as al
from sae_torch.choices.choice import Choice, Progress
from sae_torch.choices.densities import densities_of
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.pooled import pooled_features
from sae_torch.choices.price_forecast import PriceForecast
from sae_torch.choices.settings import NUMBER, TABLE, require_known, setting
from sae_torch.choices.thresholds import FrequencyTracker, Threshold, require_settled
from sae_torch.choices.zipf import zipf_densities
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.matches import PaddedMatches
from sae_torch.ops.segments import segment_sums
from sae_torch.plain_numbers import is_number, plain

# Weight of one batch in the running densities, once enough batches have been seen.
DENSITY_RATE = 0.02
# Pooled quotas below this are too small for their price to say much: the tracked threshold stands.
LEAST_POOLED = 8
# Rounds in which calibration passes on what features without enough positive scores leave; a share not worth it.
SHARING_ROUNDS, SHARED = 4, 1e-3


class FeatureChoice(Choice):
    """Each feature takes its best tokens, as many as its quota; a token then has as many features as want it.

    ::

        maximise sum_ij S_ij A_ij   subject to   sum_i A_ij <= m_j for every feature j;   in eval mode   S_ij > nu_j

    Acts as mutual choice, measuring how often each feature fires, until `fit_quotas` (or `set_quotas`) is called.
    Quotas below one token per batch are carried from batch to batch by a ledger, so that they hold in the long run.

    Parameters
    ----------
    k : float
        Mean number of features per token.
    quotas : "zipf", "uniform" or (features,) densities
        What `fit_quotas` sets: a Zipf-Mandelbrot curve through the measured densities, equal densities, or the given
        ones (expected share of tokens of each feature, with sum k).
    switch : float
        Share of the training steps after which `Trainer` fits the quotas. 0: feature choice from scratch, with the
        default curve over the features in order of their index.
    switch_tokens : int or math.inf, optional
        In a loop of your own: fit the quotas after this many tokens; ``math.inf`` if you call `fit_quotas` yourself.
        `Trainer` needs none. Without it a loop of your own stays with mutual choice, and the first batch warns.

    Source: Ayonrinde 2024, arXiv 2411.02124; the quota curve and the schedule are this project's.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> choice = st.FeatureChoice(k=1, quotas="uniform", switch=0)
    >>> choice(torch.tensor([[3.0, 1.0], [2.0, -1.0]])).token_counts.tolist()
    [2, 0]
    """

    densities: Tensor
    density_steps: Tensor
    tokens_seen: Tensor
    quota_densities: Tensor
    owed: Tensor
    unmet: Tensor
    has_quotas: Tensor
    n_features_saved: Tensor

    # whether someone has said when the quotas are fitted, or was told that nobody has
    _planned: bool = False
    # whether a file names quotas that were given, and brings them after the choice
    _were_given: bool = False
    # what a file says of the curve, without the ranks of the features
    _fit_read: Mapping[str, float] = MappingProxyType({})

    supports_padded = True
    supports_rough = True
    supports_parts = True
    on_host = ("density_steps", "tokens_seen", "quota_densities", "owed", "has_quotas")

    def __init__(
        self, k: float, quotas: str | ArrayLike = "zipf", switch: float = 0.85, switch_tokens: float | None = None
    ) -> None:
        super().__init__(k)
        if isinstance(quotas, str) and quotas not in ("zipf", "uniform"):
            raise InputError(f'quotas: expected "zipf", "uniform" or a vector of densities, found {quotas!r}')
        if not is_number(switch) or not 0 <= switch <= 1:
            raise InputError(f"switch: expected a share of the steps from 0 to 1, found {switch!r}")
        if switch_tokens is not None and not (is_number(switch_tokens) and switch_tokens > 0):
            raise InputError(
                f"switch_tokens: expected a positive number of tokens or math.inf, found {switch_tokens!r}"
            )
        self.quotas = quotas if isinstance(quotas, str) else densities_of("quotas", quotas)
        self.switch = plain(switch)
        self.switch_tokens = plain(switch_tokens)
        self.zipf: al.ZipfFit | None = None
        self.mutual = MutualChoice(k)
        # only where the next search starts, so no part of the state
        self._forecast = PriceForecast()
        self._copied: Tensor | None = None

    def make_buffers(self, n_features: int) -> None:
        """Densities, quotas, ledger and thresholds, one entry per feature."""
        self.mutual.build(n_features)
        self.tracker = FrequencyTracker(n_features)
        self.register_buffer("densities", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("density_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("tokens_seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("quota_densities", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("owed", torch.zeros(n_features, dtype=torch.float64))
        self.register_buffer("unmet", torch.zeros((), dtype=torch.float64))
        self.register_buffer("has_quotas", torch.zeros((), dtype=torch.bool))
        self.register_buffer("n_features_saved", torch.tensor(n_features))
        if self.switch == 0 and self.switch_tokens is None:
            self.set_quotas(self._from_scratch(n_features))

    def limits(self, tokens: int, advance: bool = False) -> dict[str, Any]:
        """Quotas per feature; before they are set, a budget for the batch."""
        if not self.has_quotas:
            return self.mutual.limits(tokens)
        ledger = al.QuotaLedger(self.quota_densities, owed=self.owed)
        caps = ledger.allot(tokens)
        if advance:
            self.owed.copy_(torch.from_numpy(ledger.owed))
        return {"feature_caps": caps}

    def expected_prices(self, tokens: int) -> al.Prices | None:
        """A guess for every feature; the last batch's prices are too volatile."""
        if not self.has_quotas:
            return super().expected_prices(tokens)
        if self._forecast.guess is None:
            return None
        guess, none = self._forecast.guess.cpu().numpy(), al.Price(np.zeros(0))
        return al.Prices(al.Price(0.0), al.Price(np.zeros(tokens)), al.Price(self.world.mine(guess)), none, none)

    def observe(self, scores: Tensor, solution: al.Solution) -> None:
        """Measure densities; follow the prices by frequency."""
        if not self.has_quotas:
            self.mutual.observe(scores, solution)
            fired = torch.from_numpy(self.world.of_features(solution.feature_counts)).double()
            tokens = self.world.total(scores.shape[0])
            return self._measure(fired / max(tokens, 1), tokens)
        due = self.quota_densities * self.world.total(scores.shape[0])
        prices = torch.from_numpy(self.world.all_features(np.array(solution.prices.features.value)))
        reaching = solution.stats.get("reaching")
        self._forecast.observe(prices, due, None if reaching is None else torch.from_numpy(reaching))
        totals = np.bincount(solution.features, weights=solution.values, minlength=scores.shape[1])
        counts = self.world.of_features(solution.feature_counts)
        with np.errstate(invalid="ignore"):
            excess = torch.from_numpy(self.world.of_features(totals) / counts) - prices
        self.tracker.observe(scores, self.quota_densities, prices, excess)

    def observe_padded(self, scores: Tensor, padded: PaddedMatches) -> None:
        """Measure densities; follow the prices by frequency."""
        tokens, features = scores.shape
        values = scores[padded.tokens, padded.features].double()
        codes = SparseCodes(padded.tokens, padded.features, values, (tokens, features), padded.count)
        counts = codes.feature_counts
        if not self.has_quotas:
            self.mutual.observe_padded(scores, padded)
            return self._measure(counts.double() / max(tokens, 1), tokens)
        excess = segment_sums(codes.values[codes.feature_order], codes.feature_offsets) / counts - padded.prices
        quotas = self._quotas_at(scores.device)
        self._forecast.observe(padded.prices, quotas * tokens, padded.reaching)
        self.tracker.observe(scores, quotas, padded.prices, excess)

    def next_start(self, padded: PaddedMatches) -> Tensor | None:
        """A guess for every feature; before the switch the price of this batch."""
        return self._forecast.guess if bool(self.has_quotas) else padded.warm_start

    def _measure(self, fired: Tensor, tokens: int) -> None:
        """Take a batch before the switch into the densities."""
        if self.switch_tokens is None and not self._planned:
            self._planned = True
            warnings.warn(
                "FeatureChoice: nothing says when its quotas are fitted, and until then it is mutual choice; in a loop "
                "of your own pass switch_tokens=, the number of tokens after which to fit them (half of all, say), or "
                "switch_tokens=math.inf and call fit_quotas() yourself; st.Trainer fits them without",
                stacklevel=2,
            )
        self.density_steps.add_(1)
        self.densities.lerp_(fired.to(self.densities), max(1.0 / int(self.density_steps), DENSITY_RATE))
        self.tokens_seen.add_(tokens)
        if self.switch_tokens is not None and int(self.tokens_seen) >= self.switch_tokens:
            self.fit_quotas()

    def at_step(self, progress: Progress) -> None:
        """Fit the quotas when the share `switch` of the steps is done."""
        super().at_step(progress)
        self._planned = True
        due = progress.step >= max(1, round(self.switch * progress.steps))
        if due and self.switch_tokens is None and not bool(self.has_quotas):
            self.fit_quotas()

    def set_budget(self, k: float) -> None:
        """That of mutual choice too, which acts until the quotas are set."""
        super().set_budget(k)
        self.mutual.k = self.k

    @property
    def budget_fixed_at(self) -> float:
        """The switch: quotas have the sum k."""
        return self.switch

    def in_words(self) -> str:
        """Uniform quotas; others follow a curve, or were given."""
        return "uniform quotas" if isinstance(self.quotas, str) and self.quotas == "uniform" else ""

    def settings(self) -> dict[str, Any]:
        """The schedule of the quotas, and the curve that was fitted."""
        settings: dict[str, Any] = super().settings()
        settings["quotas"] = self.quotas if isinstance(self.quotas, str) else "given"
        settings["switch"] = self.switch
        fitted = self._fit_read
        if self.zipf is not None:
            fitted = {name: getattr(self.zipf, name) for name in ("alpha", "beta", "r_squared", "excluded")}
        return settings | ({"zipf": fitted} if fitted else {})

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> FeatureChoice:
        """Without its quotas, which are set by `set_density_targets`."""
        require_known(settings, "k", "quotas", "switch", "zipf")
        quotas = "zipf" if settings.get("quotas") in (None, "given") else settings["quotas"]
        if quotas not in ("zipf", "uniform"):
            raise InputError(f"quotas: expected zipf, uniform or given, found {quotas!r}")
        fitted = setting(settings, "zipf", TABLE, {})
        for name in fitted:
            setting(fitted, name, NUMBER, 0.0, table="zipf.")
        choice = cls(settings["k"], quotas, setting(settings, "switch", NUMBER, 0.85))
        choice._were_given = settings.get("quotas") == "given"
        choice._fit_read = dict(fitted)
        return choice

    def carried_state(self) -> dict[str, Any]:
        """The fitted curve too."""
        zipf = None
        if self.zipf is not None:
            zipf = vars(self.zipf) | {"ranks": torch.from_numpy(np.array(self.zipf.ranks))}
        return super().carried_state() | {"zipf": zipf}

    def load_carried_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `carried_state` gave."""
        super().load_carried_state(state)
        if state["zipf"] is not None:
            self.zipf = al.ZipfFit(**(state["zipf"] | {"ranks": state["zipf"]["ranks"].numpy()}))

    def density_targets(self, device: torch.device | str = "cpu") -> Tensor | None:
        """The quotas, once they are set."""
        return self._quotas_at(torch.device(device)) if bool(self.has_quotas) else None

    def set_density_targets(self, densities: Tensor) -> None:
        """As quotas; those that were given once stay given."""
        fitted = self._fit_read
        self.set_quotas(densities)
        self._fit_read = fitted
        if self._were_given:
            self.quotas = densities_of("quotas", densities)

    @property
    def has_batch_problem(self) -> bool:
        """Not with thresholds whose quotas are unknown."""
        return bool(self.has_quotas) or not self.tracker.is_set

    def set_thresholds(self, theta: Tensor) -> None:
        """One for each feature."""
        self.tracker.restart(theta)

    def _quotas_at(self, device: torch.device) -> Tensor:
        """The densities of the quotas on a device, copied there once."""
        if self._copied is None or self._copied.device != device:
            self._copied = self.quota_densities.to(device)
        return self._copied

    def fit_quotas(self) -> None:
        """Set the quotas from the densities measured so far, and freeze the ranks."""
        if self.n_features is None:
            raise InputError("fit_quotas: no batch has been seen yet; call the choice in training mode first")
        if isinstance(self.quotas, Tensor):
            return self.set_quotas(self.quotas)
        if self.quotas == "uniform":
            return self.set_quotas(torch.full((self.n_features,), self.k / self.n_features))
        if not bool(self.densities.any()):
            raise InputError("fit_quotas: no feature has fired yet; train under mutual choice before the switch")
        self.zipf = al.fit_zipf(self.densities.cpu())
        self.set_quotas(_within_one(torch.from_numpy(self.zipf.densities(self.k)), self.k))

    def set_quotas(self, quotas: ArrayLike) -> None:
        """Set the quotas to given densities: expected share of tokens of every feature, with sum k."""
        q = densities_of("quotas", quotas)
        if self.n_features is None:
            self.build(q.numel())
        if q.shape != (self.n_features,):
            raise InputError(f"quotas: expected {self.n_features} densities, found shape {tuple(q.shape)}")
        if abs(float(q.sum()) - self.k) > 1e-6 * self.k:
            raise InputError(f"quotas: densities must sum to k = {self.k}, found {float(q.sum()):.6g}")
        self.quota_densities.copy_(q)
        self.owed.zero_()
        self._fit_read = {}
        self._forecast, self._copied = PriceForecast(), None
        self.has_quotas.fill_(True)
        if self.mutual.tracker.is_set:
            # every feature starts from the common price; its own follows
            self.tracker.spread.copy_(self.mutual.tracker.spread.expand_as(self.tracker.spread))

    def _from_scratch(self, n_features: int) -> Tensor:
        if isinstance(self.quotas, Tensor):
            return self.quotas
        if self.quotas == "uniform":
            return torch.full((n_features,), self.k / n_features, dtype=torch.float64)
        return _within_one(zipf_densities(self.k, n_features), self.k)

    def batch_free(self) -> Threshold:
        """Matches above the feature's price; before the quotas are set, above the common one."""
        if self.n_features is None or not self.tracker.is_set:
            return self.mutual.batch_free()
        return Threshold(self.tracker.theta)

    def require_settled(self) -> None:
        """As of the last batches; before the quotas are set those of mutual choice."""
        if self.n_features is None or not self.tracker.is_set:
            return self.mutual.require_settled()
        require_settled(self.tracker)

    def rescale(self, factor: float) -> None:
        """Adapt thresholds to scores multiplied by `factor`."""
        self._forecast = PriceForecast()
        self.mutual.rescale(factor)
        if self.n_features is not None:
            self.tracker.rescale(factor)

    def calibrate(self, chunks: Any, tokens: int) -> None:
        """Prices of the pooled quotas; where a pooled quota is below 8, the tracked threshold stands in.

        `unmet` is what the quotas, per token, still lack where features have too few positive scores.
        """
        if self.n_features is None or not self.has_quotas:
            return self.mutual.calibrate(chunks, tokens)
        due = self.quota_densities * tokens
        quotas = al.apportion(due, self.total(tokens), most=tokens)
        for _ in range(SHARING_ROUNDS):
            counts, taken, refused = pooled_features(self.world, chunks, quotas)
            unmet = quotas - counts
            self.unmet.copy_(torch.tensor(unmet.sum() / tokens))
            if unmet.sum() <= SHARED * quotas.sum():
                break
            # a feature with too few positive scores ends at threshold 0; the others share what it leaves
            weights = np.where(unmet > 0, 0.0, quotas)
            quotas = counts + al.apportion(weights, int(unmet.sum()), most=tokens)
        # a new score exceeds the m-th of N with probability m / (N + 1), but the one after it with (m + 1) / (N + 1)
        price = torch.from_numpy(np.where(np.isfinite(taken), taken, refused))
        theta = self.tracker.theta.double().cpu()
        keep = (due < LEAST_POOLED) & ~torch.isnan(theta)
        self.tracker.restart(torch.where(keep, theta, price))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._copied = None

    def extra_repr(self) -> str:
        """What a prompt shows."""
        kind = self.quotas if isinstance(self.quotas, str) else "given"
        state = "set" if self.n_features is not None and bool(self.has_quotas) else "not set"
        return f"k={self.k}, quotas={kind} ({state}), switch={self.switch}"


def _within_one(densities: Tensor, total: float) -> Tensor:
    """Densities capped at 1, the excess shared among the others in proportion, with sum `total`."""
    if total > densities.numel():
        raise InputError(f"k: {total} features per token do not fit {densities.numel()} features")
    d = densities.double().clone()
    while bool((d > 1).any()):
        over = d >= 1
        d[over] = 1.0
        rest = d[~over]
        d[~over] = rest * ((total - float(over.sum())) / float(rest.sum()))
    return d
