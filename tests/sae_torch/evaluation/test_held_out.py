"""From a run's folder to its page: the documents that the run held out are harvested, and nothing else is asked for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sae_torch.activations import StateOfTheUnion, open_activations
from sae_torch.cli import main
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


def test_what_was_not_held_out_is_asked_for(
    tiny_model_folder: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert trained(tiny_model_folder, texts, "run") == 0
    (name,) = (folder.parent.name for folder in Path("run").glob("*/cfg.json"))
    shutil.copytree(f"run/{name}", "alone")
    assert trained(tiny_model_folder, texts, "other", "--harvest.window", "8") == 0
    np.save("x.npy", np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32))
    words = ["--sae.n-features", "48", "--sae.k", "4", "--reader.batch-size", "100"]
    assert main(["train", "--out", "from-disk", "--activations", "x.npy", *words]) == 0
    asks = "found none; text is held out only where train harvested itself"
    for paths, said in (
        (["alone"], f"activations: expected a folder to judge alone on, {asks}"),
        (["from-disk"], f"activations: expected a folder to judge from-disk/{name} on, {asks}"),
        (["run", "alone"], f"activations: expected a folder to judge alone on, {asks}"),
        (
            ["run", "other"],
            f"activations: expected a folder, found none, and run/{name} and other/{name} saw different",
        ),
    ):
        assert said in complaint(["evaluate", *paths], capsys)
    shutil.rmtree(f"run/{name}")
    assert "run: expected a finished run, found one without autoencoders" in complaint(["report", "run"], capsys)
    assert not Path("report.html").exists()
