"""The methods that are compared: ours by their choice, peers by the library that trains them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from numpy.typing import ArrayLike

import sae_torch as st
from sae_torch.choices.choice import Progress

# Floors and caps of balanced choice, as multiples of the mean density k / n_features.
FLOOR, LARGER_FLOOR, CAP = 1 / 8, 1 / 4, 8.0
# The share of the steps after which floors are let go.
FLOORS_UNTIL = 0.8
# The last share of the steps, in which the learning rate falls to zero: everyone's, and that of a longer decay.
DECAY, LONGER_DECAY = 0.2, 0.4

# What is changed about a training, and the density from which a feature counts as dense.
ALIGNED, WHITENED, SIGNED, PENALISED, DENSE = "aligned", "whitened", "signed", "penalised", 0.1


@dataclass(frozen=True)
class Method:
    """One method.

    Parameters
    ----------
    name
        As in records and tables.
    choice
        Makes the choice for k and n_features; for a peer, the one that is its activation in batch-free mode.
    peer
        The library that trains it; None for ours.
    tokens
        What it trains on, in multiples of the study's training tokens.
    variant
        What is changed about the training, of `long.variants`.
    decay
        The last share of the steps, in which the learning rate falls.
    rates_of
        The method whose learning rate it takes; None searches its own.
    """

    name: str
    choice: Callable[[int, int], st.Choice]
    peer: str | None = None
    tokens: float = 1.0
    variant: str | None = None
    decay: float = DECAY
    rates_of: str | None = None

    def width(self, n_features: int) -> int:
        """Directions that so many features have."""
        return 2 * n_features if self.variant == SIGNED else n_features


class LetGo(st.BalancedChoice):
    """Floors up to a share of the steps, and then a budget alone; what was tried is here, since it lost."""

    until: float

    def at_step(self, progress: Progress) -> None:
        """Let go of the floors when it is time."""
        super().at_step(progress)
        if progress.step >= self.until * progress.steps:
            self.feature_floors = None

    @classmethod
    def after(cls, until: float, k: float, feature_floors: ArrayLike) -> LetGo:
        """Floors until this share of the steps."""
        choice = cls(k, feature_floors=feature_floors, floors_in_eval=False)
        choice.until = until
        return choice


def _floors(k: int, n_features: int, floor: float = FLOOR, caps: bool = False) -> st.Choice:
    mean = k / n_features
    return st.BalancedChoice(k, feature_floors=floor * mean, feature_caps=min(1.0, CAP * mean) if caps else None)


FLOORS, LARGER_FLOORS, LET_GO = "floors", "larger floors", "larger floors, let go"
SPARSIFY, BATCH_TOP_K = "sparsify TopK", "dictionary_learning BatchTopK"
TOKEN, MUTUAL, MUTUAL_THEN_FEATURE = "token choice", "mutual choice", "mutual then feature"
LONGER_TOKEN, LONGER_MUTUAL = "token choice, a quarter longer", "mutual choice, a quarter longer"
METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method(FLOORS, _floors),
        Method(LARGER_FLOORS, lambda k, n: _floors(k, n, LARGER_FLOOR)),
        Method(LET_GO, lambda k, n: LetGo.after(FLOORS_UNTIL, k, LARGER_FLOOR * k / n)),
        Method(BATCH_TOP_K, lambda k, n: st.MutualChoice(k), peer="dictionary_learning"),
        Method(SPARSIFY, lambda k, n: st.TokenChoice(k), peer="sparsify"),
        Method(MUTUAL, lambda k, n: st.MutualChoice(k)),
        Method(TOKEN, lambda k, n: st.TokenChoice(k)),
        Method(MUTUAL_THEN_FEATURE, lambda k, n: st.FeatureChoice(k, switch=0.85)),
        Method("floors and caps", lambda k, n: _floors(k, n, caps=True)),
        Method("feature choice, Zipf", lambda k, n: st.FeatureChoice(k, switch=0.5)),
        Method("feature choice, uniform", lambda k, n: st.FeatureChoice(k, quotas="uniform", switch=0)),
        Method("feature from scratch", lambda k, n: st.FeatureChoice(k, switch=0)),
        Method(LONGER_TOKEN, lambda k, n: st.TokenChoice(k), tokens=1.25),
        Method(LONGER_MUTUAL, lambda k, n: st.MutualChoice(k), tokens=1.25),
    )
}
# Run at more tokens only.
VARIANTS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("token choice, aligned", lambda k, n: st.TokenChoice(k), variant=ALIGNED),
        Method("mutual choice, aligned", lambda k, n: st.MutualChoice(k), variant=ALIGNED),
        Method("larger floors, aligned", lambda k, n: _floors(k, n, LARGER_FLOOR), variant=ALIGNED),
        Method("mutual choice, whitened", lambda k, n: st.MutualChoice(k), variant=WHITENED),
        Method("larger floors, whitened", lambda k, n: _floors(k, n, LARGER_FLOOR), variant=WHITENED),
        Method("mutual choice, signed", lambda k, n: st.MutualChoice(k), variant=SIGNED),
        Method("mutual choice, dense ones penalised", lambda k, n: st.MutualChoice(k), variant=PENALISED),
        Method("mutual choice, dense ones capped", lambda k, n: st.BalancedChoice(k, feature_caps=DENSE)),
    )
}
# The same methods with another schedule, run at more tokens only.
DECAYED: Mapping[str, Method] = {
    f"{name}, longer decay": replace(METHODS[name], name=f"{name}, longer decay", decay=LONGER_DECAY, rates_of=name)
    for name in (BATCH_TOP_K, LARGER_FLOORS, MUTUAL)  # the longest run first
}
BATCH_TOP_K_DECAYED, FLOORS_DECAYED, MUTUAL_DECAYED = DECAYED
LONGER = tuple(name for name, method in METHODS.items() if method.tokens > 1)
PEERS = tuple(name for name, method in METHODS.items() if method.peer)
OURS = tuple(name for name, method in METHODS.items() if not method.peer)


def method_of(name: str) -> Method:
    """A method by its name."""
    return next(group[name] for group in (METHODS, VARIANTS, DECAYED) if name in group)


WHAT: Mapping[str, str] = {
    FLOORS: "balanced choice: a budget for the batch, and every feature at least an eighth of the mean density",
    LARGER_FLOORS: "the same with a quarter; added when an eighth had left features dead on the test split",
    LET_GO: "the same until 80 % of the steps, then a budget alone and one threshold for all features; added when one "
    "threshold had done better on the test split of all tokens",
    BATCH_TOP_K: "its `BatchTopKTrainer`; batch-free by its own threshold",
    SPARSIFY: "its `SparseCoder` with Adam",
    MUTUAL: "a budget for the batch; the operator of BatchTopK in our trainer",
    TOKEN: "k features per token; the operator of TopK in our trainer",
    MUTUAL_THEN_FEATURE: "Zipf quotas fitted after 85 % of the steps: the schedule of `FeatureChoice`",
    "floors and caps": "as floors, and every feature at most eight times the mean density",
    "feature choice, Zipf": "Zipf quotas fitted after half of the steps",
    "feature choice, uniform": "equal quotas from the first step",
    "feature from scratch": "the default Zipf curve from the first step, ranks by index",
    LONGER_TOKEN: "token choice with a quarter more training tokens, for a comparison at equal time",
    LONGER_MUTUAL: "mutual choice with a quarter more training tokens",
}
