"""What every format stores: the batch-free autoencoder as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sae_torch.adapter import Adapter
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.choices.activation_token import ActivationTokenChoice
from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.token import TokenChoice
from sae_torch.errors import InputError
from sae_torch.input_transform import InputTransform
from sae_torch.interop.weight_writing import Rows
from sae_torch.ops import rounded_down
from sae_torch.sparse_coder import SparseCoder
from sae_torch.transcoder import Transcoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Decoder rows this close to norm 1 are written as they are, so that a reload gives the same bits.
UNIT_NORM = 1e-5
# Numbers that are computed with together: beside weights that lie in a file they take little memory.
BLOCK, BLOCKS = 1 << 22, 32
# Of these, numbers that are wider than the file's at a time.
PART = 1 << 21


@dataclass(frozen=True, eq=False)
class InferenceForm:
    """An autoencoder for one token at a time.

    ::

        pre = (x - b_dec) W_enc + b_enc,   a = relu(pre) where pre > threshold (or its top k),   x_hat = a W_dec + b_dec

    The matrices may lie in a mapped file; what multiplies them is kept beside them until they are used, block by block.

    Attributes
    ----------
    W_enc : (d_model, features)
    b_enc : (features,)
    W_dec : (features, d_model)
    b_dec : (d_model,)
        The matrices are without their `encoder_scale` and `decoder_scale`; `tensors` has them with these.
    threshold : (features,) or None
        In units of `pre`, rounded down; None with a `k`, or where none has been measured yet.
    k : int or None
        Features per token, where the token chooses.
    has_token_limits : bool
        Whether thresholds do not say everything: a token's matches have limits of their own.
    l0 : float or None
        Mean number of features per token where thresholds choose, as far as it is known.
    own_choice : Choice or None
        The choice that the files name, where they were written here.
    encoder_scale, decoder_scale : (features,) or None
        What a feature's encoder and decoder are to be multiplied by.
    as_type : torch.dtype or None
        Type that the weights get; by default that of `W_dec`.
    input_transform : InputTransform or None
        What is done to a token's activations first: `x` above is what it gives, and `x_hat` is brought back.
    is_transcoder : bool
        Whether it computes another activation than the one it reads: then `W_dec` and `b_dec` have that one's width,
        and the encoder reads `x` itself.
    W_skip : (d_out, d_in) or None
        Of a transcoder, what is added as ``W_skip x``.
    """

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    threshold: Tensor | None = None
    k: int | None = None
    has_token_limits: bool = False
    l0: float | None = None
    own_choice: Choice | None = None
    encoder_scale: Tensor | None = None
    decoder_scale: Tensor | None = None
    as_type: torch.dtype | None = None
    input_transform: InputTransform | None = None
    is_transcoder: bool = False
    W_skip: Tensor | None = None

    @classmethod
    def of(cls, sae: SparseCoder) -> InferenceForm:
        """The form of an autoencoder or transcoder, its decoder norms folded into the encoder.

        Raises
        ------
        InputError
            If the choice has no thresholds yet, or none that fire as often as they should.
        """
        weights = (sae.encoder, sae.b_enc, sae.W_dec, sae.b_dec)
        encoder, b_enc, W_dec, b_dec = (sae.world.gathered(weight.detach()).cpu() for weight in weights)
        form = cls(encoder.T, b_enc, W_dec, b_dec, input_transform=getattr(sae, "input_transform", None))
        if isinstance(sae, Transcoder):
            skip = None if sae.W_skip is None else sae.world.gathered(sae.W_skip.detach()).cpu()
            form = replace(form, is_transcoder=True, W_skip=skip)
        sae.choice.require_settled()
        batch_free = sae.choice.batch_free()
        if isinstance(batch_free, ActivationTokenChoice):
            return replace(form.with_rows_of(batch_free.norms.cpu()), k=batch_free.token_k)
        if isinstance(batch_free, Choice):
            return replace(form.with_unit_rows(), k=batch_free.token_k)
        # thresholds are in units of scores already, which are pre-activations once rows have norm 1
        theta = batch_free.theta.expand(sae.n_features).cpu()
        if not batch_free.has_token_limits:  # with limits they also rank a token's matches, so they stay as they are
            theta = rounded_down(theta, sae.W_dec.dtype)
        return replace(form.with_unit_rows(), threshold=theta, has_token_limits=batch_free.has_token_limits)

    @classmethod
    def of_adapter(cls, adapter: Adapter) -> tuple[InferenceForm, Choice]:
        """The form of a module of the user's own, and the choice that its files name.

        Its scores are pre-activations as they are, whatever the norms of the decoder rows.

        Raises
        ------
        InputError
            If the choice has no thresholds that fire as often as they should, or the module is of no known form.
        """
        choice = adapter.choice
        choice.require_settled()
        batch_free = choice.batch_free()
        weights = adapter.checked()
        form = cls(weights.W_enc, weights.b_enc, weights.W_dec, weights.b_dec)
        if isinstance(batch_free, Choice):
            k = batch_free.token_k
            assert k is not None, "a choice that needs no threshold takes the best of every token"
            return replace(form, k=k), choice if form.has_unit_rows else ActivationTokenChoice(k)
        theta = batch_free.theta.expand(len(form.b_enc)).cpu()
        if not batch_free.has_token_limits:
            form = replace(form, threshold=rounded_down(theta, form.dtype))
            if batch_free.theta.ndim or form.has_unit_rows:
                return form, choice
            return form, FeatureChoice(choice.k)  # in units of scores the common threshold is one for every feature
        if not form.has_unit_rows:
            raise InputError(
                "module: expected decoder rows of norm 1 beside a choice with limits per token, which ranks a token's "
                "scores, found others; normalise the decoder in your loop, or leave out token_caps and token_floors"
            )
        return replace(form, threshold=theta, has_token_limits=True), choice

    def require_autoencoder(self, format_name: str) -> None:
        """Refuse a transcoder, of which a format knows nothing."""
        if self.is_transcoder:
            raise InputError(
                f"sae: expected an autoencoder, as the {format_name} format has them, found a transcoder; export to "
                "saelens, sparsify or circuit-tracer"
            )

    def require_thresholds_alone(self, format_name: str) -> None:
        """Refuse what a format cannot say whose thresholds judge every match by itself.

        Raises
        ------
        InputError
            If a token's matches have limits of their own.
        """
        if self.has_token_limits:
            raise InputError(
                f"sae: expected thresholds that judge every match by itself, as the {format_name} format has them, "
                "found limits per token; save it with sae_torch.save"
            )

    def require_plain_inputs(self, format_name: str) -> None:
        """Refuse what a format cannot say that reads each token's activations in units of its own.

        Raises
        ------
        InputError
            If there is an input transform.
        """
        if self.input_transform is not None:
            raise InputError(
                f"sae: expected one that reads activations as they are, as the {format_name} format has them, found "
                f"{self.input_transform!r}; export to saelens"
            )

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.as_type or self.W_dec.dtype

    @cached_property
    def norms(self) -> Tensor:
        """Norm of every decoder row, (features,) float32; of a row of zeros that which `autoencoder` gives it."""
        norms = torch.cat([block.float().norm(dim=1) for block in _blocks(self.W_dec)])
        if self.decoder_scale is not None:
            norms = norms * self.decoder_scale.float().abs()
        return torch.where(norms > 0, norms, self._least_norm)

    @property
    def has_unit_rows(self) -> bool:
        """Whether every decoder row has norm 1, within the rounding of its type."""
        return bool(((self.norms - 1.0).abs() < self._tolerance).all())

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, contiguous, with what multiplies them; with the threshold if there is one."""
        return {name: torch.cat(tuple(rows.blocks)).contiguous() for name, rows in self.rows.items()}

    @property
    def rows(self) -> dict[str, Rows]:
        """As `tensors`, in blocks."""
        d, F = self.W_enc.shape
        named: dict[str, Rows] = {
            "W_enc": Rows((d, F), self.dtype, self.blocks("W_enc")),
            "b_enc": Rows.of(self._stored("b_enc", self.b_enc)),
            "W_dec": Rows(tuple(self.W_dec.shape), self.dtype, self.blocks("W_dec")),
            "b_dec": Rows.of(self._stored("b_dec", self.b_dec)),
        }
        optional = {
            "threshold": self.threshold,
            "W_skip": None if self.W_skip is None else self._stored("W_skip", self.W_skip),
        }
        return named | {name: Rows.of(tensor) for name, tensor in optional.items() if tensor is not None}

    def blocks(self, name: Literal["W_enc", "W_dec", "encoder"]) -> Iterator[Tensor]:
        """Some rows of a matrix after the other, multiplied by what they are to be and rounded once.

        `encoder` is `W_enc` transposed: one feature a row.
        """
        matrix = self.W_dec if name == "W_dec" else self.W_enc
        scale = self.decoder_scale if name == "W_dec" else self.encoder_scale
        start = 0
        for block in _blocks(matrix.T if name == "encoder" else matrix):
            if scale is None:
                yield self._stored(name, block)
            else:
                of_rows = scale if name == "W_enc" else scale[start : start + len(block), None]
                yield self._multiplied(name, block, of_rows)
            start += len(block)

    def with_unit_rows(self) -> InferenceForm:
        """The same reconstructions with decoder rows of norm 1; activations are then in units of `x`."""
        if self.has_unit_rows:
            return self
        norms = self._wide_norms
        if not bool((norms > 0).all()):
            raise InputError(f"sae: decoder row {int((norms == 0).nonzero()[0])} is zero and has no direction")
        return self.scaled(norms, 1.0 / norms)

    def with_rows_of(self, norms: Tensor) -> InferenceForm:
        """The same reconstructions with decoder rows of these norms."""
        factors = norms.to(self._wide_norms.dtype) / self._wide_norms
        changes = bool(((factors - 1.0).abs() >= self._tolerance).any())
        return self.scaled(1.0 / factors, factors) if changes else self

    def cast(self, dtype: torch.dtype | None) -> InferenceForm:
        """The same with weights of another type, their thresholds rounded down; None changes nothing."""
        if dtype is None or dtype == self.dtype:
            return self
        theta = self.threshold
        if theta is not None and not self.has_token_limits:
            theta = rounded_down(theta.float(), dtype)
        return replace(self, as_type=dtype, threshold=theta)

    def scaled(self, encoder: Tensor | float, decoder: Tensor | float) -> InferenceForm:
        """Every feature's encoder, with its bias, and its decoder multiplied; thresholds stay in units of `pre`."""
        pairs = ((self.encoder_scale, encoder), (self.decoder_scale, decoder))
        ones = torch.ones(self.b_enc.shape, dtype=self._wide(self.b_enc).dtype)
        first, second = (ones * factor if scale is None else scale * factor for scale, factor in pairs)
        b_enc = self._wide(self.b_enc) * self._wide(ones * encoder)
        return replace(self, b_enc=b_enc, encoder_scale=first, decoder_scale=second)

    def for_scaled_inputs(self, factor: float, written: float | None = None) -> InferenceForm:
        """Weights for `x`, of weights that read ``factor * x`` and reconstruct that: its threshold stays as it is.

        A transcoder computes another activation, times `written`.
        """
        written = factor if written is None else written
        b_dec = self._wide(self.b_dec) / written
        return replace(self.scaled(factor, 1.0 / written), b_enc=self.b_enc, b_dec=b_dec)

    def for_whitened_inputs(self, mean: Tensor, matrix: Tensor, inverse_matrix: Tensor) -> InferenceForm:
        """Weights for `x`, of weights that read ``(x - mean) @ matrix`` and reconstruct that.

        Activations and thresholds stay as they are, and so does what multiplies a feature.
        """
        W_enc, W_dec = matrix.double() @ self.W_enc.double(), self.W_dec.double() @ inverse_matrix.double()
        b_dec = self.b_dec.double() @ inverse_matrix.double() + mean.double()
        return replace(self, W_enc=W_enc, W_dec=W_dec, b_dec=b_dec, as_type=self.dtype)

    def absorb_b_dec(self) -> InferenceForm:
        """The same function in this form, of weights for an encoder that reads `x` itself, not `x - b_dec`."""
        return replace(self, b_enc=self._wide(self.b_enc) + self._b_dec_encoded)

    def restore_b_dec(self) -> InferenceForm:
        """The way back: weights of the same function for an encoder that reads `x` itself."""
        return replace(self, b_enc=self._wide(self.b_enc) - self._b_dec_encoded)

    def choice(self, path: str) -> Choice:
        """The choice whose batch-free form this is: by token, by a common threshold, or by one for each feature.

        A top k ranks activations as they are; where decoder rows differ in norm that is no token choice of scores.

        Raises
        ------
        InputError
            If nothing says how many features a token has on average, or a top k is larger than the dictionary.
        """
        n_features = self.b_enc.numel()
        if self.k is not None and not 1 <= self.k <= n_features:
            raise InputError(f"{path}: k: expected 1 to {n_features}, found {self.k:g}")
        if self.own_choice is not None:
            return self.own_choice
        if self.k is not None:
            norms = self.norms
            if bool(norms.max() - norms.min() <= 2 * self._tolerance * norms.max()):
                return TokenChoice(self.k)
            by_activation = ActivationTokenChoice(self.k)
            by_activation.set_norms(norms)
            return by_activation
        if self.l0 is None:
            raise InputError(
                f"{path}: the mean number of features per token is not recorded; pass load(folder, k=), or --k"
            )
        theta = self._scaled_threshold()
        if theta is None or bool((theta == theta[0]).all()):
            return MutualChoice(self.l0)
        return FeatureChoice(self.l0)

    def autoencoder(self, path: str, mesh: DeviceMesh | None = None) -> SparseCoder:
        """The module, in eval mode, with what a process of the mesh holds; `path` is named in errors."""
        choice = self.choice(path)
        (d_in, n_features), d_out = self.W_enc.shape, self.W_dec.shape[1]
        sae: SparseCoder
        if self.is_transcoder:
            skip = self.W_skip is not None
            sae = Transcoder(d_in, d_out, n_features, choice, skip, dtype=self.dtype, mesh=mesh)
        else:
            transform = self.input_transform
            sae = SparseAutoencoder(d_in, n_features, choice, dtype=self.dtype, mesh=mesh, input_transform=transform)
        here, local = sae.world.cut(n_features), sae.world.local
        with torch.no_grad():
            _fill(local(sae.encoder), self.blocks("encoder"), here)
            _fill(local(sae.W_dec), self.blocks("W_dec"), here)
            rows = local(sae.W_dec)
            rows[(rows == 0).all(dim=1), 0] = self._least_norm
            local(sae.b_enc).copy_(self._stored("b_enc", self.b_enc)[here])
            local(sae.b_dec).copy_(self._stored("b_dec", self.b_dec))
            if isinstance(sae, Transcoder) and sae.W_skip is not None and self.W_skip is not None:
                local(sae.W_skip).copy_(self._stored("W_skip", self.W_skip))
        theta = self._scaled_threshold()
        if theta is not None:
            choice.set_thresholds(theta)
        return sae.eval()

    def _scaled_threshold(self) -> Tensor | None:
        """Thresholds in units of scores; below 0 nothing but zeros would be added."""
        if self.threshold is None:
            return None
        theta = self.threshold.float().clamp_min(0.0)
        return theta if self.has_unit_rows else theta * self.norms

    @property
    def _least_norm(self) -> float:
        """Norm of a row that adds nothing: its feature is active all the same, and scores are divided by norms."""
        return 0.0 if self.dtype == torch.float16 else 1e-20

    @property
    def _wide_norms(self) -> Tensor:
        norms = torch.cat([self._wide(block).norm(dim=1) for block in _blocks(self.W_dec)])
        return norms if self.decoder_scale is None else norms * self._wide(self.decoder_scale).abs()

    @property
    def _b_dec_encoded(self) -> Tensor:
        b_dec = self._wide(self.b_dec)
        encoded = torch.cat([self._wide(block) @ b_dec for block in _blocks(self.W_enc.T)])
        return encoded if self.encoder_scale is None else encoded * self._wide(self.encoder_scale)

    def _stored(self, name: str, tensor: Tensor) -> Tensor:
        """A weight in the type of all, which must hold it."""
        stored = tensor.to(self.dtype)
        if torch.finfo(self.dtype).max < torch.finfo(tensor.dtype).max and not bool(torch.isfinite(stored).all()):
            raise InputError(
                f"dtype: expected a type that holds {name}, whose entries go up to {float(tensor.abs().max()):.4g}, "
                f"found {self.dtype}, which ends at {torch.finfo(self.dtype).max:.4g}"
            )
        return stored

    def _multiplied(self, name: str, block: Tensor, scale: Tensor) -> Tensor:
        """A block times its scale, lying as the file has it; a part after the other, so that little of it is wide."""
        turned = not block.is_contiguous()
        lies, factors = (each.T if turned else each for each in (block, self._wide(scale).expand(block.shape)))
        product = torch.empty(lies.shape, dtype=self.dtype)
        count = max(1, PART // max(1, lies.shape[1]))
        for start in range(0, len(lies), count):
            part = slice(start, start + count)
            product[part] = self._stored(name, self._wide(lies[part]) * factors[part])
        return product.T if turned else product

    def _wide(self, tensor: Tensor) -> Tensor:
        """For arithmetic: float32, or the type of the weights where that is wider."""
        return tensor.to(torch.promote_types(self.dtype, torch.float32))

    @property
    def _tolerance(self) -> float:
        return max(UNIT_NORM, torch.finfo(self.dtype).eps)


def _blocks(matrix: Tensor) -> tuple[Tensor, ...]:
    """Some rows after the other: few blocks, since one of columns passes over the whole file."""
    return torch.split(matrix, max(1, max(BLOCK, matrix.numel() // BLOCKS) // max(1, matrix.shape[1])))


def _fill(weight: Tensor, blocks: Iterator[Tensor], here: slice) -> None:
    """Copy those rows that a process holds."""
    start = 0
    for block in blocks:
        first, stop = max(here.start, start), min(here.stop, start + len(block))
        if first < stop:
            weight[first - here.start : stop - here.start].copy_(block[first - start : stop - start])
        start += len(block)


def settings(choice: Choice) -> dict[str, Any]:
    """Name and settings of a choice, as a folder holds them.

    Raises
    ------
    InputError
        If a choice of this library has the same name.
    """
    name = type(choice).__name__
    if Choice.named(name) is not type(choice):
        raise InputError(f"choice: expected a class whose name no other choice has, found a second {name}")
    return {"choice": name, **choice.settings()}
