"""Splicing: a sparse autoencoder in place of a model's activations."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sae_torch.activations.sites import hidden_state, resolve_site, with_hidden_state
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError


class Autoencoder(Protocol):
    """What splicing needs of an autoencoder."""

    def encode(self, x: Tensor) -> SparseCodes:
        """Sparse codes of ``(tokens, d_model)`` activations."""
        ...

    def decode(self, codes: SparseCodes) -> Tensor:
        """``(tokens, d_model)`` reconstruction of codes."""
        ...


@contextlib.contextmanager
def splice(
    model: nn.Module,
    site: str,
    sae: Autoencoder | nn.Identity,
    *,
    error_term: bool = False,
    ablate: Iterable[int] = (),
    scale: Mapping[int, float] | None = None,
    skip_first: bool = True,
) -> Iterator[None]:
    """Replace the activations at a site by an autoencoder's reconstructions while the context lasts.

    ``h <- decode(s * encode(h))``, and with the error term ``h <- h + decode(s * encode(h)) - decode(encode(h))``

    where `s` is 1 for every feature that is neither ablated nor scaled, so that the error term without an
    intervention leaves the activations bit for bit as they are. Works in every forward pass inside the
    context, generation with a cache included. The autoencoder runs as it is: put it in evaluation mode for
    its batch-free form.

    Parameters
    ----------
    model
        A transformers model.
    site
        ``"hidden_states[n]"`` or a module path; the module's output is a tensor or a tuple that starts with one.
    sae
        An autoencoder with ``encode`` and ``decode``; ``torch.nn.Identity()`` replaces activations by
        themselves.
    error_term
        Whether to add what the autoencoder misses, so that only the intervention changes the activations.
    ablate
        Features whose activation becomes 0.
    scale
        Factor by feature, for features whose activation is multiplied.
    skip_first
        Whether position 0 keeps its activation: autoencoders here never train on it.

    Raises
    ------
    InputError
        If the site does not exist, or a feature is both ablated and scaled, or does not exist.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    >>> x = torch.randn(2, 3, 4)
    >>> before = block(x)
    >>> with splice(block, "0", nn.Identity()):
    ...     torch.equal(block(x), before)
    True
    """
    factors = _factors(ablate, scale)
    if isinstance(sae, nn.Identity) and factors:
        raise InputError("an identity has no features, but `ablate` or `scale` names some")

    def replace(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        hidden = hidden_state(output)
        flat = hidden.reshape(-1, hidden.shape[-1])
        rows = _rows_after_first(hidden, kwargs) if skip_first else None
        kept = flat if rows is None else flat[rows]
        if len(kept) == 0:
            return output
        new = _reconstruct(sae, kept, factors, error_term)
        if rows is not None:
            new = flat.index_copy(0, rows, new)
        return with_hidden_state(output, new.view(hidden.shape))

    handle = resolve_site(model, site).register_forward_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _factors(ablate: Iterable[int], scale: Mapping[int, float] | None) -> dict[int, float]:
    ablated = {int(feature): 0.0 for feature in ablate}
    scaled = {int(feature): float(factor) for feature, factor in (scale or {}).items()}
    both = sorted(ablated.keys() & scaled.keys())
    if both:
        raise InputError(f"feature {both[0]} is in `ablate` and in `scale`, expected in one of them")
    return ablated | scaled


def _reconstruct(sae: Autoencoder | nn.Identity, x: Tensor, factors: Mapping[int, float], error_term: bool) -> Tensor:
    if isinstance(sae, nn.Identity) or (error_term and not factors):
        return x
    parameter = next(sae.parameters(), None) if isinstance(sae, nn.Module) else None
    inputs = x.float() if parameter is None else x.to(parameter.device, parameter.dtype)
    codes = sae.encode(inputs)
    changed = _scaled(codes, factors)
    out = sae.decode(changed)
    if error_term:
        out = inputs + (out - sae.decode(codes))
    return out.to(x.device, x.dtype)


def _scaled(codes: SparseCodes, factors: Mapping[int, float]) -> SparseCodes:
    if not factors:
        return codes
    n_features = codes.shape[1]
    wrong = [feature for feature in factors if not 0 <= feature < n_features]
    if wrong:
        raise InputError(f"feature {wrong[0]} does not exist, expected 0 to {n_features - 1}")
    by_feature = torch.ones(n_features, dtype=codes.values.dtype, device=codes.values.device)
    by_feature[list(factors)] = torch.tensor(list(factors.values()), dtype=by_feature.dtype, device=by_feature.device)
    return codes.with_values(codes.values * by_feature[codes.features])


def _rows_after_first(hidden: Tensor, kwargs: Mapping[str, Any]) -> Tensor:
    """Flat indices of tokens beyond position 0; with a cache only the block's own arguments know positions."""
    positions = kwargs.get("position_ids")
    if positions is None:
        positions = torch.arange(hidden.shape[-2], device=hidden.device)
    return (positions.expand(hidden.shape[:-1]) > 0).reshape(-1).nonzero().squeeze(1)
