"""Text of the user's own: every kind of source gives the same documents, and splits never share one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sae_torch.activations import Corpus, StateOfTheUnion, text_source
from sae_torch.errors import InputError

TEXTS = [f"document {index} says {index * index}" for index in range(60)]


def folder(place: Path) -> str:
    (place / "part").mkdir(parents=True)
    for index, text in enumerate(TEXTS):
        (place / ("part" if index % 2 else ".") / f"{index:03d}.txt").write_text(text, encoding="utf-8")
    return str(place)


def json_lines(place: Path) -> str:
    path = place.with_suffix(".jsonl")
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS) + "\n", encoding="utf-8")
    return str(path)


def zipped(place: Path) -> str:
    path = place.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(Path(json_lines(place)).read_bytes()))
    return str(path)


def saved_dataset(place: Path) -> str:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(place))
    return str(place)


@pytest.mark.parametrize("write", [folder, json_lines, zipped, saved_dataset])
def test_every_source_gives_all_documents_and_splits_share_none(write: Any, tmp_path: Path) -> None:
    corpus = Corpus(write(tmp_path / "source"), held_out=0.2)
    found = {split: {document.text for document in corpus.documents(split)} for split in ("train", "dev", "test")}
    assert sorted(text for texts in found.values() for text in texts) == sorted(TEXTS)
    assert all(3 < len(found[split]) < 25 for split in ("dev", "test"))
    again = Corpus(corpus.source, held_out=0.2)
    assert again.provenance == corpus.provenance
    assert Corpus(corpus.source, held_out=0.2, seed=1).provenance != corpus.provenance


def test_the_same_text_two_times_lies_on_one_side(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS + TEXTS))
    corpus = Corpus(str(path), held_out=0.3)
    found = [{document.text for document in corpus.documents(split)} for split in ("train", "dev", "test")]
    assert sum(map(len, found)) == len(TEXTS)


def test_a_changed_word_is_another_corpus(tmp_path: Path) -> None:
    source = folder(tmp_path / "a")
    before = Corpus(source).provenance["text_sha256"]
    (tmp_path / "a" / "002.txt").write_text("document two")
    assert Corpus(source).provenance["text_sha256"] != before


def test_sotu_is_a_name() -> None:
    assert isinstance(text_source("sotu"), StateOfTheUnion)
    assert isinstance(text_source("./sotu"), Corpus)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda place: str(place / "nowhere"), "expected a folder or a .jsonl file, found nothing"),
        (lambda place: str(place), "expected .txt files, found none"),
        (
            lambda place: _written(place / "a.md", b"a") and _written(place / "GPL", b"b") and str(place),
            "expected .txt files, found none, but suffixes .md, none",
        ),
        (lambda place: _written(place / "a.csv", b"a") and str(place), "suffixes .csv; set `stream` to read those"),
        (lambda place: _written(place / "a.txt", b"\xff\xfe") and str(place), "expected UTF-8, found something else ("),
        (
            lambda place: _written(place / "a.txt", b" \n") and str(place),
            "expected documents with text, found 1",
        ),
        (lambda place: _written(place / "a.csv", b"a,b"), "a .jsonl or .jsonl.gz file, found a file of another kind"),
        (lambda place: _written(place / "a.jsonl", b"{"), "expected JSON lines, found something else ("),
        (
            lambda place: _written(place / "a.jsonl", b'{"a": "b"}'),
            "expected a text in field 'text', found ['a']",
        ),
        (lambda place: _written(place / "a.jsonl", b"[]"), "line 1: expected a text in field 'text', found list"),
        (lambda place: _written(place / "a.jsonl", b""), "expected documents with text, found 0 without any"),
        (lambda place: _written(place / "a.jsonl.gz", b"no gzip"), "expected JSON lines, found something else ("),
    ],
)
def test_what_is_no_text_is_named(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Corpus(make(tmp_path)).documents("train")
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def _written(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.slow  # a hub that cannot be reached is asked again and again
def test_a_dataset_that_cannot_be_had_is_named() -> None:
    with pytest.raises(InputError, match=r"no/such-dataset: expected .* `datasets` can load, found none of them"):
        Corpus("no/such-dataset").documents("train")


def test_an_empty_split_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "alone"}))
    with pytest.raises(InputError, match=r"one document in the test split, found none of the 1 \(held_out 0\)"):
        Corpus(str(path), held_out=0.0).documents("test")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".txt", "sotu"])
def test_a_byte_order_mark_is_none_of_the_text(suffix: str, tmp_path: Path) -> None:
    text = "one" if suffix in (".txt", "sotu") else '{"text": "one"}\n'
    content = text.encode("utf-8-sig")
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    if suffix == "sotu":
        (tmp_path / "asotu").rename(tmp_path / "a.txt")
        source: Any = StateOfTheUnion(held_out=0, folder=tmp_path)
    else:
        source = Corpus(str(tmp_path if suffix == ".txt" else tmp_path / f"a{suffix}"), held_out=0.0)
    assert [document.text for document in source.documents("train")] == ["one"]


def test_half_a_surrogate_pair_becomes_a_replacement_character(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"text": "a \ud83d b \ude00\ud83d\ude00"}' + "\n")
    corpus = Corpus(str(path), held_out=0.0)
    (document,) = corpus.documents("train")
    assert document.text == "a \ufffd b \ufffd\U0001f600"
    assert len(corpus.provenance["text_sha256"]) == 64


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": null}', "expected a text in field 'text', found null"),
        ('{"text": 3}', "expected a text in field 'text', found int there"),
        ('{"body": "one"}', r"expected a text in field 'text', found \['body'\]"),
        ('["one"]', "expected a text in field 'text', found list"),
    ],
)
def test_a_line_without_text_is_named(line: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"a.jsonl, line 2: {found}"):
        Corpus(str(path)).documents("train")
