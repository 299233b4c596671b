"""What autoencoders and transcoders share: encode to sparse codes, decode to a reconstruction."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

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
from sae_torch.plain_numbers import positive, seed_of, whole
from sae_torch.product_dtype import product_dtype
from sae_torch.rough_scores import RoughScores, rough_scores
from sae_torch.score_blocks import ChunkedScores, Scores

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Numbers that are drawn at a time where most of them are for other processes.
DRAWN = 1 << 22


Batch: TypeAlias = Tensor | tuple[Tensor, Tensor]
"""Activations, (tokens, d_model); of a transcoder pairs, what it reads and what it is to give."""


@dataclass(frozen=True, eq=False)
class Output:
    """What a forward returns.

    Attributes
    ----------
    x_hat : (tokens, d_out)
        The reconstruction: of the input by an autoencoder, of the target by a transcoder.
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
    def y_hat(self) -> Tensor:
        """The reconstruction, as it is called where it is not one of the input."""
        return self.x_hat

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


class SparseCoder(nn.Module):
    """What `SparseAutoencoder` and `Transcoder` share.

    ::

        z = in(x) W_enc + b_enc,   A = choice(z ||W_dec||),   x_hat_i = sum_(j: A_ij = 1) z_ij W_dec_j + rest(x_i)

    An autoencoder reads ``in(x) = x - b_dec`` and adds ``rest(x) = b_dec``. A transcoder reads ``in(x) = x``.

    Parameters
    ----------
    d_in, d_out, n_features : int
    choice, dtype, device, seed, score_dtype, encoder_scale, feature_chunk, mesh : as in SparseAutoencoder

    Attributes
    ----------
    encoder : (n_features, d_in) parameter
        One feature a row, as its gradient is made and as sharding and safetensors ask for it.
    W_enc : (d_in, n_features) tensor
        The same memory, transposed; its gradient is ``encoder.grad.T``.
    b_enc : (n_features,) parameter
    W_dec : (n_features, d_out) parameter
        A row is a feature's direction.
    b_dec : (d_out,) parameter
    takes_pairs : bool
        Whether it is trained on pairs (x, y), not on x alone.
    """

    takes_pairs = False

    def __init__(
        self,
        d_in: int,
        d_out: int,
        n_features: int,
        choice: Choice,
        dtype: torch.dtype,
        device: torch.device | str | None,
        seed: int,
        score_dtype: torch.dtype | Literal["auto"] | None,
        encoder_scale: float,
        feature_chunk: int | None,
        mesh: DeviceMesh | None,
    ) -> None:
        super().__init__()
        self.world = world_of(mesh, n_features)
        if not isinstance(choice, Choice):
            raise InputError(f"choice: expected a choice such as st.MutualChoice(k=32), found {choice!r}")
        if not dtype.is_floating_point:
            raise InputError(f"dtype: expected a floating-point type, found {dtype}")
        is_type = isinstance(score_dtype, torch.dtype) and score_dtype.is_floating_point
        if not (is_type or score_dtype in ("auto", None)):
            raise InputError(f'score_dtype: expected "auto", a floating-point type or None, found {score_dtype!r}')
        self._join(choice, n_features)
        self.choice = choice if device is None else choice.to(device)
        self.score_dtype = score_dtype
        if feature_chunk is not None:
            feature_chunk = whole("feature_chunk", feature_chunk, what="a positive number of features")
            if choice.limits(0) is None:
                raise InputError(
                    f"feature_chunk: {type(choice).__name__} reads the whole matrix of scores; only choices with "
                    "limits on one side are exact in blocks of features"
                )
        self.feature_chunk = feature_chunk
        self.seed, self.encoder_scale = seed_of(seed), positive("encoder_scale", encoder_scale)
        generator = torch.Generator().manual_seed(self.seed)
        held = self.world.cut(n_features)
        directions = unit_rows(n_features, d_out, generator, held).to(device=device, dtype=dtype)
        encoder = self._drawn_encoder(directions, n_features, d_in, generator)
        bias = torch.zeros(len(directions), dtype=dtype, device=device)
        self.W_dec, self.encoder, self.b_enc = (
            nn.Parameter(self.world.from_rows(rows, n_features)) for rows in (directions, encoder, bias)
        )
        self.b_dec = nn.Parameter(self.world.whole_weight(torch.zeros(d_out, dtype=dtype, device=device)))

    def _join(self, choice: Choice, n_features: int) -> None:
        """Let a choice decide together with those of the other processes."""
        if self.world.ranks is not None and not choice.supports_parts:
            raise InputError(f"choice: expected one with supports_parts = True on several processes, found {choice!r}")
        choice.build(n_features)
        choice.join(self.world)

    def _drawn_encoder(self, directions: Tensor, n_features: int, d_in: int, generator: torch.Generator) -> Tensor:
        """The encoder as it begins, (rows held, d_in), beside the decoder's directions."""
        raise NotImplementedError

    def read(self, x: Tensor) -> Tensor:
        """``(tokens, d_in)`` activations in the encoder's units: as they are, unless there is an input transform."""
        return x

    def encoder_input(self, x: Tensor) -> Tensor:
        """What the encoder's product reads of ``(tokens, d_in)`` activations."""
        raise NotImplementedError

    @property
    def _b_subtracted(self) -> Tensor | None:
        """What `encoder_input` subtracts, for its gradient."""
        raise NotImplementedError

    def rest(self, x: Tensor | None) -> Tensor:
        """What is added to the features' contributions: (d_out,), or where it depends on the input (tokens, d_out)."""
        raise NotImplementedError

    def joined(self, batch: Batch, name: str) -> Tensor:
        """A batch as training takes it as one tensor of rows; `name` is that of the batch in errors."""
        raise NotImplementedError

    def sides_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """What of such rows is read, and what is reconstructed."""
        raise NotImplementedError

    def inputs_of(self, batch: Batch) -> Tensor:
        """What is read of a batch, which may be that alone."""
        raise NotImplementedError

    @property
    def W_enc(self) -> Tensor:  # noqa: N802
        """The encoder as the formula has it, (d_model, n_features): a view."""
        return self.encoder.T

    @property
    def d_in(self) -> int:
        """Width of the activations that are read."""
        return self.encoder.shape[1]

    @property
    def d_model(self) -> int:
        """The same, as it is called where both sides have one width."""
        return self.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations that are reconstructed."""
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
        return ExactProducts(self.encoder_input(x).detach(), encoder, bias, here.W_dec.detach()[features].norm(dim=1))

    @torch.no_grad()
    def _product(self, x: Tensor, features: slice, memory: Tensor | None = None) -> Tensor:
        """The scores of some features that lie side by side, as a product gives them."""
        here = self._here
        norms = here.W_dec[features].norm(dim=1)
        bias, read, encoder = here.b_enc[features] * norms, self.encoder_input(x), here.encoder.T[:, features] * norms
        dtype = self.product_dtype(len(x))
        bias, read, encoder = (term.to(dtype) for term in (bias, read, encoder))
        fits = memory is not None and memory.shape == (x.shape[0], len(norms)) and memory.dtype == dtype
        out = memory if fits else None
        if x.device.type != "cpu":
            return torch.addmm(bias, read, encoder, out=out)
        # added afterwards: a CPU's product takes longer to start from a matrix than to fill one
        return torch.mm(read, encoder, out=out).add_(bias)

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
        """Sparse codes of (tokens, d_in) activations."""
        return self._encode(x)[0]

    @no_compile
    def decode(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """The (tokens, d_out) reconstruction of sparse codes; with a skip connection of the inputs `x`, too."""
        return self.contribution(codes) + self.rest(x)

    def contribution(self, codes: SparseCodes) -> Tensor:
        """What the features of some codes add to the reconstruction, those of all processes together."""
        return self.world.add_features(decode(codes, self._here.W_dec))

    def added(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """As `contribution`, in units of the reconstruction, which may be those of the inputs `x`."""
        return self.contribution(codes)

    def forward(self, x: Tensor, return_pre: bool = False, memory: Tensor | None = None) -> Output:
        """Encode and decode; the dense matrix of scores comes along only with `return_pre`.

        `memory`, a matrix of scores no longer needed, is written over if shape and type fit: on a CPU the system takes
        a third of the product's time to hand out fresh memory of that size.
        """
        codes, scores = self._encode(x, memory)
        return Output(self.decode(codes, x), codes, scores if return_pre else None, self.world)

    @no_compile
    def _encode(self, x: Tensor, memory: Tensor | None = None) -> tuple[SparseCodes, Scores]:
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise InputError(f"x: expected activations of shape (tokens, {self.d_in}), found {tuple(x.shape)}")
        if x.dtype != self.W_enc.dtype:
            raise InputError(f"x: expected {self.W_enc.dtype} like the weights, found {x.dtype}")
        if self.choice.world is not self.world:  # one that was set since
            self._join(self.choice, self.n_features)
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
        W_dec, encoder, b_enc, _ = self._here
        with torch.no_grad():
            if scores.dtype == W_dec.dtype:
                z = scores[tokens, features] / W_dec.norm(dim=1)[features]
            else:
                z = sampled_dots(self.encoder_input(x), encoder, tokens, features, codes.token_offsets)
                z += b_enc[features]
        codes = codes.with_values(z.clamp_min_(0.0))
        b_dec = self._b_subtracted
        b_dec = None if b_dec is None else self.world.shared(b_dec)
        return codes.with_values(
            selected_preactivations(codes, self.world.shared(self.read(x)), encoder.T, b_enc, b_dec)
        )

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


def unit_rows(n_features: int, width: int, generator: torch.Generator, held: slice = slice(None)) -> Tensor:
    """Random directions, one a row, (n_features, width) float32; of these the rows that are held.

    Rows that are not held are drawn and dropped, a block at a time: a dictionary may be too large for one process.
    """
    first, end, _ = held.indices(n_features)
    if (first, end) == (0, n_features):
        return nn.functional.normalize(torch.randn(n_features, width, generator=generator), dim=1)
    rows = torch.empty(end - first, width)
    # as many numbers as whole groups of 16, which torch draws as one
    block = 16 * max(1, DRAWN // (16 * width))
    starts = list(range(0, n_features, block))
    if len(starts) > 1 and (n_features - starts[-1]) * width < 16:  # fewer than that are drawn in another way
        starts.pop()
    for start, stop in itertools.pairwise([*starts, n_features]):
        drawn = torch.randn(stop - start, width, generator=generator)
        mine = slice(max(first, start), min(end, stop))
        if mine.start < mine.stop:
            rows[mine.start - first : mine.stop - first] = drawn[mine.start - start : mine.stop - start]
    return nn.functional.normalize(rows, dim=1)
