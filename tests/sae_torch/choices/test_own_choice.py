"""A choice of one's own goes wherever ours go, without a line of the packages changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import sae_torch as st
from sae_torch.training.checkpoint import read_state
from tests.sae_torch.choices.capped_mutual import CappedMutual
from tests.sae_torch.training.activations import activations
from tests.sae_torch.training.same_bits import finished

HERE = Path(__file__).parent
FOLDER = "CappedMutual-k3"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sae_torch", *words]


def environment() -> dict[str, str]:
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def done(*words: str) -> str:
    """What a command that succeeds says."""
    ended = subprocess.run(command(*words), env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, torch.cat(activations(60)).numpy())
    return path


def training(rows: Path, out: Path) -> list[str]:
    words = ["train", "--activations", str(rows), "--out", str(out), "--reader.batch-size", "256"]
    words += ["--sae.choice", "capped_mutual:CappedMutual", "--sae.choice-options", "cap", "6", "--sae.k", "3"]
    words += ["--sae.n-features", "64", "--train.k-start", "9", "--train.k-annealing", "0.5"]
    return [*words, "--checkpoints.every", "5", "--metrics.every", "1"]


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    done(*training(rows, out))
    return out


def test_the_trainer_anneals_its_budget_and_calibrates_it() -> None:
    choice = CappedMutual(k=3, cap=6)
    sae = st.SparseAutoencoder(16, 64, choice)
    trainer = st.Trainer(sae, st.TrainConfig(k_start=9, k_annealing=0.5, progress=False))
    batches, budgets = activations(30), []
    trainer.begin(batches[0], len(batches), sum(map(len, batches)))
    for x in batches:
        trainer.step(x)
        budgets.append(choice.k)
    trainer.end()
    assert budgets[0] == 9
    assert budgets[-1] == 3
    assert sorted(budgets, reverse=True) == budgets
    assert choice.unused >= 0
    st.calibrate(sae, batches)
    fresh = torch.cat(activations(4, seed=1))
    assert abs(sae.eval()(fresh).codes.l0 / 3 - 1) < 0.1


def test_a_command_trains_saves_and_loads_it(whole: Path) -> None:
    sae = st.load(whole / FOLDER)
    assert isinstance(sae.choice, CappedMutual)
    assert (sae.choice.k, sae.choice.cap) == (3, 6)
    assert sae.choice.theta > 0
    k = [json.loads(line)["k"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert k[0] > 8
    assert k[-1] == 3


def test_what_it_carries_is_in_the_checkpoints(whole: Path) -> None:
    state = read_state(whole / "checkpoints" / "finished")
    assert state["trainers"][FOLDER]["choice"].keys() == {"prices", "unused"}


def test_a_run_that_is_killed_goes_on_to_the_same_bits(rows: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with subprocess.Popen(command(*training(rows, out)), env=environment(), stderr=subprocess.DEVNULL) as process:
        for _ in until_exit(process):
            if any((out / "checkpoints").glob("step-*")):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (out / "checkpoints" / "finished").exists()
    assert "going on from" in done(*training(rows, out))
    there, here = finished(whole), finished(out)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name].nan_to_num(), here[name].nan_to_num()) for name in there)


def until_exit(process: subprocess.Popen[bytes]) -> Iterator[None]:
    while process.poll() is None:
        yield
        time.sleep(0.001)


def test_commands_evaluate_and_report_it(rows: Path, whole: Path, tmp_path: Path) -> None:
    found, page = tmp_path / "evaluation.json", tmp_path / "report.html"
    words = ["evaluate", "--autoencoders", str(whole / FOLDER), "--activations", str(rows), "--out", str(found)]
    said = done(*words, "--batch-sizes", "256", "--modules", "capped_mutual")
    assert "CappedMutual" in said
    done("report", "--evaluations", str(found), "--out", str(page))
    assert "CappedMutual" in page.read_text(encoding="utf-8")


def test_a_folder_whose_choice_is_not_defined_says_so(whole: Path) -> None:
    program = f"import sae_torch as st; print(type(st.load({str(whole / FOLDER)!r}).choice).__name__)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "MutualChoice\n"
    assert "choice CappedMutual is not defined here" in ended.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--sae.choice", "nowhere:Capped"], "expected a module that Python can import, found 'nowhere'"),
        (["--sae.choice", "capped_mutual:Missing"], "expected a subclass of sae_torch.Choice"),
        (["--sae.choice", "mutal"], "expected token, mutual, feature, balanced or module:Class, found 'mutal'"),
        (["--sae.choice-options", "caps", "6"], "expected arguments of capped_mutual:CappedMutual"),
    ],
)
def test_what_is_no_choice_is_said(rows: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    given = [*training(rows, tmp_path / "run"), *words]
    ended = subprocess.run(command(*given), env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def test_a_subclass_that_observes_anew_has_to_promise_anew() -> None:
    class Watching(st.MutualChoice):
        def observe(self, scores: torch.Tensor, solution: object) -> None:
            """Otherwise than the parent."""

    assert st.MutualChoice.supports_padded
    assert not Watching.supports_padded
    assert not Watching.supports_graph


def test_a_class_with_a_name_of_ours_is_not_saved(tmp_path: Path) -> None:
    kind = type("TokenChoice", (st.TokenChoice,), {})
    sae = st.SparseAutoencoder(4, 8, choice=kind(2))
    with pytest.raises(st.InputError, match="choice: expected a class whose name no other choice has"):
        st.save(sae, tmp_path / "sae")
    assert st.Choice.named("TokenChoice") is st.TokenChoice
