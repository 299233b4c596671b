"""Trainings that one process and several do alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

import sae_torch as st
from sae_torch.autoencoder import Output

D_MODEL, FEATURES, TOKENS = 16, 61, 120
# Width of what a transcoder computes.
D_OUT = 9

CHOICES: dict[str, Callable[[], st.Choice]] = {
    "token": lambda: st.TokenChoice(4),
    "mutual": lambda: st.MutualChoice(4),
    "feature": lambda: st.FeatureChoice(4, switch=0.5),
    "uniform": lambda: st.FeatureChoice(4, quotas="uniform", switch=0),
    "floors": lambda: st.BalancedChoice(4, feature_floors=0.01),
    "caps": lambda: st.BalancedChoice(4, feature_caps=0.1),
    "two-sided": lambda: st.BalancedChoice(4, token_caps=6, feature_floors=0.01),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "k": {"auxiliary": "k", "k_start": 6.0, "k_annealing": 0.2, "dead_after": 200},
    "every": {"auxiliary_every": 7, "prefixes": (20, 61)},
}


@dataclass(frozen=True)
class Case:
    """A training: its choice and its options by name, and how it ends."""

    choice: str
    steps: int = 6
    options: str = "plain"
    dtype: torch.dtype = torch.float32
    score_dtype: Any = None
    feature_chunk: int | None = None
    features: int = 1
    """Ranks along "features"; the others are along "data"."""
    pairs: bool = False
    """Whether a transcoder with a skip connection is trained."""


@dataclass(frozen=True)
class Result:
    """What a rank has at the end; matches are those of step 1, tokens and features numbered in the whole."""

    matches: list[tuple[int, int]]
    log: st.TrainLog
    state: dict[str, Tensor]
    x_hat: Tensor
    """Of the first batch, in eval mode."""


def share(rank: int, count: int) -> slice:
    """Uneven shares of the tokens of a batch."""
    ends = [round(TOKENS * (part / count) ** 1.3) for part in range(count + 1)]
    return slice(ends[rank], ends[rank + 1])


def batches(steps: int, dtype: torch.dtype) -> list[Tensor]:
    """Activations that features with frequencies of their own make."""
    draw = torch.Generator().manual_seed(5)
    true = torch.randn(40, D_MODEL, generator=draw)
    often = torch.linspace(0.02, 0.3, 40)
    made = []
    for _ in range(steps):
        active = (torch.rand(TOKENS, 40, generator=draw) < often) * torch.rand(TOKENS, 40, generator=draw)
        made.append((active @ true * 5 + 0.1 * torch.randn(TOKENS, D_MODEL, generator=draw) + 1).to(dtype))
    return made


def train(rank: int, count: int, case: Case) -> Result:
    """Train as one of so many processes."""
    data, along = count // case.features, case.features
    mesh = st.parallel.mesh(data, along) if count > 1 else None
    given: dict[str, Any] = {"dtype": case.dtype, "score_dtype": case.score_dtype, "feature_chunk": case.feature_chunk}
    sae: Any
    if case.pairs:
        sae = st.Transcoder(D_MODEL, D_OUT, FEATURES, CHOICES[case.choice](), skip=True, mesh=mesh, **given)
    else:
        sae = st.SparseAutoencoder(D_MODEL, FEATURES, CHOICES[case.choice](), mesh=mesh, **given)
    own = share(rank // along, data)
    first = sae.world.cut(FEATURES).start
    matches: list[tuple[int, int]] = []

    def keep(module: Any, inputs: Any, out: Output) -> None:
        if not matches:
            tokens, features = out.codes.tokens + own.start, out.codes.features + first
            matches.extend(zip(tokens.tolist(), features.tolist(), strict=True))

    sae.register_forward_hook(keep)
    config = st.TrainConfig(progress=False, **OPTIONS[case.options])
    read = [x[own] for x in batches(case.steps, case.dtype)]
    log = st.Trainer(sae, config).fit([(x, computed(x)) for x in read] if case.pairs else read)
    state = {name: whole(value) for name, value in sae.state_dict().items()}
    return Result(matches, log, state, sae.eval()(read[0]).x_hat.detach())


def computed(x: Tensor) -> Tensor:
    """What a random layer makes of inputs."""
    into = torch.randn(D_MODEL, D_OUT, generator=torch.Generator().manual_seed(6)).to(x.dtype)
    return torch.relu(x @ into) + 1.0


def whole(weight: Tensor) -> Tensor:
    """A weight as one process holds it."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def compare(case: Case, parts: list[Result], losses: float = 1e-5, weights: float = 1e-4) -> dict[str, float]:
    """The same matches as in one process, and losses and weights as near as said; every rank has the same."""
    one, several_prices = train(0, 1, replace(case, features=1)), case.choice == "two-sided"
    assert sorted(match for part in parts for match in part.matches) == sorted(one.matches)
    for part in parts:
        assert vars(part.log) == vars(parts[0].log)
        for name, value in part.state.items():
            assert value.numpy().tobytes() == parts[0].state[name].numpy().tobytes(), name
    # a threshold that differs in its last bits may decide otherwise about a token
    apart = torch.cat([part.x_hat for part in parts[:: case.features]]) - one.x_hat
    assert float((apart.abs().amax(dim=1) < 1e-3).double().mean()) > (0.5 if several_prices else 0.97)
    log, state = parts[0].log, parts[0].state
    assert log.tokens == one.log.tokens
    far = {}
    for name in ("loss", "reconstruction", "auxiliary", "l0"):
        here, other = np.array(getattr(log, name)), np.array(getattr(one.log, name))
        far[name] = float(np.max(np.abs(here - other) / np.maximum(np.abs(other), 1.0)))
        assert far[name] <= losses, (name, far[name])
    for name, value in one.state.items():
        difference = (state[name].double() - value.double()).nan_to_num(nan=0.0)
        assert torch.equal(state[name].isnan(), value.isnan()), name
        far[name] = float(difference.abs().max())
        if several_prices and "tracker" in name:
            continue  # of several optimal prices another may be found
        assert far[name] <= weights, (name, far[name])
    return far
