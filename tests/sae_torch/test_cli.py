from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tqdm import tqdm

import allocation
from sae_torch.cli import COMMANDS, main, parse
from sae_torch.commands.demo import Demo
from sae_torch.commands.harvest import Harvest
from sae_torch.errors import InputError


def test_arguments_become_typed_fields(tmp_path: Path) -> None:
    assert parse(["demo"]) == Demo()
    found = parse(["demo", "--tokens", "9000", "--k", "8", "--out", str(tmp_path), "--overwrite"])
    assert found == Demo(tokens=9000, k=8, out=tmp_path, overwrite=True)
    assert parse(["harvest", "--split", "dev", "--tokens", "5"]) == Harvest(tokens=5, split="dev")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["inspect", "sae"], {"folder": Path("sae")}),
        (["inspect", "--json", "sae"], {"folder": Path("sae"), "json": True}),
        (["inspect", "--no-json", "--layer", "-1", "sae"], {"folder": Path("sae"), "layer": -1}),
        (["import", "--out=o", "sae", "--k", "3"], {"folder": Path("sae"), "out": Path("o"), "k": 3.0}),
        (["export", "--model-name", "m", "--out", "o", "--format", "saelens", "sae"], {"model_name": "m"}),
        (["import", "--out", "o", "--folder", "sae"], {"folder": Path("sae")}),
        (["report", "a.json", "b.json", "--out", "r"], {"evaluations": (Path("a.json"), Path("b.json"))}),
        (
            ["evaluate", "--batch-sizes", "8", "16", "--activations", "x", "a", "b"],
            {"autoencoders": (Path("a"), Path("b")), "batch_sizes": (8, 16), "activations": Path("x")},
        ),
    ],
)
def test_what_a_command_is_about_needs_no_name_wherever_it_stands(words: list[str], named: dict[str, object]) -> None:
    command = parse(words)
    assert {name: getattr(command, name) for name in named} == named


# Wider than a terminal: it stays in one piece.
LONG = "/" + "/".join("abc" * 20 for _ in range(3))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected one of demo, harvest, train, evaluate, report, export, import, inspect, found nothing"),
        (["trian"], "found 'trian'; did you mean train?"),
        (["wash"], "found 'wash'; sae-torch --help says what they do"),
        (["train", "--k", "16"], "--k: expected --sae.k or --sweep.k, found --k"),
        (["train", "--no-tensorboard"], "--no-tensorboard: expected --metrics.no-tensorboard, found --no-tensorboard"),
        (
            ["train", "--sae.chioce", "token"],
            "--sae.chioce: expected an option, found none of this name; did you mean --sae.choice?",
        ),
        (["demo", "--tokenz", "3"], "--tokenz: expected an option, found none of this name; did you mean --tokens?"),
        (["train", "--batch_size=9"], "--batch-size: expected --reader.batch-size, found --batch-size"),
        (["demo", "--tokens", "many"], "--tokens: expected a whole number, found 'many'"),
        (["demo", "--tokens", "100"], "tokens: expected at least one batch of 2048 (batch_size), found 100"),
        (["demo", "--tokens", "-1"], "tokens: expected at least one batch of 2048 (batch_size), found -1"),
        (["demo", "--k", "0"], "k: expected at least 1, found 0"),
        (["demo", "--k", "5000"], "k: expected at most the 4608 features, found 5000"),
        (["harvest", "--split", "valid"], "--split: expected one of train, dev, test, found 'valid'"),
        (["train", "--sae.k", LONG], f"--sae.k: expected a number, found '{LONG}'"),
        (["train", "--sae.choice", LONG], f"balanced or module:Class, found '{LONG}'"),
        (["train", "--sae.k", "nan"], "sae.k: expected more than 0 and at most the 4608 features, found nan"),
        (["train", "--sae.feature_caps=x"], "--sae.feature-caps: expected None or a number, found 'x'"),
        (["train", "--train.betas", "1", "b"], "--train.betas: expected 2 numbers, found '1 b'"),
        (["train", "--train.betas", "1"], "--train.betas: expected 2 values, found fewer"),
        (["train", "--sweep.seed", "0", "x"], "--sweep.seed: expected whole numbers, found '0 x'"),
        (["train", "--harvest.mixture", "a"], "--harvest.mixture: expected texts and numbers in turn, found 'a'"),
        (["train", "--no-train.progress"], "did you mean --train.progress or --train.no-progress?"),
        (
            ["train", "runs/mine", "b"],
            "runs/mine b: expected nothing more, found a value of no option; sae-torch train",
        ),
        (["train", "--checkpoints.every", "0"], "sae-torch: checkpoints.every: expected at least 1, found 0"),
        (
            ["train", "--reader.batch-size", "0"],
            "sae-torch: reader.batch_size: expected a token for each of 1 processes",
        ),
        (["train", "--train.prefixes", "1", "x"], "--train.prefixes: expected None or whole numbers, found '1 x'"),
        (["train", "--sae.k="], "--sae.k: expected a number, found ''"),
        (["train", "--sae.n-features", "----"], "--sae.n-features: expected a whole number, found '----'"),
        (["train", "--train.decay-shape", "-h"], "--train.decay-shape: expected a value, found none"),
        (["evaluate", "x", "--seed", "-1"], "seed: expected 0 or more, found -1"),
        (["evaluate"], "--autoencoders: expected paths, found nothing"),
        (["evaluate", "--k"], "--k: expected a value, found none"),
        (["export", "x", "--out", "y"], "--format: expected one of saelens, dictionary-learning, sparsify"),
    ],
)
def test_words_that_are_no_command_are_explained_with_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("sae-torch: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not any(tmp_path.iterdir())


def test_a_refusal_is_one_sentence_on_a_terminal_too() -> None:
    """A parser colours what it says there."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "sae_torch", "train", "--sae.k", "abc"]
    environment = os.environ | {"TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        assert process.wait(timeout=60) == 2
    os.close(theirs)
    assert os.read(ours, 10_000).decode() == "sae-torch: --sae.k: expected a number, found 'abc'\r\n"
    os.close(ours)


@pytest.mark.parametrize(("rank", "said"), [("0", "sae-torch: --sae.k: expected a number, found 'abc'\n"), ("1", "")])
def test_the_first_of_several_processes_says_what_is_refused(
    rank: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    columns = os.environ.get("COLUMNS")
    with pytest.raises(SystemExit):
        main(["train", "--sae.k", "abc"])
    assert capsys.readouterr().err == said
    assert os.environ.get("COLUMNS") == columns


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--model", "./nowhere"], "model ./nowhere: expected a folder or a GGUF file, found nothing"),
        (["train", "--config", "run.toml"], "run.toml: No such file or directory"),
    ],
)
def test_input_that_cannot_be_used_gets_one_sentence_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"sae-torch: {message}\n"
    assert not any(tmp_path.rglob("*.json"))


def test_help_lists_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    overview = capsys.readouterr().out
    for name, (module, kind, sentence) in COMMANDS.items():
        command = getattr(importlib.import_module(f"sae_torch.commands.{module}"), kind)
        assert inspect.cleandoc(command.__doc__).splitlines()[0] == sentence
        assert f"  {name:<10} {sentence}\n" in overview
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    options = capsys.readouterr().out
    for option in ("--tokens", "--seed", "--k", "--features", "--out", "--cache", "--overwrite"):
        assert option in options


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"sae-torch {allocation.__version__}\n"


def test_errors_of_the_program_itself_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(self: Demo) -> None:
        raise ValueError("a defect, not an input error")

    monkeypatch.setattr(Demo, "run", defect)
    with pytest.raises(ValueError, match="a defect"):
        main(["demo"])


def test_an_interrupt_says_how_to_resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_torch.commands.harvest.harvest_sites", interrupted)
    assert main(["harvest", "--split", "dev", "--cache", "my cache"]) == 130
    first, _, line = capsys.readouterr().err.strip().splitlines()
    assert first.startswith("device: ")
    assert line == (
        "Interrupted while harvesting the dev split; what is finished is kept, "
        "resume with: python -m sae_torch harvest --split dev --cache 'my cache'"
    )


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (KeyboardInterrupt, "what is finished is kept, resume with: python -m sae_torch demo"),
        (InputError, "sae-torch: k: expected less"),
    ],
    ids=["interrupt", "refusal"],
)
@pytest.mark.parametrize("held", ["before its with", "by a generator"])
def test_what_is_said_stands_below_every_progress_bar(
    error: type[BaseException],
    last: str,
    held: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(*_: object) -> None:
        raise error("k: expected less")

    def steps() -> Iterator[int]:
        with tqdm(desc="train") as bar:
            yield 1
            bar.update(1)

    def job(*_: object) -> None:
        if held == "before its with":
            monkeypatch.setattr(tqdm, "__enter__", lambda bar: interrupted(bar))
            with tqdm(desc="train"):
                pass
        for _step in steps():
            interrupted()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Demo, "_run", job)
    monkeypatch.setattr("sae_torch.commands.demo.ResultsFolder.claim", lambda *_: None)
    assert main(["demo"]) != 0
    lines = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()
    assert lines[0].startswith("train: ")
    assert lines[-1].endswith(last)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err == f"sae-torch: {tmp_path}/file/out/unfinished: Not a directory\n"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sae_torch", "demo", "--tokens", "100"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "tokens: expected at least one batch of 2048 (batch_size), found 100" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_tyro_has_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sae-allocation\[lm\]'"):
        parse(["demo"])


def test_input_errors_are_value_errors() -> None:
    assert issubclass(InputError, ValueError)
