"""Every format that is registered: damaged, incomplete or mixed files are one sentence that names them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae_torch as st
from sae_torch.cli import main
from sae_torch.commands.exchange import Import
from sae_torch.interop import formats
from sae_torch.interop.torch_files import read_objects
from sae_torch.interop.weight_files import read_tensors
from sae_torch.interop.weight_headers import SUFFIXES, TORCH_SUFFIXES
from tests.sae_torch.interop import layouts

FIXTURES = Path(__file__).parent / "fixtures"
D, F, K = 6, 20, 4


def fixture(name: str) -> Callable[[Path], Path]:
    def copied(root: Path) -> Path:
        copy = shutil.copytree(FIXTURES / name, root / name)
        (copy / "expected.safetensors").unlink()
        return copy

    return copied


def published(layout: Callable[..., layouts.Published]) -> Callable[[Path], Path]:
    return lambda root: layout(root, layouts.weights(D, F)).path


def openai(root: Path) -> Path:
    w = layouts.weights(D, F)
    tensors = {"pre_bias": w.c, "encoder.weight": w.E.T, "latent_bias": w.b, "decoder.weight": w.D.T}
    torch.save({name: tensor.float().contiguous() for name, tensor in tensors.items()}, root / "6.pt")
    return root / "6.pt"


def circuit_tracer(root: Path) -> Path:
    w = layouts.weights(D, F)
    tensors = {"W_enc": w.E.T, "W_dec": w.D, "b_enc": w.b, "b_dec": w.c, "W_skip": torch.eye(D)}
    tensors["activation_function.threshold"] = w.t.abs()
    save_file({name: tensor.float().contiguous() for name, tensor in tensors.items()}, root / "layer_3.safetensors")
    (root / "config.yaml").write_text('model_kind: "transcoder_set"\n')
    return root / "layer_3.safetensors"


EXAMPLES: dict[str, Callable[[Path], Path]] = {
    "saelens": fixture("saelens-jumprelu"),
    "saelens gated": fixture("saelens-gated"),
    "dictionary-learning": fixture("dictionary-learning-BatchTopKSAE"),
    "dictionary-learning gated": fixture("dictionary-learning-GatedAutoEncoder"),
    "sparsify": fixture("sparsify-topk"),
    "gemma-scope": published(layouts.gemma_scope),
    "gemma-scope-2": published(layouts.gemma_scope_2),
    "qwen-scope": published(layouts.qwen_scope),
    "llama-scope": published(layouts.llama_scope),
    "llamascopium": published(layouts.llamascopium),
    "goodfire": published(layouts.goodfire),
    "hook-z": published(layouts.hook_z),
    "openai": openai,
    "circuit-tracer": circuit_tracer,
}
EACH = pytest.mark.parametrize("name", EXAMPLES)
# Tensors without which a file is another dictionary of its format.
OPTIONAL = {"W_skip", "activation_function.threshold"}
# Read for what they are alone: nothing of them is imported.
DESCRIBED = {"temporal", "cross-layer"}
# Its tensors lie one level further down: `test_bionemo`.
NESTED = {"bionemo"}


def weights_of(path: Path) -> Path:
    """The one file of weights of a dictionary."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.suffix in SUFFIXES]
    return max(files, key=lambda each: each.stat().st_size)


def rewritten(file: Path, **changes: Tensor | None) -> None:
    """The file with other tensors, or without some."""
    held: dict[str, Any] = read_objects(file) if file.suffix in TORCH_SUFFIXES else read_tensors(file)
    held = {name: value.clone() if isinstance(value, Tensor) else value for name, value in (held | changes).items()}
    held = {name: value for name, value in held.items() if value is not None}
    if file.suffix in TORCH_SUFFIXES:
        torch.save(held, file)
    elif file.suffix == ".npz":
        np.savez(file, **{name: value.numpy() for name, value in held.items()})
    else:
        save_file(held, file)


def refused(path: Path, named: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that an import ends with, which names a file; nothing is written or printed."""
    with pytest.raises(st.InputError) as refusal:
        Import(path, out, k=K).run()
    text = str(refusal.value)
    assert (capsys.readouterr(), len(text.splitlines()), out.exists()) == (("", ""), 1, False)
    assert str(named) in text
    return text


def test_there_is_an_example_of_every_format() -> None:
    assert {name.split()[0] for name in EXAMPLES} == set(formats.FORMATS) - DESCRIBED - NESTED


@EACH
def test_what_was_not_downloaded_whole_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES[name](tmp_path)
    file = weights_of(path)
    whole = file.read_bytes()
    for share in (0.0, 0.01, 0.3, 0.999):
        file.write_bytes(whole[: int(share * len(whole))])
        refused(path, file, tmp_path / "out", capsys)
        with pytest.raises(st.InputError, match=file.name):
            formats.describe(path)
    file.write_bytes(whole)
    Import(path, tmp_path / "out", k=formats.describe(path).k or K).run()


@EACH
def test_a_missing_tensor_and_one_of_another_shape_are_named(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = EXAMPLES[name](tmp_path)
    file = weights_of(path)
    whole, tensors = file.read_bytes(), read_tensors(file)
    for tensor, value in tensors.items():
        wrong = torch.cat([value, value[:1]]) if value.ndim else value.expand(2)
        for change in (wrong,) if tensor in OPTIONAL else (None, wrong):
            rewritten(file, **{tensor: change})
            refused(path, path, tmp_path / "out", capsys)
            file.write_bytes(whole)


@EACH
def test_a_number_that_is_none_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES[name](tmp_path)
    file = weights_of(path)
    whole = file.read_bytes()
    for tensor, value in read_tensors(file).items():
        if value.ndim:
            rewritten(file, **{tensor: value.clone().index_fill_(0, torch.tensor([1]), torch.nan)})
            assert tensor in refused(path, file, tmp_path / "out", capsys)
            file.write_bytes(whole)


class Harmless:
    """Makes a folder when it is loaded by a reader that runs code."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@EACH
def test_code_in_a_file_is_not_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES[name](tmp_path)
    file, made = weights_of(path), tmp_path / "made"
    held = {name: tensor.clone() for name, tensor in read_tensors(file).items()}
    torch.save({**held, "more": Harmless(made)}, file)
    refused(path, file, tmp_path / "out", capsys)
    assert not made.exists()


@EACH
def test_the_files_of_two_formats_are_a_question(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = EXAMPLES[name](tmp_path)
    other = FIXTURES / ("sparsify-topk" if name.startswith("dictionary") else "dictionary-learning-AutoEncoderTopK")
    if path.is_file():
        return
    for file in other.iterdir():
        if not (path / file.name).exists():
            shutil.copy(file, path)
    found = [each for each in formats.FORMATS if formats.FORMATS[each].recognises(path)]  # type: ignore[index]
    if len(found) > 1:
        assert "say which with --format" in refused(path, path, tmp_path / "out", capsys)
        assert main(["inspect", str(path), "--format", name.split()[0]]) == 0
