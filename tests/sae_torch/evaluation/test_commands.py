"""`evaluate` and `report` from the command line: figures, refusals, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import sae_torch as st
from sae_torch.activations import Activations, HarvestConfig, StateOfTheUnion, harvest, open_activations, plan
from sae_torch.cli import main
from sae_torch.evaluation import EvaluationFile, measure
from sae_torch.interop.saelens import metadata_of
from tests.sae_torch.command_line import complaint


@pytest.fixture(scope="module")
def made(tiny_model_folder: Path, tiny_text: StateOfTheUnion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a harvest and two autoencoders of it."""
    folder = tmp_path_factory.mktemp("made")
    config = HarvestConfig(
        model=str(tiny_model_folder), site="hidden_states[2]", text=tiny_text, window=16, dtype=torch.float32,
        windows_per_shard=8, windows_per_batch=3,
    )  # fmt: skip
    cache = folder / "cache"
    held_out = harvest(config, "test", 300, cache)
    train = harvest(config, "train", 900, cache).tensor(torch.float32)
    plan(config, "test", 1, cache).folder.rename(folder / "held-out")
    shutil.rmtree(cache)
    for name, choice in (("token", st.TokenChoice(4)), ("feature", st.FeatureChoice(4))):
        sae = st.SparseAutoencoder(held_out.d_model, 48, choice)
        st.Trainer(sae, st.TrainConfig(progress=False)).fit(list(torch.split(train, 100)) * 2)
        st.save(sae, folder / "saes" / name)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, where the commands run."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(folder)
    return folder


def run(*words: str) -> int:
    return main(["evaluate", "--activations", "held-out", "--loss-windows", "4", "--batch-sizes", "64", *words])


def test_evaluations_and_their_report(place: Path, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--autoencoders", "saes/token", "saes/feature", "--model", str(tiny_model_folder)) == 0
    out = capsys.readouterr().out
    for text in ("NMSE", "recovered", "topical", "hardest tenth", "swapped", "evaluation.json"):
        assert text in out
    file = EvaluationFile.read(place / "evaluation.json")
    token, feature = file.evaluations
    assert (token.name, feature.name) == ("token", "feature")
    held_out = open_held_out(place)
    expected = measure(st.load(place / "saes" / "feature"), held_out)
    assert feature.nmse == expected.nmse
    assert feature.l0 == expected.l0
    assert sum(feature.histogram) == len(held_out)
    assert token.model is not None
    assert feature.model is not None
    assert token.model.ce_clean == feature.model.ce_clean
    assert token.model.kl_zero > 0
    assert {mode.order for mode in feature.batch_modes} == {"shuffled", "topical"}
    assert feature.features
    assert len(feature.features[0].promotes) == 6
    assert file.facts["Site"] == "hidden_states[2]"

    assert main(["report", "--evaluations", "evaluation.json"]) == 0
    page = (place / "report.html").read_text()
    assert f"{feature.nmse:.4f}" in page
    assert 'id="block:d1/features-0"' in page
    # a folder beside the file has the pages of all features, and both can be moved
    assert token.dashboard == place / "evaluation.features" / "1-token.zip"
    (place / "moved").mkdir()
    for name in ("evaluation.json", "evaluation.features"):
        (place / name).rename(place / "moved" / name)
    assert main(["report", "moved/evaluation.json", "--out", "moved/page"]) == 0
    assert (place / "moved" / "page" / "data" / "d0" / "features-0.js").is_file()
    # without it the pages are shown that the file holds itself
    capsys.readouterr()
    (place / "moved" / "evaluation.json").rename(place / "evaluation.json")
    assert main(["report", "evaluation.json", "--overwrite"]) == 0
    assert "the pages of all features of token are not there" in capsys.readouterr().out
    # the same names in two files are told apart by the files
    (place / "second.json").write_text((place / "evaluation.json").read_text())
    assert main(["report", "--evaluations", "evaluation.json", "second.json", "--out", "both.html"]) == 0
    assert "second: token" in (place / "both.html").read_text()


def test_a_report_judges_dictionaries_that_were_not_evaluated(place: Path) -> None:
    """Also of another library, beside an evaluation that is there."""
    np.save(place / "x.npy", open_held_out(place).tensor(torch.float32).numpy()[:200])
    assert main(["export", "saes/feature", "--out", "theirs", "--format", "dictionary-learning"]) == 0
    assert main(["report", "--evaluations", "theirs", "saes/token", "--activations", "x.npy", "--out", "a.html"]) == 0
    theirs, token = EvaluationFile.read(place / "a.json").evaluations
    page = (place / "a.html").read_text()
    assert f"{theirs.nmse:.4f}" in page
    assert f"{token.nmse:.4f}" in page


@pytest.mark.parametrize(("trained", "said"), [(True, "harvest with --bos yes"), (False, ""), (None, "")])
def test_windows_that_began_otherwise_in_training_are_said(
    trained: bool | None, said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sae = st.load(place / "saes" / "token")
    st.save(sae, place / "other", metadata={} if trained is None else {"prepend_bos": trained})
    assert run("--autoencoders", "other", "--loss-windows", "0", "--pages", "0") == 0
    out = capsys.readouterr().out
    assert said in out
    assert ("prepend_bos" in out) == bool(said)


@pytest.mark.parametrize(
    ("trained", "said"),
    [("blocks.0.hook_resid_post", True), ("blocks.2.hook_resid_pre", False), ("model.layers.1", False), (None, False)],
)
def test_another_site_than_that_of_training_is_said(
    trained: str | None, said: bool, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert metadata_of(open_held_out(place).header)["hook_name"] == "blocks.1.hook_resid_post"
    st.save(
        st.load(place / "saes" / "token"), place / "sited", metadata={} if trained is None else {"hook_name": trained}
    )
    assert run("--autoencoders", "sited", "--loss-windows", "0", "--pages", "0", "--overwrite") == 0
    assert (f"was trained at {trained}" in capsys.readouterr().out) == said


def test_activations_that_do_not_say_how_windows_began_leave_it_open(place: Path) -> None:
    np.save(place / "rows.npy", open_held_out(place).tensor().numpy())
    assert "prepend_bos" not in metadata_of(open_activations(place / "rows.npy").header)
    assert metadata_of(open_held_out(place).header)["prepend_bos"] is False


def open_held_out(place: Path) -> Activations:
    found = open_activations(place / "held-out")
    assert isinstance(found, Activations)
    return found


def test_arrays_and_autoencoders_of_others_are_judged_too(place: Path) -> None:
    np.save(place / "x.npy", open_held_out(place).tensor(torch.float32).numpy())
    words = ["export", "--folder", "saes/feature", "--out", "theirs", "--format", "dictionary-learning"]
    assert main(words) == 0
    words = ["--autoencoders", "theirs", "saes/feature", "--activations", "x.npy", "--tokens", "200"]
    assert main(["evaluate", *words, "--batch-sizes", "50"]) == 0
    theirs, ours = EvaluationFile.read(place / "evaluation.json").evaluations
    assert theirs.nmse == pytest.approx(ours.nmse, rel=1e-4)
    assert theirs.n_tokens == 200
    assert theirs.model is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--activations", "held-out"], "autoencoders"),
        (
            ["report", "--evaluations", "saes/token"],
            "activations: expected a folder to judge saes/token on, found none; text is held out only by a run of",
        ),
        (
            ["evaluate", "--autoencoders", "nowhere", "--activations", "held-out"],
            "nowhere: expected the folder or file of an",
        ),
        (["evaluate", "--autoencoders", "saes/token", "--activations", "no"], "no: expected a folder or a .npy file"),
        (["evaluate", "--autoencoders", "saes/token", "--activations", "saes"], "expected .safetensors, .arrow or"),
        (
            ["evaluate", "--autoencoders", "saes/token", "saes/token", "--activations", "held-out"],
            "folder once, found saes/token twice",
        ),
        (
            ["evaluate", "--autoencoders", "saes/token", "--activations", "wide.npy"],
            "activations wide.npy: expected the width 16 that token reads, found 7",
        ),
        (["evaluate", "--autoencoders", "saes/token", "--activations", "held-out", "--out", "taken"], "taken exists"),
        (
            ["evaluate", "--autoencoders", "saes/token", "--activations", "held-out", "--tokens", "1"],
            "tokens: expected at least 2, found 1",
        ),
        (["evaluate", "--autoencoders", "saes/token", "--activations", "held-out", "--tokens", "9999"], "there are"),
        (
            ["evaluate", "--autoencoders", "saes/token", "--activations", "held-out", "--pages", "-1"],
            "pages: expected 0 or more, found -1",
        ),
        (
            ["evaluate", "--autoencoders", "saes/token", "--activations", "held-out", "--k", "0"],
            "k: expected a positive number",
        ),
        (["evaluate", "--autoencoders", "saes/token", "--activations", "held-out"], "expected the one of held-out"),
        (["report", "--evaluations", "none.json"], "none.json: expected a file of `sae-torch evaluate`, found nothing"),
        (["report", "--evaluations", "taken"], "taken: expected a file of `sae-torch evaluate`, found something"),
        (["report", "--evaluations", "taken", "--out", "taken"], "taken exists already; choose another --out"),
        (["report", "--evaluations", "taken", "--out", "saes"], "saes is a folder, expected a file to write"),
    ],
)
def test_wrong_arguments_write_nothing(
    words: list[str], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "taken").write_text("mine")
    np.save(place / "wide.npy", np.zeros((10, 7), np.float32))
    other = open_held_out(place).header["model"]
    if "expected the one of" in message:  # a model on disk, but another one
        (place / other).mkdir()
        (place / other / "config.json").write_text("{}")
    before = sorted(place.rglob("*"))
    assert message in complaint(words, capsys)
    assert sorted(place.rglob("*")) == before
    assert (place / "taken").read_text() == "mine"


def test_results_are_replaced_only_on_request(place: Path) -> None:
    plain = ("--autoencoders", "saes/token", "--loss-windows", "0", "--pages", "0")
    assert run(*plain) == 0
    before = (place / "evaluation.json").read_text()
    assert run(*plain) == 2
    assert run(*plain, "--tokens", "100", "--overwrite") == 0
    assert (place / "evaluation.json").read_text() != before
    assert json.loads(before)["evaluations"][0]["model"] is None


def test_pages_that_no_file_names_any_more_are_removed(place: Path, tiny_model_folder: Path) -> None:
    with_pages = ("--model", str(tiny_model_folder), "--pages", "5")
    assert run("--autoencoders", "saes/token", "saes/feature", *with_pages) == 0
    pages = place / "evaluation.features"
    (pages / "2024-05-mine.zip").write_text("mine")
    assert sorted(file.name for file in pages.iterdir()) == ["1-token.zip", "2-feature.zip", "2024-05-mine.zip"]
    assert run("--autoencoders", "saes/feature", *with_pages, "--overwrite") == 0
    assert sorted(file.name for file in pages.iterdir()) == ["1-feature.zip", "2024-05-mine.zip"]
