"""How a model of transformers is called here: as written, without a cache, by the configuration of its text."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import torch
from torch import nn


def original(model: nn.Module) -> nn.Module:
    """The model that ``torch.compile`` wrapped, else the model itself."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def text_config(model: nn.Module) -> Any:
    """The configuration of the text stack, in composite models one of several; None where there is none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Arguments that keep a forward pass from filling a cache, for models that take them."""
    accepted = inspect.signature(model.forward).parameters
    return {"use_cache": False} if {"use_cache", "kwargs"} & accepted.keys() else {}


def uncompiled() -> contextlib.AbstractContextManager[Any]:
    """Run compiled models as written: what was compiled before heeds no hook, and what is compiled now keeps it."""
    eager: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def short_pass(model: nn.Module, **options: Any) -> Any:
    """What a model returns for two windows of three tokens; with other than one window a transposed axis shows."""
    device = next(model.parameters()).device
    vocabulary = int(getattr(text_config(model), "vocab_size", None) or 2)
    ids = (torch.arange(6, device=device) + 3).remainder(vocabulary).view(2, 3)
    cuda = [device] if device.type == "cuda" else []
    # a model in training mode draws random numbers, which the caller's stream must not notice
    with torch.no_grad(), torch.random.fork_rng(cuda), uncompiled():
        return model(input_ids=ids, **options, **without_cache(model))
