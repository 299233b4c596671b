"""The sparse autoencoder: encode to sparse codes, decode to a reconstruction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from sae_torch.choices.choice import Choice
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.exact_products import ExactProducts
from sae_torch.matches import is_on_device
from sae_torch.ops import decode, selected_preactivations
from sae_torch.ops.compiling import no_compile
from sae_torch.ops.segments import sampled_dots
from sae_torch.parallel.ranked import world_of
from sae_torch.parallel.world import ALONE, World
from sae_torch.product_dtype import product_dtype
from sae_torch.rough_scores import RoughScores, rough_scores
from sae_torch.score_blocks import ChunkedScores, Scores

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Random decoder rows that are matched for their large scores overlap: their sum, read with the decoder's transpose,
# overshoots. Measured by `benchmarks/training_choices.py`.
ENCODER_SCALE = 0.25


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward returns.

    Attributes
    ----------
    x_hat : (tokens, d_model)
    codes : SparseCodes
    scores : optional
        Pre-activation times decoder norm as the choice read them, without gradient; only on request. A matrix, exact
        wherever it is asked (`RoughScores`), or in blocks (`ChunkedScores`).
    world : World
        The processes whose tokens together are the batch.
    """

    x_hat: Tensor
    codes: SparseCodes
    scores: Scores | None = None
    world: World = field(default=ALONE, repr=False)

    @property
    def pre(self) -> Tensor | ChunkedScores | None:
        """The scores as a (tokens, features) matrix, every one exact; with `feature_chunk` in blocks."""
        return self.scores.dense if isinstance(self.scores, RoughScores) else self.scores


class _Weights(NamedTuple):
    """Weights, or those of some features."""

    W_dec: Tensor
    encoder: Tensor
    b_enc: Tensor
    b_dec: Tensor


class SparseAutoencoder(nn.Module):
    """Reconstructs activations from a few features per token.

    ::

        z = (x - b_dec) W_enc + b_enc,   A = choice(z ||W_dec||),   x_hat_i = sum_(j: A_ij = 1) z_ij W_dec_j + b_dec

    In training mode `choice` allocates the batch, in eval mode it decides token by token.

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
        computed exactly, so that matches, values and thresholds are those of

        ::

            S_ij = fl( fl( fl(x_i - b_dec) . W_enc_(:, j) + b_enc_j ) n_j ),   fl the nearest float32,

        with n_j torch's norm of the decoder's row: the same bits from either product, with any BLAS and any number of
        threads. Choices of your own, balanced choice with limits of tokens, other types of weights, and GPUs take the
        product as it comes. There, in training mode, a type given here allocates the batch on rounded scores;
        values, gradients and thresholds stay in `dtype`.

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

    Attributes
    ----------
    encoder : (n_features, d_model) parameter
        One feature a row, as its gradient is made and as sharding and safetensors ask for it.
    W_enc : (d_model, n_features) tensor
        The same memory, transposed; its gradient is ``encoder.grad.T``.
    b_enc : (n_features,); W_dec : (n_features, d_model); b_dec : (d_model,) parameters

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
    ) -> None:
        super().__init__()
        self.world = world_of(mesh, n_features)
        for name, size in (("d_model", d_model), ("n_features", n_features)):
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise InputError(f"{name}: expected a positive integer, found {size!r}")
        if not isinstance(choice, Choice):
            raise InputError(f"choice: expected a choice such as st.MutualChoice(k=32), found {choice!r}")
        if not dtype.is_floating_point:
            raise InputError(f"dtype: expected a floating-point type, found {dtype}")
        is_type = isinstance(score_dtype, torch.dtype) and score_dtype.is_floating_point
        if not (is_type or score_dtype in ("auto", None)):
            raise InputError(f'score_dtype: expected "auto", a floating-point type or None, found {score_dtype!r}')
        if not (math.isfinite(encoder_scale) and encoder_scale > 0):
            raise InputError(f"encoder_scale: expected a positive number, found {encoder_scale}")
        if self.world.ranks is not None and not choice.supports_parts:
            raise InputError(f"choice: expected one with supports_parts = True on several processes, found {choice!r}")
        choice.build(n_features)
        choice.join(self.world)
        self.choice = choice if device is None else choice.to(device)
        self.score_dtype = score_dtype
        if feature_chunk is not None:
            if not isinstance(feature_chunk, int) or isinstance(feature_chunk, bool) or feature_chunk < 1:
                raise InputError(f"feature_chunk: expected a positive number of features, found {feature_chunk!r}")
            if choice.limits(0) is None:
                raise InputError(
                    f"feature_chunk: {type(choice).__name__} reads the whole matrix of scores; only choices with "
                    "limits on one side are exact in blocks of features"
                )
        self.feature_chunk = feature_chunk
        directions = torch.randn(n_features, d_model, generator=torch.Generator().manual_seed(seed))
        directions = nn.functional.normalize(directions, dim=1).to(device=device, dtype=dtype)
        bias = torch.zeros(n_features, dtype=dtype, device=device)
        self.W_dec = nn.Parameter(self.world.cut_weight(directions))
        self.encoder = nn.Parameter(self.world.cut_weight(encoder_scale * directions))
        self.b_enc = nn.Parameter(self.world.cut_weight(bias))
        self.b_dec = nn.Parameter(self.world.whole_weight(torch.zeros(d_model, dtype=dtype, device=device)))

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """The encoder as the formula has it, (d_model, n_features): a view."""
        return self.encoder.T

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.W_dec.shape[1]

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]

    @property
    def width(self) -> int:
        """Features that this process holds; all, unless a mesh cuts them."""
        return len(range(self.n_features)[self.world.cut(self.n_features)])

    @property
    def _here(self) -> _Weights:
        """The weights as this process holds them."""
        return _Weights(*(self.world.local(each) for each in (self.W_dec, self.encoder, self.b_enc, self.b_dec)))

    @torch.no_grad()
    def scores(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Pre-activations times decoder norms: the (tokens, features) matrix the choice decides by.

        A product that is taken as it comes is written into `memory` where that fits, as in `forward`.
        """
        if self._bounds_errors:
            return self._exact_products(x, slice(0, self.width)).all()
        return self._product(x, slice(0, self.width), memory)

    def product_dtype(self, tokens: int) -> torch.dtype:
        """The type of the dense product of a batch of so many tokens."""
        if self._bounds_errors:
            assert self.score_dtype is not None
            return product_dtype(self.score_dtype, tokens)
        rounds = self.training and isinstance(self.score_dtype, torch.dtype)
        return self.score_dtype if rounds else self.W_dec.dtype  # type: ignore[return-value]

    @property
    def _bounds_errors(self) -> bool:
        """Whether rough products decide as exact scores do."""
        weights, known = self.W_dec, self.score_dtype in ("auto", torch.float32, torch.bfloat16)
        in_memory = weights.device.type == "cpu" and not is_on_device(weights)
        return known and in_memory and weights.dtype == torch.float32 and self.choice.reads_rough

    def _exact_products(self, x: Tensor, features: slice) -> ExactProducts:
        here = self._here
        encoder, bias = here.encoder.detach()[features], here.b_enc.detach()[features]
        return ExactProducts((x - here.b_dec).detach(), encoder, bias, here.W_dec.detach()[features].norm(dim=1))

    @torch.no_grad()
    def _product(self, x: Tensor, features: slice, memory: Tensor | None = None) -> Tensor:
        """The scores of some features that lie side by side, as a product gives them."""
        here = self._here
        norms = here.W_dec[features].norm(dim=1)
        bias, centred, encoder = here.b_enc[features] * norms, x - here.b_dec, here.encoder.T[:, features] * norms
        dtype = self.product_dtype(len(x))
        bias, centred, encoder = (term.to(dtype) for term in (bias, centred, encoder))
        fits = memory is not None and memory.shape == (x.shape[0], len(norms)) and memory.dtype == dtype
        out = memory if fits else None
        if x.device.type != "cpu":
            return torch.addmm(bias, centred, encoder, out=out)
        # added afterwards: a CPU's product takes longer to start from a matrix than to fill one
        return torch.mm(centred, encoder, out=out).add_(bias)

    @torch.no_grad()
    def scores_or_blocks(self, x: Tensor, memory: Tensor | None = None) -> Scores:
        """The scores as the choice reads them: rough with a bound, and with `feature_chunk` in blocks."""
        if self.feature_chunk is None or self.feature_chunk >= self.width:
            return self._scores_of(x.detach(), slice(0, self.width), memory)
        return self._scores_in_blocks(x.detach(), self.feature_chunk)

    def _scores_of(self, x: Tensor, features: slice, memory: Tensor | None) -> Tensor | RoughScores:
        if not self._bounds_errors:
            return self._product(x, features, memory)
        products = self._exact_products(x, features)
        if self.world.ranks is not None:  # a part of a problem is stated with exact scores
            return products.all()
        return rough_scores(products, self.product_dtype(len(x)), memory)

    def _scores_in_blocks(self, x: Tensor, chunk: int) -> ChunkedScores:
        """The same scores, never held together."""
        dtype = self.product_dtype(len(x))
        memory = torch.empty(x.shape[0] * min(chunk, self.width), dtype=dtype, device=x.device)

        def product(x: Tensor, start: int, stop: int) -> Tensor | RoughScores:
            block = memory[: x.shape[0] * (stop - start)].view(x.shape[0], stop - start)
            return self._scores_of(x, slice(start, stop), block)

        return ChunkedScores(x, product, self.width, chunk, x.dtype if self._bounds_errors else dtype)

    def encode(self, x: Tensor) -> SparseCodes:
        """Sparse codes of (tokens, d_model) activations."""
        return self._encode(x)[0]

    @no_compile
    def decode(self, codes: SparseCodes) -> Tensor:
        """The (tokens, d_model) reconstruction of sparse codes."""
        return self.contribution(codes) + self._here.b_dec

    def contribution(self, codes: SparseCodes) -> Tensor:
        """What the features of some codes add to the reconstruction, those of all processes together."""
        return self.world.add_features(decode(codes, self._here.W_dec))

    def forward(self, x: Tensor, return_pre: bool = False, memory: Tensor | None = None) -> Output:
        """Encode and decode; the dense matrix of scores comes along only with `return_pre`.

        `memory`, a matrix of scores no longer needed, is written over if shape and type fit: on a CPU the system takes
        a third of the product's time to hand out fresh memory of that size.
        """
        codes, scores = self._encode(x, memory)
        return Output(self.decode(codes), codes, scores if return_pre else None, self.world)

    @no_compile
    def _encode(self, x: Tensor, memory: Tensor | None = None) -> tuple[SparseCodes, Scores]:
        if x.ndim != 2 or x.shape[1] != self.d_model:
            raise InputError(f"x: expected activations of shape (tokens, {self.d_model}), found {tuple(x.shape)}")
        if x.dtype != self.W_enc.dtype:
            raise InputError(f"x: expected {self.W_enc.dtype} like the autoencoder, found {x.dtype}")
        scores = self.scores_or_blocks(x, memory)
        observe = self.training and torch.is_grad_enabled()
        tokens, features, count = self.choice.matches(scores, observe)
        codes = self.codes_at(x, scores, tokens.to(x.device), features.to(x.device), count)
        self.choice.memory.hold(codes.values)
        return codes, scores

    def codes_at(
        self,
        x: Tensor,
        scores: Scores,
        tokens: Tensor,
        features: Tensor,
        count: Tensor | None = None,
    ) -> SparseCodes:
        """Codes of given matches: their pre-activations from `scores`, with the gradient of the encoder.

        Rounded scores decide who matches, not how strongly: then the matches' pre-activations are computed again.
        """
        codes = SparseCodes(tokens, features, features, (x.shape[0], self.width), count)
        tokens, features = codes.tokens, codes.features
        W_dec, encoder, b_enc, b_dec = self._here
        with torch.no_grad():
            if scores.dtype == W_dec.dtype:
                z = scores[tokens, features] / W_dec.norm(dim=1)[features]
            else:
                z = sampled_dots(x - b_dec, encoder, tokens, features, codes.token_offsets)
                z += b_enc[features]
        codes = codes.with_values(z.clamp_min_(0.0))
        x, b_dec = (self.world.shared(each) for each in (x, b_dec))
        return codes.with_values(selected_preactivations(codes, x, encoder.T, b_enc, b_dec))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Unit decoder rows; the encoder takes up the norms, so that the reconstruction stays the same."""
        here = self._here
        norms = here.W_dec.norm(dim=1).clamp_min(torch.finfo(here.W_dec.dtype).tiny)
        here.W_dec.div_(norms[:, None])
        here.encoder.mul_(norms[:, None])
        here.b_enc.mul_(norms)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if f"{prefix}W_enc" in state_dict:  # the transposed matrix, as others have it and as checkpoints once did
            state_dict[f"{prefix}encoder"] = state_dict.pop(f"{prefix}W_enc").T.contiguous()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """What a prompt shows."""
        return f"d_model={self.d_model}, n_features={self.n_features}"
