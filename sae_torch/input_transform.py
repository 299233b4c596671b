"""What is done to every token's activations before an autoencoder reads them, and undone to its reconstruction.

A fixed factor is none: it folds into the weights (`InferenceForm.for_scaled_inputs`). These depend on the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor


class InputTransform:
    """A change of units that each token makes of its own activations.

    ::

        t = (x - shift(x)) / divisor(x),   x_hat = t_hat * spread(x) + shift(x)

    An autoencoder with one encodes `t`: activations, scores and thresholds are in its units. Reconstructions are in
    those of `x`, so that ``decode`` needs the inputs too.

    Attributes
    ----------
    name : str
        As ``normalize_activations`` of SAELens folders calls it.
    """

    name: ClassVar[str]

    def __call__(self, x: Tensor) -> Tensor:
        """What the encoder reads of (tokens, d_model) activations."""
        raise NotImplementedError

    def scaled_back(self, t: Tensor, x: Tensor) -> Tensor:
        """A difference of reconstructions, such as what one feature adds, in units of the inputs `x`."""
        raise NotImplementedError

    def back(self, t: Tensor, x: Tensor) -> Tensor:
        """A (tokens, d_model) reconstruction in units of the inputs `x`."""
        raise NotImplementedError


@dataclass(frozen=True)
class LayerNorm(InputTransform):
    """Mean 0 and standard deviation 1, as OpenAI's autoencoders and SAELens' ``layer_norm`` have it.

    ::

        t = (x - mean) / (std + eps),   x_hat = t_hat * std + mean,   std with d_model - 1 in the denominator

    Going back leaves `eps` out, as both do.

    Parameters
    ----------
    eps : float

    Examples
    --------
    >>> import torch
    >>> from sae_torch.input_transform import LayerNorm
    >>> LayerNorm()(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=3).tolist()
    [[-1.0, 0.0, 1.0]]
    """

    eps: float = 1e-5
    name: ClassVar[str] = "layer_norm"

    def __call__(self, x: Tensor) -> Tensor:
        """Each token's activations, normalised."""
        centred = x - x.mean(dim=-1, keepdim=True)
        normed: Tensor = centred / (centred.std(dim=-1, keepdim=True) + self.eps)
        return normed

    def scaled_back(self, t: Tensor, x: Tensor) -> Tensor:
        """Times the token's standard deviation."""
        return t * (x - x.mean(dim=-1, keepdim=True)).std(dim=-1, keepdim=True)

    def back(self, t: Tensor, x: Tensor) -> Tensor:
        """Times the token's standard deviation, with its mean."""
        return self.scaled_back(t, x) + x.mean(dim=-1, keepdim=True)


@dataclass(frozen=True)
class ConstantNorm(InputTransform):
    """Norm sqrt(d_model) for every token, as SAELens' ``constant_norm_rescale`` has it.

    ::

        t = x sqrt(d_model) / ||x||,   x_hat = t_hat ||x|| / sqrt(d_model)

    A token of norm 0 stays as it is, where SAELens makes NaN of it.

    Examples
    --------
    >>> import torch
    >>> from sae_torch.input_transform import ConstantNorm
    >>> ConstantNorm()(torch.tensor([[3.0, 0.0, 4.0, 0.0]])).round(decimals=3).tolist()
    [[1.2000000476837158, 0.0, 1.600000023841858, 0.0]]
    """

    name: ClassVar[str] = "constant_norm_rescale"

    def __call__(self, x: Tensor) -> Tensor:
        """Each token's activations, rescaled."""
        return x * self._factor(x)

    def scaled_back(self, t: Tensor, x: Tensor) -> Tensor:
        """Over the token's factor."""
        return t / self._factor(x)

    def back(self, t: Tensor, x: Tensor) -> Tensor:
        """Over the token's factor."""
        return self.scaled_back(t, x)

    def _factor(self, x: Tensor) -> Tensor:
        import torch  # here, so that files which name a transform are described without it

        norm = x.norm(dim=-1, keepdim=True)
        factor: Tensor = x.shape[-1] ** 0.5 / norm.clamp_min(torch.finfo(x.dtype).tiny)
        return torch.where(norm > 0, factor, torch.ones_like(factor))


TRANSFORMS: dict[str, InputTransform] = {each.name: each for each in (LayerNorm(), ConstantNorm())}
