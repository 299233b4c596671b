"""The transcoder: what a module of a model computes, as sparse codes of its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError
from sae_torch.plain_numbers import whole_sizes
from sae_torch.sparse_coder import Batch, SparseCoder, unit_rows

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Norm of the encoder's rows at the start. Measured by `benchmarks/transcoders.py --start`.
ENCODER_SCALE = 0.25


class Transcoder(SparseCoder):
    """Computes one activation from another by way of a few features per token, as from the input of an MLP its output.

    ::

        z = x W_enc + b_enc,   A = choice(z ||W_dec||),   y_hat_i = sum_(j: A_ij = 1) z_ij W_dec_j + b_dec + W_skip x_i

    In training mode `choice` allocates the batch, in eval mode it decides token by token. An autoencoder is the case
    y = x, but for its means: there `b_dec` is also subtracted from the input, here `b_enc` takes that up.

    Parameters
    ----------
    d_in, d_out : int
        Widths of what is read and of what is computed.
    n_features : int
    choice : Choice
        ``TokenChoice``, ``MutualChoice``, ``FeatureChoice`` or one of your own.
    skip : bool
        Whether a linear map from the input to the output runs beside the features.
    dtype, device : optional
        float32 on the CPU by default.
    seed : int
        Of the random directions of decoder and encoder.
    score_dtype, feature_chunk, mesh : as in SparseAutoencoder
    encoder_scale : float
        Norm of the encoder's rows at the start. Their directions are random here; `Trainer` turns those of a fresh
        transcoder to what predicts the decoder's from the input.

    Attributes
    ----------
    encoder : (n_features, d_in) parameter
        One feature a row, as in `SparseAutoencoder`.
    W_enc : (d_in, n_features) tensor
        The same memory, transposed.
    b_enc : (n_features,) parameter
    W_dec : (n_features, d_out) parameter
        A row is a feature's direction.
    b_dec : (d_out,) parameter
    W_skip : (d_out, d_in) parameter, or None

    Source: Dunefsky, Chlenski, Nanda 2024, arXiv 2406.11944; with a skip connection Paulo, Shabalin, Belrose 2025,
    arXiv 2501.18823.

    Examples
    --------
    >>> import torch, sae_torch as st
    >>> transcoder = st.Transcoder(d_in=16, d_out=24, n_features=64, choice=st.TokenChoice(k=4), skip=True)
    >>> out = transcoder(torch.randn(10, 16))
    >>> out.y_hat.shape, len(out.codes) <= 40
    (torch.Size([10, 24]), True)
    """

    takes_pairs = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_features: int,
        choice: Choice,
        skip: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        seed: int = 0,
        score_dtype: torch.dtype | Literal["auto"] | None = None,
        encoder_scale: float = ENCODER_SCALE,
        feature_chunk: int | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        d_in, d_out, n_features = whole_sizes(d_in=d_in, d_out=d_out, n_features=n_features)
        if not isinstance(skip, bool):
            raise InputError(f"skip: expected True or False, found {skip!r}")
        super().__init__(
            d_in, d_out, n_features, choice, dtype, device, seed, score_dtype, encoder_scale, feature_chunk, mesh
        )
        nothing = torch.zeros(d_out, d_in, dtype=dtype, device=device) if skip else None
        self.W_skip = None if nothing is None else nn.Parameter(self.world.whole_weight(nothing))

    def _drawn_encoder(self, directions: Tensor, n_features: int, d_in: int, generator: torch.Generator) -> Tensor:
        return self.encoder_scale * unit_rows(n_features, d_in, generator, self.world.cut(n_features)).to(directions)

    @property
    def is_fresh(self) -> bool:
        """Whether the weights are those that were drawn."""
        generator = torch.Generator().manual_seed(self.seed)
        directions = unit_rows(self.n_features, self.d_out, generator, self.world.cut(self.n_features))
        drawn = self._drawn_encoder(directions, self.n_features, self.d_in, generator)
        here = self._here
        others = (here.b_enc, here.b_dec, *(() if self.W_skip is None else (self.world.local(self.W_skip),)))
        return torch.equal(here.encoder.detach(), drawn.to(here.encoder)) and not any(
            bool(each.any()) for each in others
        )

    def encoder_input(self, x: Tensor) -> Tensor:
        """The activations themselves."""
        return x.contiguous()

    @property
    def _b_subtracted(self) -> None:
        return None

    def rest(self, x: Tensor | None) -> Tensor:
        """The decoder's bias, with a skip connection plus its map of the inputs."""
        b_dec = self._here.b_dec
        if self.W_skip is None:
            return b_dec
        if x is None:
            raise InputError("x: a transcoder with a skip connection decodes codes of given inputs: decode(codes, x)")
        return torch.addmm(b_dec, x, self.world.local(self.W_skip).T)

    def inputs_of(self, batch: Batch) -> Tensor:
        """The first of a pair (x, y), or x alone."""
        if isinstance(batch, Tensor) and batch.ndim == 2 and batch.shape[1] == self.d_in:
            return batch
        return self.sides_of(self.joined(batch, "a batch"))[0]

    def joined(self, batch: Batch, name: str) -> Tensor:
        """A pair as one tensor of rows, x beside y, (tokens, d_in + d_out); one such tensor stays as it is.

        Raises
        ------
        InputError
            If it is no pair, or its shapes do not fit.
        """
        wanted = f"a pair (x, y) of shapes (tokens, {self.d_in}) and (tokens, {self.d_out})"
        width = self.d_in + self.d_out
        if isinstance(batch, Tensor):
            if batch.ndim == 2 and batch.shape[1] == width and len(batch):
                return batch
            raise InputError(f"batches: {name} must be {wanted}, found one tensor of shape {tuple(batch.shape)}")
        if not isinstance(batch, (tuple, list)) or not all(isinstance(side, Tensor) for side in batch):
            raise InputError(f"batches: {name} must be {wanted}, found {type(batch).__name__}")
        shapes = [tuple(side.shape) for side in batch]
        tokens = shapes[0][0] if shapes and shapes[0] else 0
        if not tokens or shapes != [(tokens, self.d_in), (tokens, self.d_out)]:
            raise InputError(f"batches: {name} must be {wanted}, found shapes {' and '.join(map(str, shapes))}")
        x, y = (side.detach().to(self.W_dec.dtype) for side in batch)
        return torch.cat([x, y.to(x.device)], dim=1)

    def sides_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The pair in such rows."""
        return rows[:, : self.d_in].contiguous(), rows[:, self.d_in :].contiguous()

    def extra_repr(self) -> str:
        """What a prompt shows."""
        return f"d_in={self.d_in}, d_out={self.d_out}, n_features={self.n_features}, skip={self.W_skip is not None}"
