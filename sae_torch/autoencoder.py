"""The sparse autoencoder: activations as sparse codes of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sae_torch.choices.choice import Choice
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.input_transform import InputTransform
from sae_torch.ops.compiling import no_compile
from sae_torch.plain_numbers import whole_sizes
from sae_torch.sparse_coder import Batch, Output, SparseCoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["ENCODER_SCALE", "Output", "SparseAutoencoder"]

# Random decoder rows that are matched for their large scores overlap: their sum, read with the decoder's transpose,
# overshoots. Measured by `benchmarks/training_choices.py`.
ENCODER_SCALE = 0.25


class SparseAutoencoder(SparseCoder):
    """Reconstructs activations from a few features per token.

    ::

        z = (x - b_dec) W_enc + b_enc,   A = choice(z ||W_dec||),   x_hat_i = sum_(j: A_ij = 1) z_ij W_dec_j + b_dec

    In training mode `choice` allocates the batch, in eval mode it decides token by token. With ``score_dtype="auto"``
    scores have one value, whatever computes them:

    ::

        S_ij = fl( fl( fl(x_i - b_dec) . W_enc_(:, j) + b_enc_j ) n_j ),   fl the nearest float32, n_j = ||W_dec_j||

    Parameters
    ----------
    d_model, n_features : int
    choice : Choice
        ``TokenChoice``, ``MutualChoice``, ``FeatureChoice`` or one of your own.
    dtype, device : optional
        float32 on the CPU by default.
    seed : int
        Of the random decoder directions.
    score_dtype : "auto", torch.dtype or None
        Type of the encoder's dense product. None, the default, takes the product in `dtype` as it comes, in whatever
        order a BLAS adds it up. ``"auto"`` takes bfloat16 where the CPU multiplies it faster, else float32. On a CPU,
        with weights in float32, its error is then bounded and decides nothing: what the bound leaves in question is
        computed exactly, so that matches, values and thresholds are those of the rounded score above: the same bits
        from either product, with any BLAS and any number of threads. Choices of your own, balanced choice with limits
        of tokens, other types of weights, and GPUs take the product as it comes. There, in training mode, a type given
        here allocates the batch on rounded scores; values, gradients and thresholds stay in `dtype`.

    feature_chunk : int, optional
        Encode and select this many features at a time, for dictionaries whose (tokens, features) matrix does not fit:
        no more than a (tokens, feature_chunk) block exists at once. The same matches, values and gradients; what reads
        all scores, statistics and the auxiliary loss, computes them again. Not for `BalancedChoice`.

    encoder_scale : float
        The encoder starts as the decoder's transpose times this.
    mesh : torch.distributed.DeviceMesh, optional
        Of `st.parallel.mesh`. Along "data" every process passes tokens of its own, in training mode those of all are
        one batch. Along "features" each holds a slice of the features and their weights (`DTensor`), and passes the
        same tokens as the others; codes are those of its slice, reconstructions are whole.

    input_transform : InputTransform, optional
        Done to each token's activations before they are encoded and undone to its reconstruction, as some published
        autoencoders have it: `LayerNorm` or `ConstantNorm` of `sae_torch.input_transform`. Activations and thresholds
        are then in its units, reconstructions in those of `x`. Not trained.

    Attributes
    ----------
    encoder : (n_features, d_model) parameter
        One feature a row, as its gradient is made and as sharding and safetensors ask for it.
    W_enc : (d_model, n_features) tensor
        The same memory, transposed; its gradient is ``encoder.grad.T``.
    b_enc : (n_features,) parameter
    W_dec : (n_features, d_model) parameter
        A row is a feature's direction.
    b_dec : (d_model,) parameter

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> sae = st.SparseAutoencoder(d_model=16, n_features=64, choice=st.TokenChoice(k=4))
    >>> out = sae(torch.randn(10, 16))
    >>> out.x_hat.shape, len(out.codes) <= 40
    (torch.Size([10, 16]), True)
    """

    def __init__(
        self,
        d_model: int,
        n_features: int,
        choice: Choice,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        seed: int = 0,
        score_dtype: torch.dtype | Literal["auto"] | None = None,
        encoder_scale: float = ENCODER_SCALE,
        feature_chunk: int | None = None,
        mesh: DeviceMesh | None = None,
        input_transform: InputTransform | None = None,
    ) -> None:
        d_model, n_features = whole_sizes(d_model=d_model, n_features=n_features)
        super().__init__(
            d_model, d_model, n_features, choice, dtype, device, seed, score_dtype, encoder_scale, feature_chunk, mesh
        )
        if not (input_transform is None or isinstance(input_transform, InputTransform)):
            raise InputError(
                "input_transform: expected one of sae_torch.input_transform, such as LayerNorm(), found "
                f"{input_transform!r}"
            )
        self.input_transform = input_transform

    def _drawn_encoder(self, directions: Tensor, n_features: int, d_in: int, generator: torch.Generator) -> Tensor:
        return self.encoder_scale * directions

    def read(self, x: Tensor) -> Tensor:
        """The activations, transformed if there is a transform."""
        return x if self.input_transform is None else self.input_transform(x)

    def encoder_input(self, x: Tensor) -> Tensor:
        """The activations that are read, without the decoder's bias."""
        return self.read(x) - self._here.b_dec

    @no_compile
    def decode(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """The (tokens, d_model) reconstruction of sparse codes; with an input transform that of the inputs `x`.

        Raises
        ------
        InputError
            If there is an input transform, and `x` is not given.
        """
        y = super().decode(codes, x)
        if self.input_transform is None:
            return y
        return self.input_transform.back(y, self._given(x))

    def added(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """As `contribution`, in units of the activations: with an input transform that of the inputs `x`."""
        y = self.contribution(codes)
        return y if self.input_transform is None else self.input_transform.scaled_back(y, self._given(x))

    def _given(self, x: Tensor | None) -> Tensor:
        if x is None:
            raise InputError(f"x: an autoencoder with {self.input_transform!r} needs its inputs: pass decode(codes, x)")
        return x

    @property
    def _b_subtracted(self) -> Tensor:
        return self._here.b_dec

    def rest(self, x: Tensor | None) -> Tensor:
        """The decoder's bias, (d_model,)."""
        return self._here.b_dec

    def inputs_of(self, batch: Batch) -> Tensor:
        """The batch itself."""
        if not isinstance(batch, Tensor):
            raise InputError(f"batches: expected tensors of shape (tokens, {self.d_model}), found {_described(batch)}")
        return batch

    def joined(self, batch: Batch, name: str) -> Tensor:
        """The batch itself, (tokens, d_model).

        Raises
        ------
        InputError
            If its shape does not fit.
        """
        if not isinstance(batch, Tensor) or batch.ndim != 2 or batch.shape[1] != self.d_model or batch.shape[0] == 0:
            raise InputError(f"batches: {name} must have shape (tokens, {self.d_model}), found {_described(batch)}")
        return batch

    def sides_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The rows, twice."""
        return rows, rows

    def extra_repr(self) -> str:
        """What a prompt shows."""
        transform = "" if self.input_transform is None else f", input_transform={self.input_transform!r}"
        return f"d_model={self.d_model}, n_features={self.n_features}{transform}"


def _described(batch: Any) -> str:
    """A batch that does not fit, in words."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    hint = ""
    if isinstance(batch, (tuple, list)):
        alone = len(batch) == 1
        hint = (
            "; of a DataLoader over a TensorDataset pass [x for x, in loader]"
            if alone
            else "; pairs are for st.Transcoder"
        )
    return f"{type(batch).__name__}{hint}"
