"""Sites: where in a model activations are read or replaced."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sae_torch.activations.model_call import original, uncompiled, without_cache
from sae_torch.activations.module_calls import require_single_call
from sae_torch.activations.numbering import require_agreement
from sae_torch.errors import InputError

_HIDDEN_STATE = re.compile(r"hidden_states\[(\d+)\]")
_BEFORE_BLOCK = re.compile(r"^blocks\.(\d+)\.hook_resid_pre$")
_FIRST = "hidden_states[0]"
# families whose modules pass (length, windows, width); a batch of as many windows as tokens would hide that
_LENGTH_FIRST = frozenset({"xlnet"})


def resolve_site(model: nn.Module, site: str) -> nn.Module:
    """Module whose output is the site.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model, or any module if `site` is a module path.
    site : str
        ``"hidden_states[n]"`` is the residual stream after block ``n - 1`` (n = 0: the embeddings), as transformers
        numbers it. Anything else is a dotted module path such as ``"model.layers.10"``. For n = 0 it is the module of
        the embeddings, to which some models add positions before block 0: `hook_at` reads and replaces what block 0
        takes in.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    InputError
        If there is no such module, it is a container that no forward pass calls, or transformers' hidden state is
        another tensor; the text says what there is.

    Examples
    --------
    >>> from torch import nn
    >>> resolve_site(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), "1")
    ReLU()
    """
    model = original(model)
    if getattr(getattr(model, "config", None), "model_type", None) in _LENGTH_FIRST:
        raise InputError(
            f"site: expected a model whose activations have shape (windows, length, d_model), found "
            f"{type(model).__name__}, where it is (length, windows, d_model)"
        )
    match = _HIDDEN_STATE.fullmatch(site)
    if match is None:
        try:
            module = model.get_submodule(site)
        except AttributeError:
            children = ", ".join(name for name, _ in model.named_children())
            raise InputError(
                f"site: expected 'hidden_states[n]' or a module path that starts with one of {children}, found "
                f"{site!r}, which is no module of {type(model).__name__}"
            ) from None
        if type(module).forward is nn.Module.forward:
            raise InputError(
                f"site: expected a module that is called, found {site!r}, a {type(module).__name__} of "
                f"{len(list(module.children()))} modules; name one of them"
            )
        return module
    index = int(match[1])
    layers = require_agreement(model, index)
    if index == 0:
        embeddings = model.get_input_embeddings()  # type: ignore[operator]
        assert isinstance(embeddings, nn.Module)
        return embeddings
    # transformers puts the last hidden state after the final norm, so it is not the output of a block
    if index >= len(layers):
        raise InputError(
            f"site: expected an index from 0 to {len(layers) - 1}, since {type(model).__name__} has {len(layers)} "
            f"blocks, found {site!r}; for the last block's output name its module"
        )
    return layers[index - 1]


def hook_name(site: str) -> str:
    """Name that TransformerLens and the SAELens folder format give to a site; module paths stay as they are.

    Examples
    --------
    >>> hook_name("hidden_states[11]")
    'blocks.10.hook_resid_post'
    """
    match = _HIDDEN_STATE.fullmatch(site)
    if match is None:
        return site
    index = int(match[1])
    return f"blocks.{index - 1}.hook_resid_post" if index else "blocks.0.hook_resid_pre"


def are_other_sites(one: str, other: str) -> bool:
    """Whether two names of `hook_name` are of different sites; names of two kinds cannot be compared.

    Examples
    --------
    >>> are_other_sites("blocks.10.hook_resid_post", "blocks.5.hook_resid_post")
    True
    >>> are_other_sites("blocks.11.hook_resid_pre", "blocks.10.hook_resid_post")
    False
    """
    if one.startswith("blocks.") != other.startswith("blocks."):
        return False
    # what a block reads is what the one before it gives
    after = [_BEFORE_BLOCK.sub(lambda found: hook_name(f"hidden_states[{found[1]}]"), name) for name in (one, other)]
    return after[0] != after[1]


def hidden_state(output: Any) -> Tensor:
    """Hidden state in a module's output, which is a tensor, or a tuple or list that starts with one.

    Raises
    ------
    TypeError
        If it is neither.
    """
    hidden = output[0] if isinstance(output, tuple | list) else output
    if not isinstance(hidden, Tensor):
        raise TypeError(
            f"output of the site's module: expected a tensor or a tuple of one, found {type(hidden).__name__}"
        )
    return hidden


def with_hidden_state(output: Any, hidden: Tensor) -> Any:
    """The same output with its hidden state replaced."""
    if isinstance(output, list):
        return [hidden, *output[1:]]
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


class _SitesReachedError(Exception):
    """Ends a forward pass at the last site; the rest of the model is not needed."""


def output_at(model: nn.Module, site: str, token_ids: Tensor) -> Any:
    """Run a model up to a site, and return what the site's module returns.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model.
    site : str
        Where to stop.
    token_ids : (windows, length) integer tensor
        Windows, on the model's device.

    Returns
    -------
    tensor or tuple
        The module's output; `hidden_state` takes the activations out of it.

    Raises
    ------
    InputError
        If there is no such site, or the forward pass reaches it never or more than once.
    """
    return outputs_at(model, (site,), token_ids)[0]


def outputs_at(model: nn.Module, sites: Sequence[str], token_ids: Tensor) -> list[Any]:
    """Run a model up to the last of several sites, and return what the module of each returns, as `output_at` does."""
    model = original(model)
    reached: dict[str, Any] = {}
    handles: list[RemovableHandle] = []

    def reach(site: str, output: Any, named: Mapping[str, Any]) -> None:
        if len(handles) < len(set(sites)):
            return  # to find a later site, windows of another size may pass through the model
        reached[site] = output
        if len(reached) == len(handles):
            raise _SitesReachedError

    try:
        for site in dict.fromkeys(sites):
            handles.append(hook_at(model, site, partial(reach, site)))  # noqa: PERF401 - what is set is removed
        with torch.inference_mode(), uncompiled():
            model(input_ids=token_ids.long(), **without_cache(model))
    except _SitesReachedError:
        return [reached[site] for site in sites]
    finally:
        for handle in handles:
            handle.remove()
    missed = next(site for site in sites if site not in reached)
    raise InputError(f"site: expected a module that the forward pass reaches, found {missed!r}, which it does not")


def hook_at(model: nn.Module, site: str, change: Callable[[Any, Mapping[str, Any]], Any]) -> RemovableHandle:
    """Read or replace what a site holds, in every forward pass until the handle is removed.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model.
    site : str
        Where.
    change : callable (held, arguments) -> anything
        Called with what the site holds and the named arguments of its module. What it returns replaces that; None
        leaves it.

    Returns
    -------
    torch.utils.hooks.RemovableHandle
        Its ``remove()`` ends this.

    Raises
    ------
    InputError
        If there is no such site, or a forward pass comes by it more than once.
    """
    module = site_module(model, site)
    if site != _FIRST:
        return module.register_forward_hook(
            lambda module, inputs, named, output: change(output, named), with_kwargs=True
        )

    # what enters the first block; the embeddings alone lack the positions that some models add to them
    def before(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        new = change(inputs[0] if inputs else named["hidden_states"], named)
        if new is None:
            return None
        return ((new, *inputs[1:]), named) if inputs else (inputs, named | {"hidden_states": new})

    return module.register_forward_pre_hook(before, with_kwargs=True)


def site_module(model: nn.Module, site: str) -> nn.Module:
    """The module that `hook_at` hooks: that of `resolve_site`, or block 0, which ``hidden_states[0]`` enters.

    Raises
    ------
    InputError
        If there is no such module, or a forward pass calls it more than once.
    """
    module = resolve_site(model, site)
    hooked = require_agreement(model, 0)[0] if site == _FIRST else module
    require_single_call(original(model), hooked, site)
    return hooked
