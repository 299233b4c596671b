"""Nested dataclasses of plain values from TOML and YAML files and back; unknown keys are errors."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from sae_torch.errors import InputError

T = TypeVar("T")


def read_config(kind: type[T], path: Path | str) -> T:
    """A configuration from a ``.toml``, ``.yaml`` or ``.yml`` file; what the file leaves out keeps its default.

    Raises
    ------
    InputError
        If the file cannot be read, holds an unknown key, or a value does not fit; the text names file and key.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import sae_torch as st
    >>> from sae_torch.config_file import read_config
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "run.toml")
    ...     _ = path.write_text("learning_rate = 1e-3")
    ...     read_config(st.TrainConfig, path).learning_rate
    0.001
    """
    place = Path(path)
    try:
        text = place.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{place}: not readable as text ({error})") from None
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}") from None
    if place.suffix not in (".toml", ".yaml", ".yml"):
        raise InputError(f"{place}: expected a .toml, .yaml or .yml file")
    plain = _parsed_toml(place, text) if place.suffix == ".toml" else _parsed_yaml(place, text)
    if not isinstance(plain, Mapping):
        raise InputError(f"{place}: expected names and values, found {type(plain).__name__}")
    try:
        return from_plain(kind, plain)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def from_plain(kind: type[T], plain: Mapping[str, Any], name: str = "") -> T:
    """A dataclass from nested plain values.

    Raises
    ------
    InputError
        If a key is unknown or a value does not fit; the text names the key.
    """
    assert dataclasses.is_dataclass(kind)
    hints = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind) if field.init}
    for key in plain:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            meant = f"; did you mean {name}{near[0]}?" if near else f", expected one of {', '.join(sorted(known))}"
            raise InputError(f"unknown key {name}{key}{meant}")
    return kind(**{key: _value(hints[key], value, f"{name}{key}") for key, value in plain.items()})


def to_plain(config: Any) -> dict[str, Any]:
    """Nested plain values; what is None is left out."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = to_plain(value)
        elif value is not None:
            found[field.name] = list(value) if isinstance(value, tuple) else _plain(value)
    return found


def toml(config: Any) -> str:
    """A configuration as TOML; `read_config` reads it back to an equal one."""
    lines: list[str] = []

    def write(plain: Mapping[str, Any], table: str) -> None:
        if table:
            lines.extend(["", f"[{table}]"])
        lines.extend(f"{key} = {_toml_value(value)}" for key, value in plain.items() if not isinstance(value, dict))
        for key, value in plain.items():
            if isinstance(value, dict):
                write(value, f"{table}.{key}".strip("."))

    write(to_plain(config), "")
    return "\n".join(lines).lstrip("\n") + "\n"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _toml_value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml_value(_plain(item)) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parsed_toml(place: Path, text: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{place}: not readable as TOML: {error}") from None


def _parsed_yaml(place: Path, text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("YAML files need PyYAML: run `pip install pyyaml`, or write TOML") from error
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{place}: not readable as YAML: {' '.join(str(error).split())}") from None


def _value(hint: Any, value: Any, name: str) -> Any:
    """A value as a field's type wants it; never a guess."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _value(hint, value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: expected a table, found {value!r}")
        return from_plain(hint, value, f"{name}.")
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{name}: expected a table, found {value!r}")
        return dict(value)
    if origin is tuple:
        return _tuple(arguments, value, name)
    if origin is Literal:
        if value not in arguments:
            raise InputError(f"{name}: expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML takes 1e-3 for a string
        try:
            return float(value)
        except ValueError:
            pass
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise InputError(f"{name}: expected {hint.__name__}, found {value!r}")


def _tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise InputError(f"{name}: expected a list, found {value!r}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise InputError(f"{name}: expected {len(arguments)} values, found {len(value)}")
    pairs = zip(arguments, value, strict=True)
    return tuple(_value(hint, item, f"{name}[{index}]") for index, (hint, item) in enumerate(pairs))
