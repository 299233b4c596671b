"""A load reads a GGUF file once, and finds in it what the package's own reader finds."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from sae_torch.activations import gguf_reading
from tests.sae_torch.activations.test_rotary_scaling import gguf_file


def contents(reader: Any) -> list[Any]:
    fields = [(name, [part.tolist() for part in field.parts]) for name, field in reader.fields.items()]
    return [fields, [(tensor.name, np.asarray(tensor.data).tobytes()) for tensor in reader.tensors]]


def test_all_who_ask_share_one_reader_with_the_same_contents(tmp_path: Path) -> None:
    one, other = gguf_file(tmp_path / "one.gguf"), gguf_file(tmp_path / "other.gguf", factors=np.ones(2))
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    expected = [contents(gguf.GGUFReader(path)) for path in (one, other)]
    with gguf_reading.read_once():
        reader = gguf.GGUFReader(one)
        with gguf_reading.read_once():
            assert gguf.GGUFReader(str(one)) is reader
        assert [contents(gguf.GGUFReader(path)) for path in (one, other)] == expected
        assert contents(gguf.GGUFReader(one, "c")) == expected[0]
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        assert gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2) is names
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_an_error_leaves_the_package_as_it_was(tmp_path: Path) -> None:
    before = gguf.GGUFReader
    with pytest.raises(FileNotFoundError), gguf_reading.read_once():
        gguf.GGUFReader(tmp_path / "nothing.gguf")
    assert gguf.GGUFReader is before
