"""Keeping `torch.compile` out of code that is NumPy's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def no_compile(function: Callable[P, T]) -> Callable[P, T]:
    """A function that a compiled model calls as it is, between two graphs.

    The compiler translates NumPy calls into its own, some of which do not exist. `torch.compiler.disable` as a
    decorator would import the compiler with this package; so it is applied only while a model is being compiled.

    Examples
    --------
    >>> from sae_torch.ops.compiling import no_compile
    >>> no_compile(max)(1, 2)
    2
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            eager: Callable[P, T] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
            return eager(*args, **kwargs)
        return function(*args, **kwargs)

    return call
