"""A choice of the user's own, by the name under which Python imports it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from sae_torch.choices.choice import Choice
from sae_torch.errors import InputError


def own_choice(name: str, k: float, options: Mapping[str, Any]) -> Choice:
    """Import ``module:Class`` and make ``Class(k, **options)``.

    Parameters
    ----------
    name : str
        Module and class, with a colon between them.
    k : float
        Features per token.
    options : mapping
        Further arguments of the class.

    Raises
    ------
    InputError
        If there is no such module or class, it is no `Choice`, or it does not take the options.
    """
    module, _, attribute = name.partition(":")
    kind = getattr(import_module(module, "choice"), attribute, None)
    if not (isinstance(kind, type) and issubclass(kind, Choice)):
        raise InputError(f"choice: expected a subclass of sae_torch.Choice, found {name} = {kind!r}")
    try:
        return kind(k, **options)
    except TypeError as error:
        raise InputError(f"choice_options: expected arguments of {name}, found {dict(options)} ({error})") from None


def import_module(module: str, given_as: str) -> ModuleType:
    """Import a module of the user's own.

    Raises
    ------
    InputError
        If there is none; the text begins with `given_as`.
    """
    try:
        return importlib.import_module(module)
    except (ModuleNotFoundError, ValueError) as error:
        raise InputError(
            f"{given_as}: expected a module that Python can import, found {module!r} ({error}); its folder belongs on "
            "PYTHONPATH"
        ) from None
