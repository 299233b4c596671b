"""Which modules `hidden_states[n]` stands for: blocks, compared once with what transformers itself returns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sae_torch.activations.model_call import original, short_pass, text_config
from sae_torch.errors import InputError

# What transformers marks a model by that has its recording hooks.
_INSTALLED = "_output_capturing_hooks_installed"


@dataclass(frozen=True)
class _Numbering:
    """What the comparison found."""

    blocks: nn.ModuleList
    """The list that agrees with most of the hidden states."""
    agrees: tuple[bool, ...]
    """By index of a hidden state: whether it is what enters block 0 (index 0), or the output of the block before."""
    path: str
    """Of the list in the model."""
    lower: bool
    """Whether a hidden state is the output of the block of its own index."""


# kept, since the comparison costs a forward pass of a few tokens
_FOUND: WeakKeyDictionary[nn.Module, _Numbering] = WeakKeyDictionary()


def blocks(model: nn.Module) -> nn.ModuleList:
    """Transformer blocks of a model: a list of as many modules as its text stack has layers.

    Where several lists are as long, the one whose outputs are the hidden states that transformers returns.

    Raises
    ------
    InputError
        If there is no such list, or the model does not run on token ids alone.
    """
    return _numbering(original(model)).blocks


def require_agreement(model: nn.Module, index: int) -> nn.ModuleList:
    """Blocks of a model, of which one holds hidden state `index` as transformers numbers it.

    Raises
    ------
    InputError
        If transformers' hidden state is another tensor; the text names the module that holds it, where one does.
    """
    model = original(model)
    numbering = _numbering(model)
    if index < len(numbering.agrees) and not numbering.agrees[index]:
        ours = f"the output of {numbering.path}.{index - 1}" if index else f"what enters {numbering.path}.0"
        lower = f"the output of {numbering.path}.{index}"
        theirs = lower if numbering.lower else "another tensor; name a module by its path"
        raise InputError(f"site: expected {ours} in 'hidden_states[{index}]' of {type(model).__name__}, found {theirs}")
    return numbering.blocks


def _numbering(model: nn.Module) -> _Numbering:
    known = _FOUND.get(model)
    if known is None or all(module is not known.blocks for module in model.modules()):
        known = _FOUND[model] = _compare(model)
    return known


def _compare(model: nn.Module) -> _Numbering:
    config = text_config(model)
    depth = getattr(config, "num_hidden_layers", None)
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    }
    if not lists:
        raise InputError(
            f"site: expected a list of {depth} blocks in {type(model).__name__}, to which 'hidden_states[n]' refers, "
            "found none; name the module by its path"
        )
    entered: dict[str, Tensor] = {}
    left: dict[tuple[str, int], Tensor] = {}
    handles = []
    for path, modules in lists.items():

        def enter(module: nn.Module, inputs: Any, named: dict[str, Any], path: str = path) -> None:
            entered.setdefault(path, _copy(inputs[0] if inputs else named.get("hidden_states")))

        handles.append(modules[0].register_forward_pre_hook(enter, with_kwargs=True))
        for index, module in enumerate(modules):

            def leave(module: nn.Module, inputs: Any, output: Any, key: tuple[str, int] = (path, index)) -> None:
                left.setdefault(key, _copy(output[0] if isinstance(output, tuple | list) else output))

            handles.append(module.register_forward_hook(leave))
    try:
        with _hooks_as_before(model):
            states = _hidden_states(model)
    finally:
        for handle in handles:
            handle.remove()
    candidates = []
    for path, modules in lists.items():
        outputs = [left.get((path, index)) for index in range(len(modules))]
        # the last hidden state comes after the final norm, so it is not compared
        agrees = [_same(held, state) for held, state in zip([entered.get(path), *outputs[:-1]], states, strict=False)]
        lower = all(_same(held, state) for held, state in zip(outputs[:-1], states, strict=False))
        candidates.append(_Numbering(modules, tuple(agrees), path, lower))
    return max(candidates, key=lambda found: (found.lower, sum(found.agrees[1:])))


@contextlib.contextmanager
def _hooks_as_before(model: nn.Module) -> Iterator[None]:
    """Take away the hooks by which transformers (5.24) records hidden states from then on.

    Made so early they come before those of the user, whose changes the model's `hidden_states` would then lack. The
    model makes them anew when it is asked for hidden states.
    """
    modules = list(model.modules())
    names = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")
    tables: list[dict[int, Any]] = [getattr(module, name) for module in modules for name in names]
    before = [set(table) for table in tables]
    made = [module for module in modules if not getattr(module, _INSTALLED, False)]
    try:
        yield
    finally:
        for table, kept in zip(tables, before, strict=True):
            for key in set(table) - kept:
                del table[key]
        for module in made:
            if getattr(module, _INSTALLED, False):
                setattr(module, _INSTALLED, False)


def _copy(held: Any) -> Tensor:
    return held.detach().clone() if isinstance(held, Tensor) else torch.empty(0)


def _same(held: Tensor | None, state: Tensor) -> bool:
    return held is not None and held.shape == state.shape and torch.equal(held.to(state.device), state)


def _hidden_states(model: nn.Module) -> tuple[Tensor, ...]:
    try:
        output = short_pass(model, output_hidden_states=True, return_dict=True)
        states: tuple[Tensor, ...] | None = getattr(output, "hidden_states", None)
    except Exception as error:  # whatever a model lacks that is given token ids alone
        found = " ".join(str(error).split())[:200]
        raise InputError(
            f"site: expected a model that runs on token ids alone, so that its blocks can be compared with its hidden "
            f"states, found that {type(model).__name__} does not ({found}); name the module by its path"
        ) from error
    if states is None:
        raise InputError(
            f"site: expected a model with one stack of blocks, to which 'hidden_states[n]' refers, found "
            f"{type(model).__name__}, which returns no `hidden_states`; name the module by its path"
        )
    return tuple(states)
