"""From a run's folder to its page: the documents that the run held out are harvested, and nothing else is asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sae_torch.activations import StateOfTheUnion, harvesting, open_activations
from sae_torch.activations.harvesting import HarvestPlan
from sae_torch.cli import main
from sae_torch.errors import InputError
from sae_torch.evaluation import EvaluationFile
from tests.sae_torch.command_line import complaint


@pytest.fixture(scope="module")
def texts(tiny_text: StateOfTheUnion, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text files."""
    folder = tmp_path_factory.mktemp("texts")
    for split in ("train", "dev", "test"):
        for number, document in enumerate(tiny_text.documents(split)):
            (folder / f"{split}-{number}.txt").write_text(document.text, encoding="utf-8")
    return folder


def trained(model: Path, texts: Path, out: str, *more: str) -> int:
    words = ["--harvest.model", str(model), "--harvest.text", str(texts), "--harvest.window", "16"]
    words += ["--harvest.site", "hidden_states[2]", "--harvest.windows-per-shard", "8", "--harvest.held-out", "0.3"]
    words += ["--harvest.tokens", "600", "--harvest.cache", "cache", "--reader.batch-size", "100"]
    return main(["train", "--out", out, "--sae.n-features", "48", "--sae.k", "4", *words, *more])


def test_a_run_is_judged_on_what_it_held_out(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one command, all its autoencoders; what the commands said one by one is the same."""
    monkeypatch.chdir(tmp_path)
    assert trained(tiny_model_folder, texts, "run", "--sweep.k", "2", "4") == 0
    assert main(["report", "run"]) == 0
    file = EvaluationFile.read(tmp_path / "report.json")
    assert [each.name for each in file.evaluations] == sorted(
        folder.parent.name for folder in Path("run").glob("*/cfg.json")
    )
    assert (tmp_path / "report.html").is_file()
    assert file.facts["Split"] == "test"
    assert all(each.model is not None and each.features for each in file.evaluations)

    (test,) = Path("cache").rglob("*-test-*")
    one = file.evaluations[0]
    model = ("--model", str(tiny_model_folder))
    held = len(open_activations(test))
    assert 0 < held < 40_000
    assert main(["evaluate", f"run/{one.name}", "--activations", str(test), "--out", "by-folder.json", *model]) == 0
    assert main(["evaluate", f"run/{one.name}", "--out", "by-itself.json"]) == 0
    assert main(["evaluate", f"run/{one.name}", "--out", "few.json", "--tokens", "40", "--pages", "0"]) == 0
    by_folder, by_itself, few = (
        EvaluationFile.read(tmp_path / name) for name in ("by-folder.json", "by-itself.json", "few.json")
    )
    assert by_itself.evaluations[0].nmse == by_folder.evaluations[0].nmse == one.nmse
    assert by_itself.facts["Held out"] == by_folder.facts["Held out"]
    assert few.facts["Held out"].startswith("40 tokens")


@pytest.mark.slow
def test_a_run_of_transcoders_is_judged_on_both_sites(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes share the work."""
    monkeypatch.chdir(tmp_path)
    target = ("--harvest.target", "model.layers.1.mlp", "--sae.kind", "transcoder")
    assert trained(tiny_model_folder, texts, "run", *target) == 0
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    subprocess.run([*launched, "sae_torch", "evaluate", "run", "--out", "two.json"], check=True)
    assert main(["evaluate", "run", "--out", "one.json"]) == 0
    two, one = (EvaluationFile.read(tmp_path / name) for name in ("two.json", "one.json"))
    assert one.facts["Target"] == "model.layers.1.mlp"
    assert two.evaluations[0].nmse == one.evaluations[0].nmse


def test_more_inputs_than_targets_may_lie_there(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoencoder at the site of the inputs was judged before, on more of them."""
    monkeypatch.chdir(tmp_path)
    assert trained(tiny_model_folder, texts, "plain") == 0
    assert main(["evaluate", "plain", "--out", "plain.json", "--pages", "0"]) == 0
    target = ("--harvest.target", "model.layers.1.mlp", "--sae.kind", "transcoder")
    assert trained(tiny_model_folder, texts, "run", *target) == 0
    assert main(["evaluate", "run", "--tokens", "100", "--pages", "0"]) == 0
    assert EvaluationFile.read(tmp_path / "evaluation.json").facts["Held out"].startswith("100 tokens")


def test_a_model_that_has_moved_is_named(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_folder, tmp_path / "here" / tiny_model_folder.name)
    assert trained(tmp_path / "here" / tiny_model_folder.name, texts, "run") == 0
    Path("here").rename("there")
    assert "expected a folder or a GGUF file" in complaint(["evaluate", "run"], capsys)
    assert main(["evaluate", "run", "--model", f"there/{tiny_model_folder.name}"]) == 0


def test_other_errors_of_the_harvest_are_no_shortness(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert trained(tiny_model_folder, texts, "run") == 0

    def full(plans: Sequence[HarvestPlan]) -> None:
        if any(each.tokens_finished and "-test-" in each.folder.name for each in plans):
            raise InputError("cache: expected more room")

    monkeypatch.setattr(harvesting, "_require_space", full)
    assert "cache: expected more room" in complaint(["evaluate", "run"], capsys)
    assert not Path("evaluation.json").exists()


def test_what_was_not_held_out_is_asked_for(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert trained(tiny_model_folder, texts, "run") == 0
    (name,) = (folder.parent.name for folder in Path("run").glob("*/cfg.json"))
    shutil.copytree(f"run/{name}", "alone")
    shutil.copytree(f"run/{name}", "site/one")
    Path("site/config.toml").write_text('title = "of something else"\n')
    assert trained(tiny_model_folder, texts, "other", "--harvest.window", "8") == 0
    np.save("x.npy", np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32))
    words = ["--sae.n-features", "48", "--sae.k", "4", "--reader.batch-size", "100"]
    assert main(["train", "--out", "from-disk", "--activations", "x.npy", *words]) == 0
    asks = "found none; text is held out only by a run of train that harvested"
    for paths, said in (
        (["alone"], f"activations: expected a folder to judge alone on, {asks}"),
        (["site/one"], f"activations: expected a folder to judge site/one on, {asks}"),
        (["from-disk"], f"activations: expected a folder to judge from-disk/{name} on, {asks}"),
        (["run", "alone"], f"activations: expected a folder to judge alone on, {asks}"),
        (["run", "other"], "were trained on different ones (window 16 there, 8 here"),
        (["run/nosuch"], "run/nosuch: expected"),
        (["run", "--targets", "x.npy"], "targets: expected activations beside them, found x.npy alone"),
    ):
        assert said in complaint(["evaluate", *paths], capsys)
    shutil.copytree(f"run/{name}", "run/copy")
    assert main(["evaluate", "run", "--pages", "0", "--loss-windows", "0"]) == 0
    assert len(EvaluationFile.read(tmp_path / "evaluation.json").evaluations) == 1
    shutil.rmtree(f"run/{name}")
    assert f"run: expected a finished run, found none of its {name}" in complaint(["report", "run"], capsys)
    assert not Path("report.html").exists()
