"""How often one forward pass calls a module: what is called again is no single place to read or replace."""

from __future__ import annotations

from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from sae_torch.activations.model_call import short_pass
from sae_torch.errors import InputError

# kept, since counting costs a forward pass of a few tokens
_CALLED_AGAIN: WeakKeyDictionary[nn.Module, WeakKeyDictionary[nn.Module, int]] = WeakKeyDictionary()


def require_single_call(model: nn.Module, module: nn.Module, site: str) -> None:
    """Refuse a module that is shared between layers, or runs in a loop: reading meets its first call, replacing all.

    A model of which nothing is known, or which does not run on token ids alone and without its hooks, passes.

    Raises
    ------
    InputError
        If a forward pass calls the module more than once.
    """
    if getattr(model, "config", None) is None:
        return
    if model not in _CALLED_AGAIN:
        counted = _counted(model)
        _CALLED_AGAIN[model] = WeakKeyDictionary({each: n for each, n in counted.items() if n > 1})
    calls = _CALLED_AGAIN[model].get(module, 1)
    if calls > 1:
        raise InputError(
            f"site: expected a module that a forward pass calls once, found {site!r}, which {type(model).__name__} "
            f"calls {calls} times"
        )


def _counted(model: nn.Module) -> Counter[nn.Module]:
    """Calls by module; none if the model does not run.

    Hooks of the model are set aside meanwhile: those of the caller must not see made-up tokens.
    """
    calls: Counter[nn.Module] = Counter()
    hooks = [held for module in model.modules() for held in (module._forward_pre_hooks, module._forward_hooks)]
    aside: list[dict[int, Any]] = [dict(held) for held in hooks]
    for held in hooks:
        held.clear()
    handles = [
        module.register_forward_pre_hook(lambda module, inputs: calls.update([module])) for module in model.modules()
    ]
    try:
        short_pass(model)
    except Exception:  # whatever a model lacks that is given token ids alone
        return Counter()
    finally:
        for handle in handles:
            handle.remove()
        for held, before in zip(hooks, aside, strict=True):
            held.update(before)
    return calls
