"""Splicing: a sparse autoencoder in place of a model's activations, a transcoder in place of one of its modules."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sae_torch.activations.layout import token_rows, with_token_rows
from sae_torch.activations.model_call import original, uncompiled
from sae_torch.activations.sites import hidden_state, hook_at, site_module, with_hidden_state
from sae_torch.codes import SparseCodes
from sae_torch.errors import InputError
from sae_torch.evaluation.positions import ModelCalls
from sae_torch.evaluation.sides import reconstruction, takes_pairs
from sae_torch.sparse_coder import SparseCoder


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
    add: Mapping[int, float] | None = None,
    skip_first: bool = True,
    source: str | None = None,
) -> Iterator[None]:
    """Replace the activations at a site by an autoencoder's reconstructions while the context lasts.

    ``h <- decode(s * encode(h) + t)``, with the error term ``h <- h + decode(s * encode(h) + t) - decode(encode(h))``

    where `s` is 1 for every feature that is neither ablated nor scaled, and `t` what is added, so that the error term
    without an intervention leaves the activations bit for bit as they are. A transcoder computes what its module does:
    ``encode`` reads what goes into the module, and what comes out is replaced. Works in every forward pass inside the
    context, generation with a cache and padded batches included. The autoencoder runs as it is: put it in evaluation
    mode for its batch-free form. Compiled models run as written while the context lasts.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model.
    site : str
        ``"hidden_states[n]"`` or a module path; the module's output is a tensor or a tuple that starts with one. With a
        transcoder the path of the module that it computes.
    sae : autoencoder, Transcoder or torch.nn.Identity
        Anything with ``encode`` and ``decode``; ``torch.nn.Identity()`` replaces activations by themselves.
    error_term : bool
        Whether to add what the autoencoder misses, so that only the intervention changes the activations.
    ablate : iterable of int
        Features whose activation becomes 0.
    scale : mapping of int to float, optional
        Factor by feature, for features whose activation is multiplied.
    add : mapping of int to float, optional
        What is added to the activation of a feature on every token, whether it is active there or not: steering.
    skip_first : bool
        Whether the first token of each text keeps its activation, as padding does: autoencoders here never train on
        it. Which it is tell the position ids, the attention mask and the cache of the model's call.
    source : str, optional
        Site that a transcoder reads, earlier in the same pass; by default what goes into the module itself.

    Raises
    ------
    InputError
        If the site does not exist, a feature is both ablated and scaled or does not exist, or a number is not finite;
        in a forward pass, if it does not come by the site, or does not tell which token is the first.

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
    factors, added = _factors(ablate, scale), _finite("add", add)
    if isinstance(sae, nn.Identity) and (factors or added):
        raise InputError(
            "sae: expected an autoencoder with the features that `ablate`, `scale` or `add` name, found an identity"
        )

    model = original(model)
    calls = ModelCalls()
    given = _Given(model, site, source) if takes_pairs(sae) else None
    if given is None and source is not None:
        raise InputError(f"source: expected none but for a transcoder, found {source!r}")

    def replace(output: Any, kwargs: Mapping[str, Any]) -> Any:
        calls.reached = True
        hidden = hidden_state(output)
        rows, after = _rows_and_after(hidden, kwargs, calls, skip_first)
        flat = rows.reshape(-1, rows.shape[-1])
        chosen = None if after is None else after.to(hidden.device).reshape(-1).nonzero().squeeze(1)
        replaced = flat if chosen is None else flat[chosen]
        if len(replaced) == 0:
            return output
        read = replaced if given is None else given.rows(rows.shape, chosen)
        new = _reconstruct(sae, read, replaced, factors, added, error_term)
        if chosen is not None:
            new = flat.index_copy(0, chosen, new)
        return with_hidden_state(output, with_token_rows(hidden, new.view(rows.shape)))

    with uncompiled(), calls.watching(model, site_module(model, site), site), given or contextlib.nullcontext():
        handle = hook_at(model, site, replace)
        try:
            yield
        finally:
            handle.remove()


class _Given(contextlib.AbstractContextManager["_Given"]):
    """What a transcoder reads: what went into its module last, or what another site held."""

    def __init__(self, model: nn.Module, site: str, source: str | None) -> None:
        if site.startswith("hidden_states["):
            raise InputError(f"site: expected the path of the module that the transcoder computes, found {site!r}")
        self.model, self.site, self.source = model, site, source
        self._last: Tensor | None = None
        self._handle: RemovableHandle | None = None

    def __enter__(self) -> _Given:
        if self.source is None:
            module = site_module(self.model, self.site)
            self._handle = module.register_forward_pre_hook(self._enters, with_kwargs=True)
        else:
            self._handle = hook_at(self.model, self.source, lambda held, _: self._keep(hidden_state(held)))
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

    def _enters(self, module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        tensors = (value for value in (*inputs, *named.values()) if isinstance(value, Tensor))
        self._keep(next(tensors, None))

    def _keep(self, held: Tensor | None) -> None:
        self._last = held

    def rows(self, shape: torch.Size, chosen: Tensor | None) -> Tensor:
        """Rows of the tokens that are replaced, of activations whose rows have this shape."""
        if self._last is None:
            found = "the module is given no tensor" if self.source is None else f"nothing passed {self.source!r} before"
            raise InputError(f"site: expected an input for the transcoder at {self.site!r}, but {found}")
        rows = token_rows(self._last, shape[0], shape[1]) if len(shape) == 3 else self._last
        flat = rows.reshape(-1, rows.shape[-1])
        return flat if chosen is None else flat[chosen]


def _factors(ablate: Iterable[int], scale: Mapping[int, float] | None) -> dict[int, float]:
    ablated = {int(feature): 0.0 for feature in ablate}
    scaled = _finite("scale", scale)
    both = sorted(ablated.keys() & scaled.keys())
    if both:
        raise InputError(f"feature {both[0]}: expected in `ablate` or in `scale`, found in both")
    return ablated | scaled


def _finite(name: str, given: Mapping[int, float] | None) -> dict[int, float]:
    values = {int(feature): float(value) for feature, value in (given or {}).items()}
    for feature, value in values.items():
        if not math.isfinite(value):
            raise InputError(f"{name}: expected a finite number for feature {feature}, found {value}")
    return values


def _reconstruct(
    sae: Autoencoder | nn.Identity,
    x: Tensor,
    target: Tensor,
    factors: Mapping[int, float],
    added: Mapping[int, float],
    error_term: bool,
) -> Tensor:
    if isinstance(sae, nn.Identity) or (error_term and not factors and not any(added.values())):
        return target
    parameter = next(sae.parameters(), None) if isinstance(sae, nn.Module) else None
    inputs = x.float() if parameter is None else x.to(parameter.device, parameter.dtype)
    codes = sae.encode(inputs)
    edited = _scaled(codes, factors)
    if error_term and isinstance(sae, SparseCoder):
        # of what is not edited nothing is rounded: neither the activations nor what all features add
        change = sae.added(codes.with_values(edited.values - codes.values), inputs)
        if added:
            change = change + _direction(sae, codes, inputs, added)
        wide = torch.promote_types(target.dtype, change.dtype)
        return (target.to(wide) + change.to(target.device, wide)).to(target.dtype)
    out = reconstruction(sae, edited, inputs)
    if added:
        out = out + _direction(sae, codes, inputs, added)
    if error_term:
        out = target.to(out.device, out.dtype) + (out - reconstruction(sae, codes, inputs))
    return out.to(target.device, target.dtype)


def _direction(sae: Autoencoder, codes: SparseCodes, x: Tensor, added: Mapping[int, float]) -> Tensor:
    """What the same features add to every token: decoding is linear, so that one token without matches tells.

    With an input transform every token has units of its own.
    """
    _require_features(added, codes.shape[1])
    features = torch.tensor(sorted(added), device=codes.features.device)
    values = torch.tensor([added[int(feature)] for feature in features], dtype=codes.values.dtype)
    one = SparseCodes(torch.zeros_like(features), features, values.to(codes.values.device), (1, codes.shape[1]))
    if isinstance(sae, SparseCoder):
        return sae.added(one, x)
    zeros = one.with_values(torch.zeros_like(one.values))
    return reconstruction(sae, one, x[:1]) - reconstruction(sae, zeros, x[:1])


def _scaled(codes: SparseCodes, factors: Mapping[int, float]) -> SparseCodes:
    if not factors:
        return codes
    n_features = codes.shape[1]
    _require_features(factors, n_features)
    by_feature = torch.ones(n_features, dtype=codes.values.dtype, device=codes.values.device)
    by_feature[list(factors)] = torch.tensor(list(factors.values()), dtype=by_feature.dtype, device=by_feature.device)
    return codes.with_values(codes.values * by_feature[codes.features])


def _require_features(named: Iterable[int], n_features: int) -> None:
    wrong = [feature for feature in named if not 0 <= feature < n_features]
    if wrong:
        raise InputError(f"feature: expected 0 to {n_features - 1}, found {wrong[0]}")


def _rows_and_after(
    hidden: Tensor, kwargs: Mapping[str, Any], calls: ModelCalls, skip_first: bool
) -> tuple[Tensor, Tensor | None]:
    """Activations, one row a token where a call of the model tells the tokens, and which come after the first.

    None stands for all.
    """
    shape = calls.shape
    if shape is None and hidden.ndim == 3:  # a module that is called by itself
        shape = (hidden.shape[0], hidden.shape[1])
    if not skip_first:
        try:
            return hidden if shape is None else token_rows(hidden, *shape), None
        except InputError:
            return hidden, None  # of experts, for instance, each takes some of the tokens
    if shape is None:
        raise InputError(
            f"skip_first: expected False where no call of the model tells positions, found True and activations of "
            f"shape {tuple(hidden.shape)}"
        )
    rows = token_rows(hidden, *shape)
    after = calls.after_first(*shape)
    if after is None:
        positions = kwargs.get("position_ids")
        if positions is None:
            positions = torch.arange(shape[1], device=hidden.device)
        after = positions.expand(shape) > 0
    return rows, after
