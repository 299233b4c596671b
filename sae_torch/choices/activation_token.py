"""Token choice by activations alone, as files of a TopK have it that was trained without decoder norms."""

from __future__ import annotations

import torch
from torch import Tensor

import allocation as al
from sae_torch.choices.choice import Choice, require_matrix
from sae_torch.errors import InputError
from sae_torch.matches import matches_of
from sae_torch.ops.compiling import no_compile
from sae_torch.score_blocks import Scores


class ActivationTokenChoice(Choice):
    """Each token takes its k largest activations, whatever the norms of their decoder rows.

    ::

        maximise sum_ij (S_ij / n_j) A_ij   subject to   sum_j A_ij <= k for every token i,   S_ij / n_j the activation

    Scores here count decoder norms, as what a feature adds does. A TopK autoencoder that was trained without them ranks
    otherwise where its rows differ in norm, so that what was published is evaluated as it is. It is not trained.

    Parameters
    ----------
    k : int
        Features per token.

    Attributes
    ----------
    norms : (features,) buffer
        Of the decoder rows; ones before `set_norms`.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.choices.activation_token import ActivationTokenChoice
    >>> choice = ActivationTokenChoice(k=1).eval()
    >>> choice.set_norms(torch.tensor([4.0, 1.0]))
    >>> choice.mask(torch.tensor([[4.0, 2.0]])).tolist()
    [[False, True]]
    """

    norms: Tensor
    supports_parts = True

    @property
    def token_k(self) -> int:
        """K."""
        return int(self.k)

    def make_buffers(self, n_features: int) -> None:
        """Norms of 1, so that it is token choice until they are set."""
        self.register_buffer("norms", torch.ones(n_features))

    def set_norms(self, norms: Tensor) -> None:
        """Take up the norms of decoder rows, (features,)."""
        self.build(norms.numel())
        self.norms.copy_(norms)

    @no_compile
    def select(self, scores: Scores, observe: bool = False) -> tuple[Tensor, Tensor]:
        """In eval mode only."""
        require_matrix(scores)
        if self.training and observe:
            raise InputError(
                "choice: expected one that trains, found ActivationTokenChoice, which a file of a TopK without decoder "
                "norms was given; evaluate it, or set sae.choice to st.TokenChoice(k) and train that"
            )
        world = self.world.own
        self.build(world.width(scores.shape[1]))
        problem = self.problem(torch.as_tensor(scores).detach(), part=world.part(scores.shape))
        return matches_of(al.solve(problem, ranks=world.ranks))

    def problem(self, scores: Tensor, advance: bool = False, part: al.Part | None = None) -> al.Problem:
        """The k largest activations of every token; values of a solution are activations, not scores."""
        norms = self.world.mine(self.norms)
        activations = scores / norms.clamp_min(torch.finfo(norms.dtype).tiny)
        return al.Problem(activations.to(scores.dtype), token_caps=self.token_k, part=part)

    def batch_free(self) -> Choice:
        """It needs no threshold."""
        return self
