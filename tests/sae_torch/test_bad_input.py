"""Everything a user can get wrong with `harvest` and `train`: one sentence, exit code 2, nothing overwritten."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_torch.activations import HarvestOptions, plan
from sae_torch.cli import main
from tests.sae_torch.command_line import complaint


@pytest.fixture
def place(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model, a text and activations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "model").symlink_to(tiny_model_folder)
    (tmp_path / "text").mkdir()
    for index in range(30):
        (tmp_path / "text" / f"{index}.txt").write_text(" ".join(f"w{(index * 7 + n * n) % 60}" for n in range(60)))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(600, 8)).astype(np.float32))
    return tmp_path


HARVEST = ["harvest", "--model", "./model", "--text", "./text", "--site", "hidden_states[2]", "--window", "16"]
HARVEST += ["--tokens", "200", "--windows-per-shard", "4"]
TRAIN = ["train", "--out", "run", "--activations", "x.npy", "--sae.n-features", "16", "--sae.k", "2"]
TRAIN += ["--reader.batch-size", "100", "--checkpoints.every", "2"]


def contents(folder: Path) -> dict[str, Any]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock" and "model" not in path.parts
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text", "./nowhere"], "text ./nowhere: expected a folder or a .jsonl file, found nothing"),
        (["--text", "./empty"], "text empty: expected .txt files, found none"),
        (["--text", "./blank"], "text ./blank: expected documents with text, found 1 without any"),
        (["--model", "./nowhere"], "model ./nowhere: expected a folder or a GGUF file, found nothing"),
        (["--model", "./text"], "model ./text: expected a folder with a config.json, found none in it"),
        pytest.param(
            ["--model", "no/such-model"],
            "model no/such-model: expected a model that transformers can load, found none: ",
            marks=pytest.mark.slow,  # a hub that cannot be reached is asked again and again
        ),
        (["--site", "hidden_states[9]"], "LlamaForCausalLM has 4 blocks, found 'hidden_states[9]'; for"),
        (["--site", "layers.7"], "found 'layers.7', which is no module of LlamaForCausalLM"),
        (["--also", "layers.7"], "found 'layers.7', which is no module of LlamaForCausalLM"),
        (["--window", "65"], "window: expected at most the 64 positions of ./model, found 65"),
        (["--window", "1"], "window: expected at least 2, found 1"),
        (["--norm-multiple", "0.5"], "norm_multiple: expected more than 1, found 0.5"),
        (["--tokens", "0"], "tokens: expected at least 1, found 0"),
        (["--tokens", "9000"], "tokens at hidden_states[2], found 9000"),
        (["--held-out", "0.7"], "held_out: expected a share from 0 to below 0.5, found 0.7"),
        (["--split", "test", "--held-out", "0"], "one document in the test split, found none of the 30"),
        (["--dtype", "float8"], "--dtype"),
        (["--cache", "x.npy"], "cache: expected a folder that can be made, found x.npy/activations/"),
    ],
)
def test_harvest(place: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    (place / "empty").mkdir()
    (place / "blank").mkdir()
    (place / "blank" / "a.txt").write_text("  \n")
    assert message in complaint(HARVEST + more, capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--activations", "nowhere"], "activations nowhere: expected a folder or a .npy file, found nothing"),
        (["--activations", "text"], "activations text: expected .safetensors, .arrow or .npy files, found none"),
        (["--activations", "mixed"], "mixed/b.npy: expected float32 of width 8 like mixed/a.npy, found float16"),
        (["--activations", "wide"], "like wide/a.npy, found float32 of width 9"),
        (
            ["--activations", "whole"],
            "whole/a.npy: expected floating-point rows (tokens, d_model) of 16, 32 or 64 bits, found int64",
        ),
        (["--reader.batch-size", "601"], "activations: expected at least one batch of 601 tokens, found 600"),
        (["--sae.k", "17"], "k: expected more than 0 and at most the 16 features, found 17"),
        (["--sae.choice", "token", "--sae.k", "2.5"], "k: token choice takes a whole number of features per token"),
        (
            ["--sae.choice", "feature", "--sae.token-caps", "3"],
            "token_caps: only balanced choice takes it, found choice",
        ),
        (["--sweep.k", "2", "2"], "sweep: balanced-k2 comes two times"),
        (
            ["--sae.choice", "feature", "--train.k-start", "4", "--train.k-annealing", "0.9"],
            "FeatureChoice fixes it at 0.85 of the steps",
        ),
        (["--device", "cuda:7"], "device is 'cuda:7', which torch cannot use here"),
        (["--device", "abacus"], "device is 'abacus', which torch cannot use here"),
        (["--live"], "live: activations lie in x.npy already, expected one of the two"),
        (["--config", "nowhere.toml"], "nowhere.toml: No such file or directory"),
        (["--config", "broken.toml"], "broken.toml: not readable as TOML"),
        (["--config", "unknown.toml"], "unknown.toml: unknown key sae.kk; did you mean sae.k?"),
        (["--config"], "--config"),
        (["--metrics.trackio", "p"], "metrics.trackio: trackio is not installed, run `pip install trackio`"),
        (["--out", "x.npy"], "x.npy"),
        (["--out", "text"], "text holds other files and no config.toml; choose another --out"),
        (["--checkpoints.keep", "0"], "checkpoints.keep: expected at least 1, found 0"),
        (["--train.prefixes", "4", "8"], "prefixes: expected increasing positive sizes that end with all 16 features"),
        (
            ["--train.prefixes", "4", "16", "--sweep.n-features", "16", "32"],
            "prefixes: expected increasing positive sizes that end with all 32 features, found [4, 16]",
        ),
        (
            ["--sae.choice", "balanced", "--sae.k", "4", "--sae.token-floors", "4", "--sae.feature-caps", "0.2"],
            "balanced-k4: the floors of tokens ",  # which tokens is a matter of rounding
        ),
    ],
)
def test_train(place: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    (place / "broken.toml").write_text("[sae")
    (place / "unknown.toml").write_text("[sae]\nkk = 3")
    arrays: dict[str, list[Any]] = {
        "mixed": [np.zeros((4, 8), np.float32), np.zeros((4, 8), np.float16)],
        "wide": [np.zeros((4, 8), np.float32), np.zeros((4, 9), np.float32)],
        "whole": [np.zeros((4, 8), np.int64)],
    }
    for name, given in arrays.items():
        (place / name).mkdir()
        for letter, array in zip("ab", given, strict=False):
            np.save(place / name / f"{letter}.npy", array)
    before = contents(place)
    assert message in complaint(TRAIN + more, capsys)
    after = contents(place)
    assert {name: after[name] for name in before} == before


def harvested(place: Path) -> Path:
    assert main(HARVEST) == 0
    options = HarvestOptions(
        model="./model", text="./text", site="hidden_states[2]", window=16, tokens=200, windows_per_shard=4
    )
    return plan(options.config(), "train", 200).folder


@pytest.mark.parametrize("damage", ["truncated", "altered", "of another model"])
def test_a_shard_that_is_not_what_it_says(place: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    folder = harvested(place)
    shard = folder / "00001.safetensors"
    content = bytearray(shard.read_bytes())
    if damage == "truncated":
        shard.write_bytes(content[:-20])
    elif damage == "altered":
        content[-3] ^= 1
        shard.write_bytes(content)
    else:
        assert b"hidden_states[2]" in content
        shard.write_bytes(content.replace(b"hidden_states[2]", b"hidden_states[1]"))
    before = contents(folder)
    said = "is from another harvest: its site is" if "another" in damage else "is damaged"
    for words in (HARVEST, [*TRAIN, "--activations", str(folder)]):
        assert f"{shard.name} {said}" in complaint(words, capsys)
    assert contents(folder) == before


def test_folders_that_cannot_be_written(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may write anywhere, so what the system would say is said for it."""

    def refuse(path: Path, *args: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        assert complaint(TRAIN, capsys) == "sae-torch: run: Permission denied"
        text = complaint(HARVEST, capsys)
        assert "cache: expected a folder that can be made, found " in text
        assert text.endswith(" (Permission denied)")
    access: Callable[..., bool] = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and access(path, mode))
    assert "cache: expected a folder that can be written, found " in complaint(HARVEST, capsys)


def test_a_finished_run_is_not_written_over(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TRAIN) == 0
    before = contents(place / "run")
    assert "config.toml is of another run (train.learning_rate 0.004 there, 0.001 here)" in complaint(
        [*TRAIN, "--train.learning-rate", "1e-3"], capsys
    )
    assert contents(place / "run") == before
    (place / "run" / "config.toml").write_text("[sae")
    assert "run/config.toml: not readable as TOML" in complaint(TRAIN, capsys)


def test_a_damaged_checkpoint_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--checkpoints.keep-finished"]) == 0
    checkpoints = place / "run" / "checkpoints"
    for path in (checkpoints / "finished").iterdir():
        path.unlink()
    (checkpoints / "finished").rmdir()
    state = checkpoints / "step-000000006" / "state.pt"
    state.write_bytes(state.read_bytes()[:-7])
    text = complaint(TRAIN, capsys)
    assert "checkpoint run/checkpoints/step-000000006 is damaged" in text
    assert "delete it, and the same command goes on from the one before" in text
