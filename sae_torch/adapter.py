"""Modules of the user's own that hold a choice: where its scores are read, and which weight is which."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.choices.choice import Choice, as_matrix
from sae_torch.choices.thresholds import Threshold
from sae_torch.errors import InputError

# Tokens of the random batch on which a module is compared with the formula of its weights, and how close they are.
PROBED, CLOSE = 64, 1e-3
_POSITIVE = Threshold(0.0)


class _ScoresRead(Exception):  # noqa: N818 - no error: it ends a forward whose rest nobody needs
    """The choice of a module has been given its scores."""


def choice_in(module: nn.Module) -> Choice:
    """The one choice of a module.

    Raises
    ------
    InputError
        If it has none, or several.
    """
    found = [part for part in module.modules() if isinstance(part, Choice)]
    inner = {id(part) for one in found for part in one.modules() if part is not one}
    found = [one for one in found if id(one) not in inner]
    if len(found) != 1:
        raise InputError(f"module: expected one sae_torch choice among its submodules, found {len(found)}")
    return found[0]


@torch.no_grad()
def scores_in(module: nn.Module, batch: Any) -> Tensor:
    """What a module gives its choice for a batch: a (tokens, features) matrix. Nothing of its state changes.

    Raises
    ------
    InputError
        If it does not call the choice as a module, ``self.choice(scores)``.
    """
    read: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Any, ...]) -> None:
        read.append(as_matrix(given[0].detach())[0])
        raise _ScoresRead

    cause: InputError | None = None
    handle = choice_in(module).register_forward_pre_hook(keep)
    try:
        with _in_eval_mode(module):
            module(batch)
    except _ScoresRead:
        return read[0]
    except InputError as error:  # of a choice that is asked in another way and has no thresholds yet
        cause = error
    finally:
        handle.remove()
    raise InputError("module: expected a forward that calls its choice, self.choice(scores), found none") from cause


@contextlib.contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    """Evaluate, and leave every part in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


class Adapter:
    """An autoencoder of your own, as `st.save` reads it: which of its weights is which.

    ::

        s = (x - b_dec) W_enc + b_enc  [ * ||W_dec|| ],   a = choice(s),   x_hat = a W_dec + b_dec

    The weights alone do not say whether `b_dec` is subtracted first, nor whether scores count decoder norms. So the
    module is asked: on a random batch its scores and its reconstruction must be those of one of these forms.

    Parameters
    ----------
    module : torch.nn.Module
        Holds one choice, called as ``self.choice(scores)``. In eval mode ``module(x)`` returns the reconstruction of
        (tokens, d_model) activations: alone, first in a tuple, or as `x_hat`.
    encoder : torch.nn.Linear or (d_model, n_features) tensor
    decoder : torch.nn.Linear or (n_features, d_model) tensor
    b_enc : (n_features,) tensor, optional
        The bias of a linear encoder by default.
    b_dec : (d_model,) tensor, optional
        The bias of a linear decoder by default.

    Raises
    ------
    InputError
        If the module has no choice or several, or a weight has another shape.

    Examples
    --------
    >>> import tempfile, torch, sae_torch as st
    >>> class Mine(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.encoder, self.decoder = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
    ...         self.choice = st.MutualChoice(k=4)
    ...     def forward(self, x):
    ...         return self.decoder(self.choice(self.encoder(x)).to_dense())
    >>> mine, x = Mine(), torch.randn(500, 8)
    >>> st.calibrate(mine, [x])
    >>> adapter = st.Adapter(mine, encoder=mine.encoder, decoder=mine.decoder)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sae = st.load(st.save(adapter, folder))
    >>> torch.allclose(sae(x).x_hat, mine.eval()(x), atol=1e-5)
    True
    """

    def __init__(
        self,
        module: nn.Module,
        encoder: nn.Linear | Tensor,
        decoder: nn.Linear | Tensor,
        b_enc: Tensor | None = None,
        b_dec: Tensor | None = None,
    ) -> None:
        self.module, self.choice = module, choice_in(module)
        self._given = (encoder, decoder, b_enc, b_dec)
        self.weights()  # refuses shapes

    def weights(self) -> Weights:
        """Copies of the weights in main memory, as they are now.

        Raises
        ------
        InputError
            If one has another shape.
        """
        encoder, decoder, b_enc, b_dec = self._given
        if isinstance(encoder, nn.Linear):
            b_enc = encoder.bias if b_enc is None else b_enc
            encoder = encoder.weight.T
        if isinstance(decoder, nn.Linear):
            b_dec = decoder.bias if b_dec is None else b_dec
            decoder = decoder.weight.T
        W_enc, W_dec = (_matrix(name, part) for name, part in (("encoder", encoder), ("decoder", decoder)))
        d, F = W_enc.shape
        if W_dec.shape != (F, d):
            raise InputError(
                f"decoder: expected (n_features, d_model) = ({F}, {d}) beside an encoder of (d_model, n_features) = "
                f"({d}, {F}), found {tuple(W_dec.shape)}"
            )
        b_enc = W_enc.new_zeros(F) if b_enc is None else b_enc.detach().cpu()
        b_dec = W_enc.new_zeros(d) if b_dec is None else b_dec.detach().cpu()
        for name, bias, size in (("b_enc", b_enc, F), ("b_dec", b_dec, d)):
            if bias.shape != (size,):
                raise InputError(f"{name}: expected shape ({size},), found {tuple(bias.shape)}")
        return Weights(W_enc, b_enc.to(W_enc), W_dec, b_dec.to(W_enc))

    @torch.no_grad()
    def checked(self) -> Weights:
        """Weights for an encoder that reads ``x - b_dec`` and scores that are its pre-activations.

        Raises
        ------
        InputError
            If the module's scores or reconstruction are those of no known form.
        """
        given = self.weights()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(PROBED, len(given.b_dec), generator=generator)
        x = (given.b_dec.float() + noise).to(given.W_dec)  # near its mean, where no bias is lost in rounding
        like = next(self.module.parameters())
        try:
            scores = scores_in(self.module, x.to(like)).cpu()
        except RuntimeError as error:
            raise InputError(
                f"encoder: expected (d_model, n_features), found {tuple(given.W_enc.shape)}, and the module reads no "
                f"activations of width {len(given.b_dec)}; an nn.Linear's weight is the transpose, so pass the Linear "
                f"itself ({error})"
            ) from error
        close_to_scores = [form for form in given.forms() if _close(form.scores(x), scores)]
        if not close_to_scores:
            raise InputError(
                "module: expected scores (x - b_dec) W_enc + b_enc or x W_enc + b_enc, as they are or times the norms "
                "of the decoder rows, found others; is every bias passed to Adapter, and is nothing else done to x?"
            )
        x_hat = self._reconstruction(x.to(like))
        for form in close_to_scores:
            if _close(scores.clamp_min(0.0) @ form.W_dec + form.b_dec, x_hat):
                return form
        raise InputError(
            "module: expected a reconstruction a W_dec + b_dec of the activations a that the choice returns, found "
            "another; is the decoder's bias passed to Adapter, and is nothing else done to the activations?"
        )

    def _reconstruction(self, x: Tensor) -> Tensor:
        """What the module makes of all positive scores: thresholds may let nothing of a random batch through."""
        handle = self.choice.register_forward_hook(lambda _, given, codes: _POSITIVE(given[0]))
        try:
            with _in_eval_mode(self.module):
                out = self.module(x)
        finally:
            handle.remove()
        out = getattr(out, "x_hat", out[0] if isinstance(out, (tuple, list)) else out)
        if not isinstance(out, Tensor) or out.shape != x.shape:
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise InputError(
                f"module: expected a forward that returns the reconstruction of x, {tuple(x.shape)}, alone, first or "
                f"as x_hat, found {found}"
            )
        return out.cpu()


@dataclass(frozen=True, eq=False)
class Weights:
    """Of an encoder that reads ``x - b_dec``, and a decoder of its activations."""

    W_enc: Tensor
    b_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor

    def scores(self, x: Tensor) -> Tensor:
        """Pre-activations."""
        return (x - self.b_dec) @ self.W_enc + self.b_enc

    def forms(self) -> Iterator[Weights]:
        """Weights of this form for every way in which a module may use those that it has."""
        norms = self.W_dec.norm(dim=1)
        safe = norms.clamp_min(torch.finfo(norms.dtype).tiny)
        absorbed = self.b_enc + self.b_dec @ self.W_enc  # of one that reads x itself
        for b_enc, counts_norms in itertools.product((self.b_enc, absorbed), (False, True)):
            if not counts_norms:
                yield Weights(self.W_enc, b_enc, self.W_dec, self.b_dec)
                continue
            for W_dec in (self.W_dec, self.W_dec / safe[:, None]):
                yield Weights(self.W_enc * norms, b_enc * norms, W_dec, self.b_dec)


def _matrix(name: str, given: Any) -> Tensor:
    if not isinstance(given, Tensor) or given.ndim != 2:
        found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"{name}: expected a torch.nn.Linear or a matrix, found {found}")
    return given.detach().cpu()


def _close(formula: Tensor, found: Tensor) -> bool:
    """Whether two matrices are the same but for rounding; rectified scores decide as those below 0 do."""
    if formula.shape != found.shape:
        return False
    rectified = bool((found >= 0).all())
    formula = formula.clamp_min(0.0) if rectified else formula
    scale = float(found.abs().max()) or 1.0
    return bool((formula - found).abs().max() <= CLOSE * scale * (8 if formula.dtype.itemsize < 4 else 1))
