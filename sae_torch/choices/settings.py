"""Settings of a choice as a folder holds them: what `from_settings` takes from a file, checked by kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_torch.errors import InputError

NUMBER, TABLE = "a number", "an object"
_TYPES: dict[str, tuple[type, ...]] = {NUMBER: (int, float), TABLE: (Mapping,)}


def setting(settings: Mapping[str, Any], name: str, kind: str, absent: Any, table: str = "") -> Any:
    """One setting, of the `table` that an error names; null is as if it were not there.

    Raises
    ------
    InputError
        If it is not of the kind; the text begins with its name.
    """
    value = settings.get(name)
    if value is None:
        return absent
    if isinstance(value, bool) or not isinstance(value, _TYPES[kind]):  # bool is an int to Python, and never meant
        raise InputError(f"{table}{name}: expected {kind}, found {value!r}")
    return value


def require_known(settings: Mapping[str, Any], *known: str, table: str = "") -> None:
    """Refuse settings of other names: what a later version writes would be lost without a word.

    Raises
    ------
    InputError
        If there is one; the text begins with its name.
    """
    for name, value in settings.items():
        if name not in known:
            raise InputError(f"{table}{name}: expected no setting but {', '.join(known)}, found {value!r}")
