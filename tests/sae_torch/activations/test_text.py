from __future__ import annotations

import random
from pathlib import Path

import pytest

from sae_torch.activations import StateOfTheUnion
from sae_torch.errors import InputError


def test_splits_follow_the_quality_protocol(tiny_text: StateOfTheUnion) -> None:
    assert tiny_text.folder is not None
    files = sorted(tiny_text.folder.glob("*.txt"))
    random.Random(2024).shuffle(files)
    stems = [file.stem for file in files]
    assert [document.name for document in tiny_text.documents("test")] == stems[:3]
    assert [document.name for document in tiny_text.documents("dev")] == stems[3:6]
    assert [document.name for document in tiny_text.documents("train")] == stems[6:]
    assert tiny_text.documents("test")[0].text == files[0].read_text()


def test_the_installed_addresses_split_into_24_24_and_the_rest() -> None:
    source = StateOfTheUnion()
    names = {split: {document.name for document in source.documents(split)} for split in ("train", "dev", "test")}
    assert [len(names[split]) for split in ("test", "dev")] == [24, 24]
    assert len(names["train"]) > 190
    assert not names["train"] & names["test"]
    assert not names["train"] & names["dev"]
    assert not names["dev"] & names["test"]
    assert "1863-Lincoln-1" in set.union(*names.values())


def test_provenance_changes_with_any_file(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}.txt").write_text("a b c")
    before = StateOfTheUnion(held_out=1, folder=tmp_path).provenance
    assert StateOfTheUnion(held_out=1, folder=tmp_path).provenance == before
    (tmp_path / "3.txt").write_text("a b d")
    assert StateOfTheUnion(held_out=1, folder=tmp_path).provenance != before


def test_unknown_split_and_too_few_files_are_named(tiny_text: StateOfTheUnion) -> None:
    with pytest.raises(InputError, match="split: expected one of 'train', 'dev', 'test', found 'valid'"):
        tiny_text.documents("valid")
    with pytest.raises(InputError, match=r"expected more than 12 \.txt files, .* found 12"):
        StateOfTheUnion(held_out=6, folder=tiny_text.folder).documents("train")
