"""Thresholds without the batch: a token's features must not depend on the other tokens it is served with.

Here are the forms of a choice at inference, `Threshold` and `TokenLimits`, and `FrequencyTracker`, which learns their
thresholds in training.

A batch's price is an order statistic and, averaged, under-fires for rare features. So frequencies are tracked: a
threshold rises while its feature fires more often than it should, and falls while it fires less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import allocation as al
from sae_torch.choices.statistics import Statistics
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.matches import matches_of
from sae_torch.ops.counting import count_above
from sae_torch.ops.rounding import rounded_down
from sae_torch.score_blocks import Scores

# Steps are damped until about this many matches of a feature have been seen.
DAMPING = 10.0
# How far thresholds may miss in the last batches before eval mode refuses them, beside what chance explains.
MISSED, DEVIATIONS = 0.03, 4.0
# Weight that the batches before keep, batch by batch.
KEPT = 0.7
# Scores whose count above a threshold that all share says enough.
COUNTED = 1 << 22


class BatchFree(Statistics):
    """What a choice is at inference: it decides about one token at a time.

    Attributes
    ----------
    has_token_limits : bool
        Whether a match depends on the token's other matches; if not, thresholds say everything.
    theta : Tensor
        Thresholds in units of the scores, one or (features,).
    """

    theta: Tensor
    has_token_limits: bool = True

    def select(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Tokens and features of the matches, sorted."""
        raise NotImplementedError


class Threshold(BatchFree):
    """A match where a score exceeds its feature's threshold: JumpReLU, independent of the batch.

    ::

        A_ij = 1  iff  S_ij > theta_j   (strictly)

    Parameters
    ----------
    theta : float or (features,) tensor
        In units of the scores.

    Source: Rajamanoharan et al. 2024, arXiv 2407.14435.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> st.Threshold(1.0)(torch.tensor([[0.5, 2.0], [3.0, 1.0]])).features.tolist()
    [1, 0]
    """

    has_token_limits = False

    def __init__(self, theta: float | Tensor) -> None:
        super().__init__()
        try:
            values = torch.as_tensor(theta, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"theta: expected a number, or one for each feature, found {theta!r}") from None
        self.register_buffer("theta", values.detach().clone())

    def select(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Tokens and features of the matches, sorted."""
        if not isinstance(scores, Tensor):
            return scores.above(rounded_down(self.world.mine(self.theta).to(scores.device), scores.dtype))
        tokens, features = self.mask(scores).nonzero(as_tuple=True)
        return tokens, features

    def forward(self, scores: Tensor) -> SparseCodes:
        """The codes of a (tokens, features) matrix of scores, or of scores with more axes of tokens."""
        axes = tuple(scores.shape[:-1]) if scores.ndim > 2 else None
        scores = scores if axes is None else scores.reshape(-1, scores.shape[-1])
        tokens, features = self.select(scores)
        shape = scores.shape[0], scores.shape[1]
        return SparseCodes(tokens, features, scores[tokens, features], shape, axes=axes)

    def mask(self, scores: Tensor) -> Tensor:
        """The matches as a dense boolean matrix."""
        return scores.detach() > rounded_down(self.world.mine(self.theta).to(scores.device), scores.dtype)


class TokenLimits(BatchFree):
    """Thresholds per feature with a cap and a floor for the token: balanced choice for one token at a time.

    ::

        maximise sum_j (S_ij - theta_j) A_ij   subject to   floor <= sum_j A_ij <= cap,   A_ij = 0 where S_ij <= 0

    A floor is met as far as a token has positive scores.

    Parameters
    ----------
    theta : (features,) tensor
        In units of the scores.
    cap, floor : int, optional
    """

    def __init__(self, theta: Tensor, cap: int | None, floor: int | None) -> None:
        super().__init__()
        self.register_buffer("theta", theta.detach().clone())
        self.cap, self.floor = cap, floor

    def select(self, scores: Scores) -> tuple[Tensor, Tensor]:
        """Tokens and features of the matches, sorted."""
        assert isinstance(scores, Tensor), "the autoencoder has others for choices on one side alone"
        scores = scores.detach()
        theta, world = self.world.mine(self.theta), self.world
        profit = torch.where(scores > 0, scores.float() - theta.to(scores.device), -torch.inf)
        floors = None
        if self.floor:
            floors = world.sum((scores > 0).sum(dim=1)).clamp_max(self.floor)
        cap = world.width(profit.shape[1]) if self.cap is None else self.cap
        problem = al.Problem(profit, token_caps=cap, token_floors=floors, part=world.part(profit.shape))
        return matches_of(al.solve(problem, ranks=world.ranks))


class FrequencyTracker(Statistics):
    """Thresholds that make features fire at given frequencies.

    ::

        theta_j <- max(0, theta_j + c_tj * spread_j * (n_j - e_j) / e_j),   e_j = max(N p_j, 1/1000),
        c_tj = max(1 / (t + 10 / e_j), min(e_j / 50, 1/20))

    with `n_j` the number of the batch's N tokens whose score exceeds theta_j, `e_j` the number that the target `p_j`
    asks for, and `spread_j` the running mean excess of selected scores over the batch's price. The damping `10 / e_j`
    keeps one lucky match of a rare feature from moving its threshold by more than a tenth of its spread; `c` has a
    floor, so that drift is followed. For a common threshold N is the number of scores, of evenly spread tokens where
    they are many.

    Buffers: `theta`, `spread` (features,) or scalars; `steps`; and `recent`, which no state dict has: matches of the
    last batches that the thresholds gave, and those that were due.
    """

    theta: Tensor
    spread: Tensor
    steps: Tensor
    recent: Tensor

    def __init__(self, size: int | None) -> None:
        super().__init__()
        shape = () if size is None else (size,)
        self.register_buffer("theta", torch.full(shape, torch.nan, dtype=torch.float32))
        self.register_buffer("spread", torch.zeros(shape, dtype=torch.float32))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("recent", torch.zeros(2, dtype=torch.float32), persistent=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if "recent" not in self._buffers:  # pickles of earlier versions
            self.register_buffer("recent", self.theta.new_zeros(2), persistent=False)

    @property
    def is_set(self) -> bool:
        """Whether thresholds have been measured."""
        return not bool(torch.isnan(self.theta).any())

    @torch.no_grad()
    def observe(
        self,
        scores: Scores,
        target: Tensor,
        price: Tensor,
        excess: Tensor,
        above: Tensor | None = None,
    ) -> None:
        """One step. Scores and `above` are this process's, all else is of the whole batch.

        Parameters
        ----------
        scores : (tokens, features)
        target : share of the batch that should exceed the threshold; for a scalar threshold, of all entries
        price : the batch's exact price, from which an unset threshold starts
        excess : mean of (selected score - price); NaN where nothing was selected
        above : how often each feature fires at the current thresholds, where that is not how many scores exceed them
        """
        tokens, features = self.world.total(scores.shape[0]), self.world.width(scores.shape[1])
        if not self.theta.ndim:  # evenly spread rows measure one common threshold well enough
            step = max(1, tokens * features // COUNTED)
            scores, tokens = scores[self.world.every(scores.shape[0], step)], -(-tokens // step)
        count = tokens if self.theta.ndim else tokens * features
        if count == 0:
            return
        here = self.theta.device
        target, price, excess = target.to(here), price.to(here), excess.to(here)
        self.theta.copy_(torch.where(torch.isnan(self.theta), price.to(self.theta), self.theta))
        seen = torch.isfinite(excess)
        rate = torch.where(self.spread > 0, 0.05, 1.0)
        self.spread.copy_(torch.where(seen, torch.lerp(self.spread, excess.to(self.spread), rate), self.spread))
        if above is None:
            above = count_above(scores, self.world.mine(self.theta).to(scores.device))
        above = self.world.of_features(above) if self.theta.ndim else self.world.sum(above)
        expected = (target * count).to(self.theta)
        expected = expected.clamp(min=1e-3)
        damping = DAMPING / expected
        self.recent.mul_(KEPT).add_(torch.stack([above.sum().to(expected), expected.sum()]))
        gain = torch.maximum(1.0 / (self.steps + 1.0 + damping), (0.02 * expected).clamp(max=0.05))
        error = (above.to(here) - expected) / expected
        self.theta.add_(gain * self.spread * error).clamp_(min=0.0)
        self.steps.add_(1)

    def restart(self, theta: Tensor) -> None:
        """Begin again from known thresholds."""
        self.theta.copy_(theta.to(self.theta))
        self.steps.zero_()
        self.recent.zero_()

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """The same thresholds for scores multiplied by `factor`."""
        self.theta.mul_(factor)
        self.spread.mul_(factor)


def require_thresholds(tracker: FrequencyTracker) -> None:
    """Eval mode needs thresholds that training or calibration measured."""
    if not tracker.is_set:
        raise InputError(
            "this choice has no thresholds for eval mode yet: train it, or call st.calibrate(sae, batches) first"
        )


def require_settled(tracker: FrequencyTracker) -> None:
    """While weights still move, thresholds lag behind, and nothing but the number of features would show it.

    Raises
    ------
    InputError
        If those of the last batches missed what was due by more than 3 % and chance.
    """
    given, due = tracker.recent.tolist()
    if abs(given - due) > MISSED * due + DEVIATIONS * due**0.5:
        raise InputError(
            f"this choice's thresholds are not settled, they gave {given / due:.0%} of the matches due in the last "
            "batches: call st.calibrate(sae, batches) first, or train on"
        )
