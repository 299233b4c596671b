"""Files of weights: the same numbers, headers without numbers, and damage that is named."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from safetensors.torch import load_file, save_file
from torch import Tensor

import sae_torch as st
from sae_torch.interop import inference_form
from sae_torch.interop.tensor_header import TensorHeader
from sae_torch.interop.torch_files import read_outline_of
from sae_torch.interop.torch_headers import number_of, outline_without_torch
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import is_one_value, read_header, read_outline
from sae_torch.interop.weight_writing import Rows, write_safetensors
from sae_torch.retyped import retyped

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool]


def tensors(seed: int = 0, types: list[torch.dtype] = TYPES) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {f"t{i}": (3 * torch.randn(5, i + 1, generator=generator)).to(dtype) for i, dtype in enumerate(types)}
    return made | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


def written(folder: Path, suffix: str, values: dict[str, Tensor]) -> Path:
    file = folder / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(values, file)
    elif suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in values.items()})
    else:
        torch.save(values, file)
    return file


FILES = pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt", ".pth"])


def readable(suffix: str) -> list[torch.dtype]:
    return [dtype for dtype in TYPES if suffix != ".npz" or dtype != torch.bfloat16]  # which NumPy has not


@FILES
def test_the_numbers_and_the_header_are_those_of_the_file(suffix: str, tmp_path: Path) -> None:
    values = tensors(types=readable(suffix))
    file = written(tmp_path, suffix, values)
    read, header = read_tensors(file), read_header(file)
    assert set(read) == set(header) == set(values)
    for name, value in values.items():
        assert torch.equal(read[name], value)
        found = header[name]
        assert (found.shape, f"torch.{found.dtype}", found.numel()) == (value.shape, str(value.dtype), value.numel())


@given(value=some.floats(width=32), count=some.integers(0, 9), other=some.none() | some.integers(0, 8))
@settings(deadline=None, max_examples=40)
def test_one_value_for_all_is_seen_without_torch(
    value: float, count: int, other: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    numbers = torch.full((count,), value)
    differs = other is not None and other < count and count > 1
    if differs:
        numbers[other] = 1.0 if value != 1.0 else 2.0
    file = tmp_path_factory.mktemp("one") / "weights.safetensors"
    save_file({"before": torch.ones(3), "threshold": numbers, "z": torch.zeros(5)}, file)
    assert is_one_value(file, "threshold") is not differs


def test_a_compressed_archive_and_a_torch_file_of_old_are_read(tmp_path: Path) -> None:
    values = tensors(types=readable(".npz"))
    np.savez_compressed(tmp_path / "a.npz", **{name: value.numpy() for name, value in values.items()})
    torch.save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    for read in (read_tensors(tmp_path / "a.npz"), read_tensors(tmp_path / "a.pt")):
        assert all(torch.equal(read[name], value) for name, value in values.items())


@FILES
@given(share=some.floats(0, 0.999))
@settings(deadline=None, max_examples=25)
def test_a_file_that_was_cut_off_is_named(suffix: str, share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("cut")
    file = written(folder, suffix, tensors(types=readable(suffix)))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    for read in (read_header, read_tensors):
        with pytest.raises(st.InputError, match=f"^{file}: "):
            read(file)


@FILES
@given(place=some.floats(0, 0.999), byte=some.integers(0, 255))
@settings(deadline=None, max_examples=40)
def test_a_changed_byte_is_an_input_error_or_another_number(
    suffix: str, place: float, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = written(tmp_path_factory.mktemp("changed"), suffix, tensors(types=readable(suffix)))
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] = byte
    file.write_bytes(content)
    said = []
    for read in (read_header, read_tensors):
        try:
            read(file)
        except st.InputError as error:
            said.append(str(error))
    assert all(text.startswith(f"{file}: ") for text in said)


class Harmless:
    """A pickle of it makes a folder when it is loaded by a reader that runs code."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    torch.save({"W_enc": Harmless(made)}, tmp_path / "a.pt")
    torch.save({"W_enc": Harmless(made)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(tmp_path / "a.npz", W_enc=np.array([Harmless(made)], dtype=object))
    for file in ("a.pt", "old.pt", "a.npz"):
        for read in (read_header, read_outline, read_tensors):
            with pytest.raises(st.InputError, match=f"{file}: "):
                read(tmp_path / file)
    with pytest.raises(st.InputError, match="found objects, which are never read: they may hold code"):
        read_header(tmp_path / "a.npz")
    assert not made.exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert made.exists(), "the file has code in it"


def test_columns_first_and_numbers_that_torch_has_not_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", W=np.asfortranarray(np.ones((3, 4), np.float32)))
    with pytest.raises(st.InputError, match=r"W\.npy: expected rows one after the other"):
        read_tensors(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", W=np.array(["text"]))
    with pytest.raises(st.InputError, match="W: expected numbers that torch has, found <U4"):
        read_header(tmp_path / "b.npz")
    with pytest.raises(st.InputError, match=r"expected a file of \.safetensors, \.npz"):
        read_header(Path(__file__))
    with pytest.raises(st.InputError, match="not readable: No such file"):
        read_header(tmp_path / "nothing.pt")


def test_an_array_that_does_not_lie_evenly_is_read(tmp_path: Path) -> None:
    """A member's bytes may begin anywhere in the archive."""
    values = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "W.npy", values)
    for name in ("W", "Wo", "Wor", "Word"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.write(tmp_path / "W.npy", f"{name}.npy")
        assert torch.equal(read_tensors(tmp_path / "a.npz")[name], torch.from_numpy(values))


def test_what_is_read_of_a_changed_file_is_new(tmp_path: Path) -> None:
    file = written(tmp_path, ".pt", {"a": torch.zeros(2)})
    assert set(read_header(file)) == {"a"}
    written(tmp_path, ".pt", {"b": torch.zeros(2), "c": torch.zeros(3)})
    assert set(read_header(file)) == {"b", "c"}


def test_files_written_in_blocks_are_those_of_safetensors(tmp_path: Path) -> None:
    values = tensors()
    rows = {name: Rows(tuple(value.shape), value.dtype, value.split(2) if value.ndim else (value,))
            for name, value in values.items()}  # fmt: skip
    write_safetensors(tmp_path / "a.safetensors", rows)
    read = load_file(tmp_path / "a.safetensors")
    assert list(read_header(tmp_path / "a.safetensors")) == list(values)
    assert all(torch.equal(read[name], value) for name, value in values.items())


def test_arrays_that_lie_where_they_cannot_be_mapped_are_once_in_memory(tmp_path: Path) -> None:
    """Their place follows from the length of the name: of four lengths, three do not suit float32."""
    value = np.arange(1 << 21, dtype=np.float32)
    peaks = []
    for name in ("a", "ab", "abc", "abcd"):
        np.savez(tmp_path / "weights.npz", **{name: value})
        tracemalloc.start()
        read = read_tensors(tmp_path / "weights.npz")
        peaks.append(tracemalloc.get_traced_memory()[1] / value.nbytes)
        tracemalloc.stop()
        assert np.array_equal(read[name].numpy(), value)
    assert min(peaks) < 0.1  # mapped
    assert max(peaks) < 1.5  # with what is read together


@given(part=some.integers(1, 60), transposed=some.booleans(), dtype=some.sampled_from([torch.bfloat16, torch.float32]))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_matrix_is_multiplied_in_parts_of_any_size(
    part: int, transposed: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference_form, "PART", part)
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 11), (11,), (11, 6), (6,))
    W_enc, b_enc, W_dec, b_dec = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    if transposed:
        W_enc, W_dec = W_enc.T.contiguous().T, W_dec.T.contiguous().T
    factors = 0.5 + torch.rand(11, generator=generator)
    found = inference_form.InferenceForm(W_enc, b_enc, W_dec, b_dec).scaled(factors, 1.0 / factors).tensors
    assert torch.equal(found["W_enc"], (W_enc.float() * factors).to(dtype))
    assert torch.equal(found["W_dec"], (W_dec.float() * (1.0 / factors)[:, None]).to(dtype))


SAVED: dict[str, Any] = {
    "tensors": {"a": torch.zeros(3, 4), "b": torch.zeros(2, 3, dtype=torch.bfloat16).T, "c": torch.zeros(0, 5).half()},
    "views": {"whole": (whole := torch.zeros(10)), "part": whole[2:4], "number": torch.tensor(3)},
    "plain": {"k": 32, "lr": 0.5, "name": "x", "none": None, "flags": [True, (1, 2)], "deep": {"w": torch.zeros(2)}},
    "module": torch.nn.Linear(3, 2).state_dict(),
    "parameter": {"w": torch.nn.Parameter(torch.zeros(2, 2))},
    # left to torch
    "dtype": {"dtype": torch.float16, "w": torch.zeros(1)},
    "list": [torch.zeros(2)],
    "wide": {"w": torch.zeros(2, dtype=torch.complex64)},
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("archive", [True, False])
def test_a_torch_file_is_described_as_torch_reads_it(name: str, archive: bool, tmp_path: Path) -> None:
    """Where torch is not asked, what is said is the same; older files and other contents are torch's."""
    torch.save(SAVED[name], tmp_path / "w.pt", _use_new_zipfile_serialization=archive)
    without = outline_without_torch(tmp_path / "w.pt")
    assert (without is not None) == (archive and name not in ("dtype", "list", "wide"))
    if without is not None:
        expected = read_outline_of(tmp_path / "w.pt")
        for key, value in expected.items():
            if key == "deep":
                value = {"w": TensorHeader("float32", (2,))}
            assert without[key] == value
        assert list(without) == list(expected)


def test_a_torch_file_that_is_cut_or_names_something_else_is_left_to_torch(tmp_path: Path) -> None:
    """A storage that is missing or short, an archive that ends early, and a name of any other module."""
    file = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(100)}, file)
    held = file.read_bytes()
    (tmp_path / "cut.pt").write_bytes(held[:-40])
    assert outline_without_torch(tmp_path / "cut.pt") is None
    for change in ("missing", "short", "other name"):
        with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / f"{change}.pt", "w") as new:
            for member in old.infolist():
                content = old.read(member)
                if member.filename.endswith("data/0"):
                    if change == "missing":
                        continue
                    content = content[:-4] if change == "short" else content
                if member.filename.endswith("data.pkl") and change == "other name":
                    content = content.replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9")
                new.writestr(member.filename, content)
        assert outline_without_torch(tmp_path / f"{change}.pt") is None, change
    with pytest.raises(st.InputError, match="not readable as a state dict"):
        read_header(tmp_path / "other name.pt")


@pytest.mark.parametrize("spaces", range(4))
def test_an_empty_tensor_is_read_wherever_it_begins(spaces: int, tmp_path: Path) -> None:
    """A header may have any length, though safetensors' own writer fills it up to eight bytes."""
    text = b'{"w": {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}}' + spaces * b" "
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text)
    (read,) = read_tensors(file).values()
    assert (read.dtype, read.shape) == (torch.float32, (0, 3))


@pytest.mark.parametrize(
    "text",
    [b'{"w": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', b'{"w": ' + 100_000 * b"["],
    ids=["a size beyond all numbers", "lists in lists"],
)
def test_a_header_beyond_what_python_parses_is_damaged(text: bytes, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    for read in (read_header, read_tensors):
        with pytest.raises(st.InputError, match=f"^{file}: not readable as safetensors: its header says"):
            read(file)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64, torch.float32, torch.float16, torch.bool, torch.bfloat16])
def test_a_number_of_a_torch_file_is_read_without_torch(kind: torch.dtype, tmp_path: Path) -> None:
    """Alone in its storage, and as one of many; not of a type that NumPy lacks, nor of more numbers than one."""
    many = torch.tensor([0, 1, 3, 70]).to(kind)
    torch.save({"alone": many[3].clone(), "within": many[2], "row": many[1:2], "many": many}, tmp_path / "w.pt")
    held = read_outline(tmp_path / "w.pt")
    for name, value in torch.load(tmp_path / "w.pt").items():
        expected = None if kind == torch.bfloat16 or name == "many" else value.item()
        assert number_of(tmp_path / "w.pt", held[name]) == expected


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.uint8])
def test_new_empty_arrays_are_seen_as_any_type_and_written(shape: tuple[int, ...], kind: Any, tmp_path: Path) -> None:
    """Torch refuses those of NumPy as a type of another width."""
    empty = torch.from_numpy(np.zeros(shape, kind))
    for dtype in (torch.uint8, torch.bfloat16, torch.float64):
        seen = retyped(empty.reshape(-1), dtype)
        assert (seen.dtype, seen.shape) == (dtype, (0,))
    write_safetensors(tmp_path / "w.safetensors", {"w": Rows(shape, empty.dtype, iter([empty]))})
    assert load_file(tmp_path / "w.safetensors")["w"].shape == shape
