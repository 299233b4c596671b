"""Text that streams: its order, its shares, its splits, and the same bytes after any interruption."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sae_torch.activations.forward as module
from sae_torch.activations import HarvestConfig, HarvestOptions, LanguageModel, LiveReader, StreamedText, harvest
from sae_torch.activations.stream_sources import stream_source
from sae_torch.activations.streams import MixedDocuments
from sae_torch.activations.window_parts import PLACES, StreamedWindows
from sae_torch.errors import InputError
from tests.sae_torch.conftest import WORDS

SPLITS = ("train", "dev", "test")


def lines(path: Path, texts: list[str]) -> str:
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def folder_of_lines(path: Path, texts: list[str]) -> str:
    path.mkdir()
    lines(path / "a.jsonl", texts[: len(texts) // 2])
    lines(path / "b.jsonl.gz", texts[len(texts) // 2 :])
    return str(path)


def folder_of_texts(path: Path, texts: list[str]) -> str:
    path.mkdir()
    for index, text in enumerate(texts):
        (path / f"{index:04d}.txt").write_text(text)
    return str(path)


def parquet(path: Path, texts: list[str]) -> str:
    from pyarrow import parquet as pq
    from pyarrow import table

    path.mkdir()
    for index, part in enumerate((texts[: len(texts) // 3], texts[len(texts) // 3 :])):
        pq.write_table(table({"text": part}), path / f"{index}.parquet", row_group_size=3)
    return str(path)


def saved(path: Path, texts: list[str]) -> str:
    import datasets

    datasets.Dataset.from_dict({"text": texts}).save_to_disk(str(path))
    return str(path)


def csv(path: Path, texts: list[str]) -> str:
    path.with_suffix(".csv").write_text("text\n" + "\n".join(texts) + "\n")
    return str(path.with_suffix(".csv"))


KINDS: list[Callable[[Path, list[str]], str]] = [folder_of_texts, folder_of_lines, parquet, saved, csv]


@pytest.fixture(autouse=True)
def quiet_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.mark.parametrize("write", KINDS)
def test_every_kind_goes_on_from_every_place(write: Callable[[Path, list[str]], str], tmp_path: Path) -> None:
    texts = [f"w{i} " * (i % 4 + 1) + f"n{i}" for i in range(17)]
    source = write(tmp_path / "source", texts)
    read = list(stream_source(source, "text").read())
    assert [document.text for document, _ in read] == texts
    for number, (_, place) in enumerate(read, start=1):
        place = json.loads(json.dumps(place))  # plain values
        rest = [document for document, _ in stream_source(source, "text").read(place)]
        assert rest == [document for document, _ in read[number:]]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_shares_hold_to_a_document_and_splits_share_none(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mixture")
    documents = st.lists(st.integers(1, 9).map(lambda n: " ".join(["x"] * n)), min_size=3, max_size=30)
    written = data.draw(st.lists(documents, min_size=2, max_size=4))
    shares = tuple(data.draw(st.lists(st.floats(0.05, 5), min_size=len(written), max_size=len(written))))
    names = [lines(folder / f"{i}.jsonl", texts) for i, texts in enumerate(written)]
    text = StreamedText(tuple(names), shares, held_out=0.0)
    mixed = MixedDocuments(text, "train")
    tokens, longest, order = [0] * len(names), [max(map(len, texts)) for texts in written], []
    while (found := mixed.next()) is not None:
        document, source = found
        mixed.count(source, len(document.text))
        tokens[source] += len(document.text)
        order.append(document)
        place = mixed.place
        for i, share in enumerate(shares):
            ahead = tokens[i] - share / sum(shares) * sum(tokens)
            assert -(sum(longest) - longest[i]) - 1e-9 <= ahead <= longest[i] + 1e-9
    # it ends where a source that is due has ended, and goes on from any place
    assert any(len(texts) == sum(d.name.startswith(f"{i}.") for d in order) for i, texts in enumerate(written))
    assert MixedDocuments(text, "train", json.loads(json.dumps(place))).next() is None
    assert order == list(text.iterate("train"))
    held = StreamedText(tuple(names), shares, held_out=0.3)
    found_in = [{document.text for document in held.iterate(split)} for split in SPLITS]
    assert not (found_in[0] & found_in[1])
    assert not (found_in[0] & found_in[2])
    assert not (found_in[1] & found_in[2])


def test_splits_of_a_mixture_are_disjoint_and_those_of_a_corpus(tmp_path: Path) -> None:
    from sae_torch.activations import Corpus

    texts = [f"text {i}" for i in range(200)]
    one, other = lines(tmp_path / "a.jsonl", texts), lines(tmp_path / "b.jsonl", [*texts[50:], "more"])
    for split in SPLITS:
        assert list(StreamedText((one,), held_out=0.2).iterate(split)) == Corpus(one, held_out=0.2).documents(split)
    text = StreamedText((one, other), held_out=0.2)
    found = [{document.text for document in text.iterate(split)} for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found)) > 150


def streamed(tokenizer: object, text: StreamedText, begin: int | None, **given: object) -> StreamedWindows:
    return StreamedWindows(text, "train", tokenizer, 8, 3, begin, 4, **given)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_blocks_follow_from_their_places(
    data: st.DataObject, tiny_language_model: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any order of asking, from any kept places, gives the windows of one reading; a block holds the next tokens."""
    folder = tmp_path_factory.mktemp("blocks")
    draw = random.Random(data.draw(st.integers(0, 10**6)))
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, 60))) for _ in range(draw.randint(20, 50))]
    shuffle = data.draw(st.sampled_from([1, 4, 7, 8, 1000]))
    begin = data.draw(st.sampled_from([None, 5]))
    names = (lines(folder / "a.jsonl", texts[::2]), lines(folder / "b.jsonl", texts[1::2]))
    text = StreamedText(names, (2.0, 1.0), held_out=0.0, shuffle=shuffle)
    tokenizer = tiny_language_model.tokenizer
    whole = streamed(tokenizer, text, begin, folders=(folder,), keep=True)
    parts = []
    while (part := whole.part(len(parts))) is not None:
        parts.append(part)
    # the windows of a block are the concatenation of the documents, cut
    mixed, ids = MixedDocuments(text, "train"), []
    while (found := mixed.next()) is not None:
        document, source = found
        encoded = tokenizer(document.text, add_special_tokens=False)["input_ids"]
        mixed.count(source, len(encoded))
        ids += [(token, document.name) for token in encoded]
    own = 8 - (begin is not None)
    expected = [tuple(ids[i : i + own]) for i in range(0, len(ids) // own * own, own)]
    made = [
        tuple((int(t), p.names[int(d)]) for t, d in zip(row, owners, strict=True))[8 - own :]
        for p in parts
        for row, owners in zip(p.token_ids, p.documents, strict=True)
    ]
    for first in range(0, len(expected), whole.per_block):
        assert sorted(made[first : first + whole.per_block]) == sorted(expected[first : first + whole.per_block])
    kept = streamed(tokenizer, text, begin, folders=(folder,))
    if data.draw(st.booleans()):  # damage costs time, no more
        (folder / PLACES).write_text(
            (folder / PLACES).read_text().replace("1", "2") if (folder / PLACES).exists() else ""
        )
        kept = streamed(tokenizer, text, begin, folders=(folder,))
    for index in data.draw(st.lists(st.integers(0, len(parts) + 2), min_size=1, max_size=6)):
        part = kept.part(index)
        assert kept.holds(index) == (index < len(parts)) == (part is not None)
        if part is not None:
            assert torch.equal(part.token_ids, parts[index].token_ids)
            owners = [[part.names[i] for i in row] for row in part.documents.tolist()]
            assert owners == [[parts[index].names[i] for i in row] for row in parts[index].documents.tolist()]


@pytest.mark.parametrize("name", ["a.csv", "./a.csv", "below/a.csv", "b[1].csv", "c[2]/a.csv"])
def test_files_are_read_by_any_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the folder one is in too, which `datasets` has no name for; brackets are no pattern."""
    monkeypatch.chdir(tmp_path)
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("text\none\ntwo\n")
    text = StreamedText((name,), held_out=0.0)
    assert [document.text for document in text.iterate("train")] == ["one", "two"]
    # caches of downloads link to files whose own names have no suffix
    Path("blob").write_text("text\nthree\n")
    Path("link.csv").symlink_to("blob")
    linked = StreamedText(("link.csv",), held_out=0.0)
    assert [document.text for document in linked.iterate("train")] == ["three"]


@pytest.fixture
def stream_harvest(tiny_harvest: HarvestConfig, tmp_path: Path) -> HarvestConfig:
    draw = random.Random(1)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 90))) for _ in range(120)]
    one, other = lines(tmp_path / "a.jsonl", texts[:60]), folder_of_texts(tmp_path / "b", texts[60:])
    text = StreamedText((one, other), (3.0, 1.0), held_out=0.1, shuffle=16)
    return replace(tiny_harvest, text=text)


@pytest.mark.parametrize("at_call", [1, 5, 13])
def test_an_interrupted_harvest_of_a_stream_goes_on_to_the_same_bytes(
    stream_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    at_call: int,
) -> None:  # fmt: skip
    harvest(stream_harvest, "train", 900, tmp_path / "whole", tiny_language_model)
    outputs_at, calls = module.outputs_at, []

    def interrupted(*args: object) -> object:
        calls.append(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt
        return outputs_at(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "outputs_at", interrupted)
    with pytest.raises(KeyboardInterrupt):
        harvest(stream_harvest, "train", 900, tmp_path / "parts", tiny_language_model)
    harvest(stream_harvest, "train", 900, tmp_path / "parts", tiny_language_model)
    written = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("whole", "parts")
    ]
    assert written[0] == written[1]
    assert len(written[0]) > 4
    # more than there is: said with what there is, and a changed text is another one
    said = (
        r"tokens: expected at most what the train split holds, \d+ tokens .*; .*a.jsonl ended while it was due, which"
    )
    with pytest.raises(InputError, match=said):
        harvest(stream_harvest, "train", 10**6, tmp_path / "parts", tiny_language_model)
    before = stream_harvest.provenance("train")
    path = tmp_path / "b" / "0003.txt"
    os.utime(path, (1, 1))
    assert stream_harvest.provenance("train") != before


def test_live_batches_of_a_stream_are_the_rows_of_its_harvest(
    stream_harvest: HarvestConfig, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    rows = harvest(stream_harvest, "train", 600, tmp_path, tiny_language_model).tensor()
    live = LiveReader(stream_harvest, 600, 600, language_model=tiny_language_model)
    (batch,) = live.from_step(0)
    assert torch.equal(batch.sum(dim=1).sort().values, rows.float().sum(dim=1).sort().values)
    again = LiveReader(stream_harvest, 600, 100, language_model=tiny_language_model, pool_tokens=200)
    batches = list(again.from_step(0))
    assert len(batches) == 6
    for one, other in zip(batches, again.from_step(0), strict=True):  # back to the beginning
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="tokens: expected at most what the windows of the train split hold, found"):
        list(LiveReader(stream_harvest, 10**6, 600, language_model=tiny_language_model).from_step(0))


@pytest.mark.parametrize(
    ("given_options", "message"),
    [
        ({"stream": True}, "stream: expected a text of your own, found sotu"),
        ({"mixture": {"a": 1.0, "sotu": 1.0}}, "stream: expected a text of your own, found sotu"),
        ({"mixture": {"a": 1.0}}, "mixture: expected at least two texts, found one"),
        ({"mixture": {"a": 1.0, "b": 0.0}}, "mixture: expected a positive share of b, found 0"),
        ({"mixture": {"a": 1.0, "b": 2.0}, "text": "c"}, "mixture: expected it in place of text, found text c"),
        ({"text": "c", "stream": True, "shuffle": 0}, "shuffle: expected at least 1 window, found 0"),
        ({"text": "c", "stream": True, "held_out": 0.5}, "held_out: expected a share from 0 to below 0.5"),
    ],
)
def test_what_cannot_stream_is_refused(given_options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        HarvestOptions(**given_options).config()  # type: ignore[arg-type]


def test_sources_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.txt").write_text("one")
    lines(tmp_path / "mixed" / "a.jsonl", ["one"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "one"}\n{"text": 3}\n')
    (tmp_path / "empty").mkdir()
    for source, message in [
        (tmp_path / "mixed", "expected .txt files or .jsonl files, found both"),
        (tmp_path / "empty", "expected files, found an empty folder"),
        (tmp_path / "none", "expected a folder or a file, found nothing"),
        (bad, "line 2: expected a text in field 'text', found int there"),
    ]:
        with pytest.raises(InputError, match=re.escape(message)):
            list(StreamedText((str(source),), held_out=0.0).iterate("train"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tiny_model_folder: Path, tmp_path: Path) -> None:
    """A process of its own reads 1.2 GB of text and takes little more memory than one that reads 12 MB."""
    draw = random.Random(2)
    peaks = []
    for name, count in (("small", 1), ("large", 100)):
        folder = tmp_path / name
        folder.mkdir()
        block = "".join(json.dumps({"text": " ".join(draw.choices(WORDS, k=300))}) + "\n" for _ in range(12_000))
        for index in range(count):
            (folder / f"{index:03d}.jsonl").write_text(block)
        words = ["harvest", "--model", str(tiny_model_folder), "--site", "hidden_states[1]", "--window", "64"]
        words += ["--text", str(folder), "--stream", "--shuffle", "4096", "--cache", str(tmp_path / "cache")]
        # of the split of which there is least, so that the text is read far and the model runs little
        words += ["--split", "test", "--held-out", "0.0002" if count > 1 else "0.01", "--tokens", "20000"]
        code = f"import sys, resource; from sae_torch.cli import main; assert main({words!r}) == 0; "
        code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    size = sum(file.stat().st_size for file in (tmp_path / "large").iterdir())
    assert size > 1e9
    assert peaks[1] - peaks[0] < 100e6 < size / 10
