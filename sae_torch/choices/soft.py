"""The soft twin as a layer: shares between 0 and 1, differentiable through the prices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import allocation as al
from sae_torch.choices.choice import PER_TOKEN, SOLVER, as_matrix, require_matrix
from sae_torch.choices.densities import densities_of
from sae_torch.errors import InputError
from sae_torch.ops.compiling import no_compile
from sae_torch.plain_numbers import positive, whole


class SoftChoice(nn.Module):
    """Shares of every token-feature match, smooth in the scores; the limits hold in the mean, not match by match.

    ::

        A_ij = sigmoid((S_ij - lam - mu_i - nu_j) / temperature)   with sum_ij A_ij <= k * tokens,
            sum_j A_ij <= token_caps,   sum_i A_ij <= feature_caps * tokens

    The backward differentiates the prices too, implicitly: a score that rises takes share from its competitors. With
    ``straight_through=True`` the forward is the exact 0/1 allocation and the backward that of the shares.

    Parameters
    ----------
    k : float or None
        Mean number of features per token; None for no budget.
    temperature : float
        In units of the scores.
    token_caps : int, optional
        Most features of a token.
    feature_caps : float or (features,) densities, optional
        Largest share of the tokens of every feature.
    form : {"entropy", "clipped"}
        Sigmoid shares, or ones that reach 0 and 1.
    straight_through : bool
        Exact matches forward, soft gradient backward.

    Source: this project; the mathematics is that of `allocation.soft_solve`, in float64 on the CPU.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> scores = torch.tensor([[3.0, 1.0], [2.0, 1.5]], requires_grad=True)
    >>> shares = st.SoftChoice(k=1, temperature=0.5)(scores)
    >>> round(float(shares.detach().sum()), 3)
    2.0
    >>> st.SoftChoice(k=1, temperature=0.5, straight_through=True)(scores).tolist()
    [[1.0, 0.0], [1.0, 0.0]]
    """

    def __init__(
        self,
        k: float | None,
        temperature: float,
        token_caps: int | None = None,
        feature_caps: ArrayLike | None = None,
        form: str = "entropy",
        straight_through: bool = False,
    ) -> None:
        super().__init__()
        if k is None and token_caps is None and feature_caps is None:
            raise InputError("SoftChoice: expected at least one of k, token_caps and feature_caps, found none")
        if form not in ("entropy", "clipped"):
            raise InputError(f'form: expected "entropy" or "clipped", found {form!r}')
        self.k = None if k is None else positive("k", k, PER_TOKEN)
        self.temperature = positive("temperature", temperature)
        what = "a whole number of features per token"
        self.token_caps = None if token_caps is None else whole("token_caps", token_caps, 0, what)
        self.form = form
        self.straight_through = straight_through
        self.feature_caps = None if feature_caps is None else densities_of("feature_caps", feature_caps)

    @no_compile
    def forward(self, scores: Tensor) -> Tensor:
        """Shares of the scores' shape, (tokens, features) or with more axes of tokens, in their own type."""
        matrix, _ = as_matrix(scores)
        require_matrix(matrix)
        shares: Tensor = _Shares.apply(matrix, self.problem(matrix.detach()), self)  # type: ignore[no-untyped-call]
        return shares.view(scores.shape)

    def problem(self, scores: Tensor) -> al.Problem:
        """The batch's limits in whole matches."""
        tokens = scores.shape[0]
        caps = None
        if self.feature_caps is not None:
            caps = np.rint(self.feature_caps.expand(scores.shape[1]).cpu().numpy() * tokens).astype(np.int64)
        budget = None if self.k is None else round(self.k * tokens)
        return al.balanced_choice(scores, budget=budget, token_caps=self.token_caps, feature_caps=caps)

    def extra_repr(self) -> str:
        """What a prompt shows."""
        return f"k={self.k}, temperature={self.temperature}, form={self.form}, straight_through={self.straight_through}"


class _Shares(Function):
    """Forward and backward of the soft problem, by `allocation.soft_solve`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, problem: al.Problem, choice: SoftChoice) -> Tensor:
        ctx.soft = al.soft_solve(problem, choice.temperature, choice.form)
        if choice.straight_through:
            return torch.from_numpy(al.solve(problem.on_host(), SOLVER).mask()).to(scores)
        return torch.from_numpy(ctx.soft.allocation).to(scores)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        gradient = ctx.soft.vjp(upstream.double().cpu().numpy())
        return torch.from_numpy(gradient).to(upstream), None, None
