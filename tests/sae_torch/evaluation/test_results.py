from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from sae_torch.errors import InputError
from sae_torch.evaluation import ModelLoss, Quality, Result, ResultsFolder, text_table
from sae_torch.files import write_text


def quality(counts: list[int], histogram: list[int]) -> Quality:
    return Quality(
        nmse=0.25,
        counts=torch.tensor(counts),
        histogram=torch.tensor(histogram),
        top_rows=torch.full((len(counts), 2), -1),
        top_values=torch.full((len(counts), 2), -torch.inf),
    )


def test_figures_of_a_result() -> None:
    loss = ModelLoss(clean=3.0, zero=11.0, mean=8.0, spliced={"some": 3.5, "other": 7.0}, n_tokens=9)
    found = Result.of("some", quality([3, 0, 5, 2], [2, 3, 0, 0, 1]), loss)
    assert found.nmse == 0.25
    assert found.dead == 1
    assert found.l0 == 10 / 6
    assert found.recovered_zero == pytest.approx(7.5 / 8)
    assert found.recovered_mean == pytest.approx(4.5 / 5)
    assert found.as_json()["ce_spliced"] == 3.5
    assert json.loads(json.dumps(found.as_json())) == found.as_json()


def test_the_table_is_aligned() -> None:
    rows = [
        Result("token choice", 0.2104, 32.0, 3, 3.5, 3.71, 8.4, 11.1, 0.97, 0.95),
        Result("x", 1.5, 3.125, 4608, 13.5, 3.71, 8.4, 11.1, -0.5, -12.25),
    ]
    lines = text_table(rows).splitlines()
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    rule = lines[2]
    starts = [i for i, c in enumerate(rule) if c == "-" and (i == 0 or rule[i - 1] == " ")]
    ends = [i for i, c in enumerate(rule) if c == "-" and (i + 1 == len(rule) or rule[i + 1] == " ")]
    for line in (lines[3], lines[4]):
        assert line[0] != " "
        for start, end in list(zip(starts, ends, strict=True))[1:]:
            assert line[end] != " "  # numbers end under the end of their heading
            assert line[start - 2 : start] == "  "
    assert "0.2104" in lines[3]
    assert "-1225.00 %" in lines[4]


def test_parts_of_an_unfinished_run_are_kept_and_published(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "run", {"tokens": 5})
    folder.claim()
    assert folder.part("a") is None
    folder.write_part("a", lambda place: write_text(place / "weights", "1"))
    again = ResultsFolder(tmp_path / "run", {"tokens": 5})
    again.claim()
    part = again.part("a")
    assert part is not None
    assert (part / "weights").read_text() == "1"
    again.publish({"results": [1]}, "<p>report</p>")
    assert {str(file.relative_to(folder.path)) for file in folder.path.rglob("*")} == {
        "a",
        "a/weights",
        "report.html",
        "results.json",
    }
    assert json.loads((folder.path / "results.json").read_text()) == {"configuration": {"tokens": 5}, "results": [1]}


def test_published_results_stay_until_new_ones_are_complete(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, {"tokens": 5})
    folder.claim()
    folder.write_part("a", lambda place: write_text(place / "weights", "1"))
    folder.publish({"results": 1}, "first")
    folder.claim()
    assert folder.part("a") is None  # a complete run is made again, not resumed
    folder.write_part("a", lambda place: write_text(place / "weights", "2"))
    assert (tmp_path / "a" / "weights").read_text() == "1"
    assert (tmp_path / "report.html").read_text() == "first"
    (tmp_path / "large.html").write_text("second")
    folder.publish({"results": 2}, tmp_path / "large.html")
    assert (tmp_path / "a" / "weights").read_text() == "2"
    assert (tmp_path / "report.html").read_text() == "second"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_a_part_that_fails_does_not_exist(tmp_path: Path, failure: type[BaseException]) -> None:
    folder = ResultsFolder(tmp_path, {})
    folder.claim()

    def write(place: Path) -> None:
        write_text(place / "weights", "1")
        raise failure

    with pytest.raises(failure):
        folder.write_part("a", write)
    assert folder.part("a") is None
    assert [file.name for file in folder.working.iterdir()] == ["results.json"]


def test_a_part_left_by_a_killed_process_is_removed(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path, {})
    folder.claim()
    (folder.working / "a.tmp").mkdir()
    (folder.working / "a.tmp" / "weights").write_text("half")
    folder.claim()
    assert not (folder.working / "a.tmp").exists()


@pytest.mark.parametrize("published", [True, False])
def test_results_of_another_configuration_are_refused(tmp_path: Path, published: bool) -> None:
    first = ResultsFolder(tmp_path, {"tokens": 5, "seed": 0})
    first.claim()
    first.write_part("a", lambda place: write_text(place / "weights", "1"))
    if published:
        first.publish({"results": 1}, "first")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    second = ResultsFolder(tmp_path, {"tokens": 6, "seed": 0})
    with pytest.raises(
        InputError, match=r"results\.json: expected .* others \(tokens 5 there, 6 here\); choose another"
    ):
        second.claim()
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    second.claim(overwrite=True)
    assert second.part("a") is None
    assert (tmp_path / "report.html").exists() == published  # replaced only by complete results


@pytest.mark.parametrize("content", ["{}", "[1]", "not json", '{"configuration": 3}', '{"results": []}'])
def test_a_file_of_something_else_is_never_overwritten(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"of this configuration, found others \(not of this program\)"):
        ResultsFolder(tmp_path, {"tokens": 5}).claim()
    assert (tmp_path / "results.json").read_text() == content


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a", "new \ud800")
    assert (tmp_path / "a").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
