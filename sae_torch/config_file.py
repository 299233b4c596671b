"""Nested dataclasses of plain values from TOML and YAML files and back; unknown keys are errors."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w
from cattrs import BaseConverter, ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.errors import IterableValidationNote
from cattrs.gen import make_dict_structure_fn, make_hetero_tuple_structure_fn

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


def from_plain(kind: type[T], plain: Mapping[str, Any]) -> T:
    """A dataclass from nested plain values.

    Raises
    ------
    InputError
        If a key is unknown or a value does not fit; the text names the key.
    """
    try:
        return _CONVERTER.structure(plain, kind)
    except ClassValidationError as error:
        raise _first(error) from None


def to_plain(config: Any) -> dict[str, Any]:
    """Nested plain values; what is None is left out."""
    found: dict[str, Any] = _without_none(_CONVERTER.unstructure(config))
    return found


def toml(config: Any) -> str:
    """A configuration as TOML; `read_config` reads it back to an equal one."""
    return tomli_w.dumps(to_plain(config))


def _without_none(plain: Any) -> Any:
    if not isinstance(plain, dict):
        return plain
    return {key: _without_none(value) for key, value in plain.items() if value is not None}


def _parsed_toml(place: Path, text: str) -> Any:
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


class _MisfitError(Exception):
    """What a field expected and what was found; the name of the field is added to it."""


def _scalar(value: Any, kind: Any) -> Any:
    """A value of this very type: cattrs itself would make a number of any text, and a text of anything."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return float(value)  # YAML takes 1e-3 for a text
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _MisfitError(f"expected {kind.__name__}, found {value!r}")


def _literal(value: Any, kind: Any) -> Any:
    if value in get_args(kind):
        return value
    raise _MisfitError(f"expected one of {', '.join(map(repr, get_args(kind)))}, found {value!r}")


def _options(value: Any, kind: Any) -> dict[str, Any]:
    """Names and single values, whichever they are: what they are for checks them."""
    if isinstance(value, Mapping) and all(isinstance(item, int | float | str) for item in value.values()):
        return dict(value)
    raise _MisfitError(f"expected a table of names and single values, found {value!r}")


def _table_or_list(kind: Any, converter: BaseConverter) -> Callable[[Any, Any], Any]:
    """The hook of cattrs, which alone would look into a text as well."""
    wanted: Any
    make: Any
    name, wanted, make, length = "a list", (list, tuple), homogenous_tuple_structure_factory, None
    if dataclasses.is_dataclass(kind):
        name, wanted, make = "a table", Mapping, make_dict_structure_fn
    elif get_args(kind)[-1] is not Ellipsis:
        length, make = len(get_args(kind)), make_hetero_tuple_structure_fn
    structure = make(kind, converter)

    def checked(value: Any, _: Any) -> Any:
        if not isinstance(value, wanted):
            raise _MisfitError(f"expected {name}, found {value!r}")
        if length not in (None, len(value)):
            raise _MisfitError(f"expected {length} values, found {len(value)}")
        return structure(value, kind)

    return checked


_CONVERTER = Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
for scalar in (bool, int, float, str, Path):
    _CONVERTER.register_structure_hook(scalar, _scalar)
_CONVERTER.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is Literal, _literal)
_CONVERTER.register_structure_hook_func(lambda kind: getattr(kind, "__origin__", None) is dict, _options)
_CONVERTER.register_structure_hook_factory(
    lambda kind: dataclasses.is_dataclass(kind) or getattr(kind, "__origin__", None) is tuple, _table_or_list
)


def _first(error: Exception, name: str = "") -> Exception:
    """The first error of those that cattrs collects, as one sentence with the name of its key."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        named, others = error.group_exceptions()
        if not named:
            return _first(others[0], name)
        inner, note = named[0]
        step = f"[{note.index}]" if isinstance(note, IterableValidationNote) else f".{note.name}"
        return _first(inner, f"{name}{step}".removeprefix("."))
    if isinstance(error, ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl) if field.init]
        key, table = min(map(str, error.extra_fields)), f"{name}." if name else ""
        near = difflib.get_close_matches(key, known, n=1)
        meant = f"; did you mean {table}{near[0]}?" if near else f", expected one of {', '.join(sorted(known))}"
        return InputError(f"unknown key {table}{key}{meant}")
    if isinstance(error, _MisfitError):
        return InputError(f"{name}: {error}")
    return error  # of the dataclass itself, which names its fields
