"""Windows begin with the token that the model expects at the beginning of a text."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_torch.activations import (
    Document,
    HarvestConfig,
    HarvestOptions,
    LanguageModel,
    LiveReader,
    harvest,
    load_language_model,
    open_activations,
    pack_windows,
    plan,
)
from sae_torch.activations.beginning import beginning, begins_texts
from sae_torch.errors import InputError
from sae_torch.evaluation import model_loss

BEGIN = 7


def begin_with(folder: Path, template: str, **special: str) -> None:
    """Let the tokenizer of a folder put tokens around a text."""
    from tokenizers.processors import TemplateProcessing

    inner = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    inner.post_processor = TemplateProcessing(single=template, special_tokens=[("w6", BEGIN), ("w7", BEGIN + 1)])
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special).save_pretrained(folder)


@pytest.fixture
def beginning_harvest(tiny_harvest: HarvestConfig, tmp_path: Path) -> HarvestConfig:
    folder = tmp_path / "model"
    shutil.copytree(tiny_harvest.model, folder)
    begin_with(folder, "w6 $A", bos_token="w6")
    return dataclasses.replace(tiny_harvest, model=str(folder))


def test_windows_begin_with_the_tokenizers_token_by_default(beginning_harvest: HarvestConfig, tmp_path: Path) -> None:
    language_model = load_language_model(beginning_harvest.model, torch.float32)
    found = harvest(beginning_harvest, "train", 200, tmp_path, language_model)
    windows = found.windows(10)
    assert found.header["bos"] == "yes"
    assert (windows[:, 0] == BEGIN).all()
    hidden: Any = language_model.model(input_ids=windows.long(), output_hidden_states=True).hidden_states[2]
    expected = hidden[:, 1:].reshape(-1, 16)[:100]  # the token itself is dropped with position 0
    torch.testing.assert_close(found.tensor(torch.float32)[:100], expected, rtol=1e-3, atol=1e-3)
    loss = model_loss(language_model, "hidden_states[2]", windows, found.mean(), {})
    log_p = language_model.model(input_ids=windows.long()).logits[:, 1:-1].log_softmax(-1)
    assert loss.clean == pytest.approx(float(-log_p.gather(-1, windows[:, 2:, None].long()).mean()), rel=1e-5)
    live = LiveReader(beginning_harvest, 100, 50, language_model=language_model)
    assert live.header["bos"] == "yes"
    part = live._windows.part(0)
    assert part is not None
    assert (part.token_ids[:, 0] == BEGIN).all()


def test_without_the_token_harvests_are_those_from_before_the_option(
    beginning_harvest: HarvestConfig, tiny_harvest: HarvestConfig, tmp_path: Path
) -> None:
    without = dataclasses.replace(beginning_harvest, bos=False)
    found = harvest(without, "train", 100, tmp_path)
    assert "bos" not in found.header
    assert not (found.windows(10)[:, 0] == BEGIN).all()
    assert "bos" not in tiny_harvest.provenance("train")  # its tokenizer puts nothing before a text
    assert len(open_activations(plan(without, "train", 1, tmp_path).folder)) >= 100
    assert plan(without, "train", 1, tmp_path).folder != plan(beginning_harvest, "train", 1, tmp_path).folder


def test_the_token_counts_as_part_of_the_window(tiny_language_model: LanguageModel) -> None:
    documents = [Document("one", "w1 w2 w3 w4"), Document("two", "w5 w6 w7")]
    windows = pack_windows(tiny_language_model.tokenizer, documents, length=4, seed=0, begin=BEGIN)
    rows = {tuple(row) for row in windows.token_ids.tolist()}
    assert rows == {(BEGIN, 2, 3, 4), (BEGIN, 5, 6, 7)}
    owners = {tuple(row) for row in windows.documents.tolist()}
    assert owners == {(0, 0, 0, 0), (0, 0, 1, 1)}


def test_a_token_that_there_is_not_is_said(tiny_language_model: LanguageModel) -> None:
    with pytest.raises(InputError, match="bos: expected a tokenizer with a token for the beginning of a text"):
        beginning(tiny_language_model.tokenizer, bos=True)
    assert beginning(tiny_language_model.tokenizer, bos=False) is None


@pytest.mark.parametrize(
    ("template", "special", "begins"),
    [
        ("w6 $A", {"bos_token": "w6"}, True),
        ("w6 $A w7", {"bos_token": "w6", "eos_token": "w7"}, True),
        ("$A w7", {"bos_token": "w6", "eos_token": "w7"}, False),
        ("$A", {"bos_token": "w6"}, False),
        ("w6 $A w7", {"cls_token": "w6", "sep_token": "w7"}, False),
    ],
)
def test_only_a_token_for_the_beginning_begins_a_text(
    tiny_model_folder: Path, tmp_path: Path, template: str, special: dict[str, str], begins: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder, folder)
    assert not begins_texts(str(folder))
    begin_with(folder, template, **special)
    assert begins_texts(str(folder)) is begins
    assert beginning(AutoTokenizer.from_pretrained(folder), bos=True) == BEGIN  # where it is asked for


@pytest.mark.parametrize(
    ("kind", "flag", "begins"),
    [("gpt2", None, False), ("gpt2", True, True), ("llama", None, True), ("llama", False, False)],
)
def test_a_gguf_file_says_itself(tmp_path: Path, kind: str, flag: bool | None, begins: bool) -> None:
    from gguf import GGUFWriter

    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    if flag is not None:
        writer.add_add_bos_token(flag)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert begins_texts(str(path)) is begins


def test_the_option_has_three_values() -> None:
    assert [HarvestOptions(bos=value).config().bos for value in ("auto", "yes", "no")] == [None, True, False]
