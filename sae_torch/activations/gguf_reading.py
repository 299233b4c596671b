"""One reading of a GGUF file for all who ask during a load.

transformers 5.14 parses the file anew for configuration, tokenizer and weights, and its names anew for each submodule.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def read_once() -> Iterator[None]:
    """Readers and name maps of the package gguf are shared while the context lasts; nested ones share the outer's."""
    try:
        gguf: Any = importlib.import_module("gguf")
    except ImportError:  # whoever needs it says so
        yield
        return
    if isinstance(gguf.GGUFReader, functools.partial):
        yield
        return
    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    opened: dict[str, Any] = {}

    class PlainReader(reader):  # type: ignore[misc, valid-type]
        """Reads plain memory: slices of a memory map are objects of their own, and fields are read by the million."""

        @property
        def data(self) -> Any:
            return self._plain

        @data.setter
        def data(self, mapped: Any) -> None:
            self._plain = mapped.view(np.ndarray)

    def once(path: Any, *options: Any, **named: Any) -> Any:
        if options or named:
            return reader(path, *options, **named)
        if str(path) not in opened:
            opened[str(path)] = PlainReader(path)
        return opened[str(path)]

    gguf.GGUFReader, gguf.get_tensor_name_map = functools.partial(once), functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names
