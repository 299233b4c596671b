"""Runs in a folder: what they leave, how they go on, and what they refuse."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import allocation as al
import sae_torch as st
from sae_torch.activations.rows import ArrayRows
from sae_torch.cli import main
from sae_torch.errors import InputError, InterruptedRunError
from sae_torch.training import run as module
from sae_torch.training import streams
from sae_torch.training.checkpoint import read_manifest
from sae_torch.training.first_sight import FirstSight
from sae_torch.training.run import Run
from sae_torch.training.run_config import (
    CheckpointOptions,
    MetricsOptions,
    ReaderOptions,
    RunConfig,
    SaeOptions,
    SweepOptions,
)
from sae_torch.training.trainer import Trainer
from tests.sae_torch.training.activations import activations
from tests.sae_torch.training.same_bits import assert_same_bits

STEPS = 24


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "x.npy"
    np.save(path, torch.cat(activations(STEPS, tokens=128)).numpy())
    return path


@pytest.fixture
def config(rows: Path, tmp_path: Path) -> RunConfig:
    return RunConfig(
        out=tmp_path / "run",
        activations=rows,
        reader=ReaderOptions(batch_size=128, prefetch=0),
        sae=SaeOptions(n_features=64, k=4.0, switch=0.5),
        sweep=SweepOptions(choice=("token", "feature"), seed=(0, 1)),
        train=st.TrainConfig(calibration=0.3),
        checkpoints=CheckpointOptions(every=10),
    )


def stopping_at(step: int, stop: Any) -> Any:
    """A trainer's step that calls `stop` when some trainer comes to that step."""
    original = Trainer.step

    def stepped(self: Trainer, x: Tensor) -> Any:
        if self.schedule is not None and self.schedule.step == step:
            stop(self)
        return original(self, x)

    return stepped


def test_every_combination_of_a_sweep_is_trained_on_one_stream(config: RunConfig, rows: Path) -> None:
    folders = Run(config, quiet=True).execute()
    names = ["token-k4-seed-0", "token-k4-seed-1", "feature-k4-seed-0", "feature-k4-seed-1"]
    assert [folder.name for folder in folders] == names
    alone = st.SparseAutoencoder(16, 64, st.FeatureChoice(4, switch=0.5), seed=1)
    from sae_torch.activations import ActivationReader, open_activations

    st.Trainer(alone, config.train).fit(ActivationReader(open_activations(rows), 128))
    loaded = st.load(config.out / "feature-k4-seed-1")
    torch.testing.assert_close(loaded.W_dec, alone.W_dec, rtol=1e-4, atol=1e-5)
    theta = alone.choice.batch_free().theta
    torch.testing.assert_close(loaded.choice.batch_free().theta, theta, rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["sae"]) for line in lines] == [(s, n) for s in (10, 20, 24) for n in names]
    assert {"loss", "reconstruction", "auxiliary", "l0", "learning_rate", "k", "dead", "tokens"} <= lines[0].keys()
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["finished"]
    said = (config.out / "config.toml").read_text()
    assert 'device = "cpu"' in said
    assert re.search(r'^# feature-k4-seed-1: auxiliary = "zipf", k_aux = 4, dead_after = 307, .*float32$', said, re.M)
    assert {"dead", "nmse"} <= lines[-1].keys()
    again = dataclasses.replace(config, checkpoints=CheckpointOptions(every=10, keep_finished=True))
    again = dataclasses.replace(again, out=config.out.with_name("kept"), sweep=SweepOptions())
    Run(again, quiet=True).execute()
    kept = sorted(path.name for path in (again.out / "checkpoints").iterdir())
    assert kept == ["finished", "step-000000020", "step-000000024"]


@pytest.mark.parametrize("step", [0, 7, 12, 23])
def test_a_run_that_died_goes_on_to_the_same_bits(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Nothing is caught and nothing cleaned up between the two: the process might as well have gone."""
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    Run(whole, quiet=True).execute()

    class Died(BaseException):
        pass

    def die(trainer: Trainer) -> None:
        raise Died

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping_at(step, die))
        with pytest.raises(Died):
            Run(config, quiet=True).execute()
    Run(config, quiet=True).execute()
    assert_same_bits(whole.out, config.out)
    metrics = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole.out / "metrics.jsonl").read_text().splitlines()]
    for line in [*metrics, *expected]:
        del line["tokens_per_second"]
    assert metrics == expected


def test_a_run_of_few_steps_says_so(config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = len(np.load(config.activations)) // 128
    assert steps < 100
    words = ["train", "--activations", str(config.activations), "--sae.n-features", "64", "--sae.k", "4"]
    words += ["--reader.batch-size", "128", "--reader.passes"]
    assert main([*words, "1", "--out", str(tmp_path / "once")]) == 0
    passes = -(-100 // steps)
    said = f"only {steps} steps of 128 tokens: more tokens make more, or --reader.passes {passes} shows"
    assert said in capsys.readouterr().err
    assert main([*words, str(passes), "--out", str(tmp_path / "often")]) == 0
    assert "only" not in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_step_writes_a_checkpoint_and_says_how_to_go_on(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    words = ["train", "--out", str(config.out), "--activations", str(config.activations), "--sae.n-features", "64"]
    words += ["--sae.k", "4", "--reader.batch-size", "128"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping_at(7, lambda _: signal.raise_signal(number)))
        assert main(words) == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    place = config.out / "checkpoints" / "step-000000008"
    assert last == (
        f"Interrupted after step 8, kept in {place}; what is finished is kept, "
        f"resume with: python -m sae_torch {' '.join(words)}"
    )
    assert place.is_dir()
    assert main(words) == 0
    assert f"going on from {place}" in capsys.readouterr().err
    whole = [*words]
    whole[2] = str(tmp_path / "whole")
    assert main(whole) == 0
    assert_same_bits(tmp_path / "whole", config.out)


def test_an_interrupt_while_calibrating_needs_no_checkpoint(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(FirstSight, "calibrate", lambda *_: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedRunError, match="while calibrating"):
            Run(config, quiet=True).execute()
    Run(config, quiet=True).execute()
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    Run(whole, quiet=True).execute()
    assert_same_bits(whole.out, config.out)


def test_metrics_and_reading_ahead_never_change_the_training(config: RunConfig, tmp_path: Path) -> None:
    loud = dataclasses.replace(
        config,
        out=tmp_path / "loud",
        metrics=MetricsOptions(every=1, tensorboard=True),
        checkpoints=CheckpointOptions(every=3, keep=1),
        reader=dataclasses.replace(config.reader, prefetch=4),
    )
    silent = dataclasses.replace(config, metrics=MetricsOptions(every=10**6))
    for one in (loud, silent):
        Run(one, quiet=True).execute()
    assert_same_bits(loud.out, silent.out)
    assert list((loud.out / "tensorboard").iterdir())


def test_a_finished_run_is_left_alone(config: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    Run(config, quiet=True).execute()
    before = {file: file.stat().st_mtime_ns for file in config.out.rglob("*.safetensors")}
    Run(config).execute()
    assert "finished already" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in config.out.rglob("*.safetensors")} == before


def test_another_environment_is_refused_unless_asked_for(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    interrupted(config, monkeypatch)
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match=r"another environment \(threads 1 there, 2 here\).* --allow-inexact"):
            Run(config, quiet=True).execute()
        Run(config, allow_inexact=True, quiet=True).execute()
    finally:
        torch.set_num_threads(1)


def interrupted(config: RunConfig, monkeypatch: pytest.MonkeyPatch, step: int = 15) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stopping_at(step, lambda _: signal.raise_signal(signal.SIGINT)))
        with pytest.raises(InterruptedRunError):
            Run(config, quiet=True).execute()


def test_a_folder_of_another_run_is_refused(config: RunConfig) -> None:
    Run(config, quiet=True).execute()
    other = dataclasses.replace(config, sae=dataclasses.replace(config.sae, k=5.0))
    with pytest.raises(InputError, match=r"config.toml is of another run \(sae.k 4.0 there, 5.0 here\)"):
        Run(other, quiet=True).execute()
    elsewhere = config.out.parent / "letters"
    elsewhere.mkdir()
    (elsewhere / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match=r"letters holds other files and no config.toml"):
        Run(dataclasses.replace(config, out=elsewhere), quiet=True).execute()
    assert [file.name for file in elsewhere.iterdir()] == ["letter.txt"]


def test_other_activations_at_the_same_place_are_refused(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moved = tmp_path / "x.npy"
    assert config.activations is not None
    moved.write_bytes(config.activations.read_bytes())
    config = dataclasses.replace(config, activations=moved)
    interrupted(config, monkeypatch)
    np.save(moved, torch.cat(activations(STEPS, tokens=128, seed=5)).numpy())
    with pytest.raises(InputError, match=r"was trained on other activations \(files_sha256 "):
        Run(config, quiet=True).execute()


@pytest.mark.parametrize("more", [1, 128, 5 * 128])
def test_activations_that_grew_are_refused(
    config: RunConfig, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """The header that identifies shards is that of the first, which stays as it is."""

    def opened(count: int) -> Any:
        return lambda *_: ArrayRows([np.load(rows)[:count]], ["x"], {"activations": "shards"})

    config = dataclasses.replace(config, sweep=SweepOptions(choice=("token",)))
    monkeypatch.setattr(streams, "open_activations", opened(12 * 128))
    interrupted(config, monkeypatch, step=7)
    monkeypatch.setattr(streams, "open_activations", opened(12 * 128 + more))
    with pytest.raises(InputError, match=rf"on other activations \(rows 1536 there, {1536 + more} here\)"):
        Run(config, quiet=True).execute()
    monkeypatch.setattr(module, "source_of", lambda reader: read_manifest(newest)["activations"])
    newest = config.out / "checkpoints" / "step-000000008"
    if more >= 128:
        with pytest.raises(InputError, match=rf"is of a run of 12 steps, the activations now give {12 + more // 128};"):
            Run(config, quiet=True).execute()


def test_a_signal_before_the_first_step_does_not_begin_twice(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(config, sweep=SweepOptions(choice=("mutual",)))
    begin = Run._begin

    def interrupting(*given: Any) -> Any:
        batches = begin(*given)
        signal.raise_signal(signal.SIGTERM)
        return batches

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_begin", interrupting)
        with pytest.raises(InterruptedRunError, match="after step 0"):
            Run(config, quiet=True).execute()
    assert (config.out / "checkpoints" / "step-000000000").is_dir()
    Run(config, quiet=True).execute()
    whole = dataclasses.replace(config, out=tmp_path / "whole")
    Run(whole, quiet=True).execute()
    assert_same_bits(whole.out, config.out)


def test_a_run_killed_at_its_start_goes_on(config: RunConfig) -> None:
    config.out.mkdir()
    (config.out / ".lock").touch()
    (config.out / "config.toml.123.tmp").write_text("half")
    assert Run(config, quiet=True).execute()


def test_limits_that_cannot_hold_keep_their_error(config: RunConfig) -> None:
    config = dataclasses.replace(
        config,
        sae=SaeOptions(choice="balanced", n_features=64, k=4.0, token_floors=4, feature_caps=0.05),
        sweep=SweepOptions(),
    )
    with pytest.raises(al.InfeasibleError, match=r"; batch 0 of seed 0: 128 rows .*; last good checkpoint: none yet$"):
        Run(config, quiet=True).execute()


def test_how_the_process_calculates_is_as_it_was(config: RunConfig) -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        Run(dataclasses.replace(config, sweep=SweepOptions(choice=("token",))), quiet=True).execute()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_run_that_goes_wrong_names_step_batch_and_last_checkpoint(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat(activations(STEPS, tokens=128)).numpy()
    x[1234, 3] = np.nan
    np.save(tmp_path / "bad.npy", x)
    bad = dataclasses.replace(config, activations=tmp_path / "bad.npy", checkpoints=CheckpointOptions(every=1))
    with pytest.raises(InputError) as refused:
        Run(bad, quiet=True).execute()
    step = int((torch.randperm(3072, generator=torch.Generator().manual_seed(0)) == 1234).nonzero()) // 128
    assert str(refused.value).startswith(
        f"batches: batch {step} holds NaN or infinite activations; batch {step} of seed 0: 128 rows ("
    )
    assert str(refused.value).endswith("of NumPy files; last good checkpoint: none yet")

    def push(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.sae.b_dec.add_(1e4)

    diverging = dataclasses.replace(config, out=tmp_path / "diverging", checkpoints=CheckpointOptions(every=2))
    monkeypatch.setattr(Trainer, "step", stopping_at(5, push))
    with pytest.raises(FloatingPointError) as caught:
        Run(diverging, quiet=True).execute()
    said, origin, last = str(caught.value).split("; ")
    assert re.match(
        r"token-k4-seed-0: the loss is \S+ at step 5, where reconstructing nothing would cost \S+: lower", said
    )
    assert re.fullmatch(r"batch 5 of seed 0: 128 rows \([\d, ]+, \.\.\.\) of NumPy files", origin)
    assert last == f"last good checkpoint: {diverging.out}/checkpoints/step-000000004"


def test_two_processes_do_not_share_a_folder(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(trainer: Trainer) -> None:
        writing = config.out / "checkpoints" / ".step-000000003.tmp"
        writing.mkdir(exist_ok=True)
        before = (config.out / "config.toml").stat().st_mtime_ns
        with pytest.raises(InputError, match="is in use by another process"):
            Run(config, quiet=True).execute()
        assert writing.is_dir()
        assert (config.out / "config.toml").stat().st_mtime_ns == before

    monkeypatch.setattr(Trainer, "step", stopping_at(3, second))
    Run(config, quiet=True).execute()


def test_too_little_space_is_said_before_training(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))  # type: ignore[attr-defined]
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match=r"has 0\.00 GB left, expected .* GB for 2 checkpoints"):
        Run(config, quiet=True).execute()


def test_checkpoints_that_are_there_need_no_space_again(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(config, sweep=SweepOptions(choice=("token",)))
    interrupted(config, monkeypatch)
    weights = sum(p.numel() * 4 for p in st.SparseAutoencoder(16, 64, st.TokenChoice(4)).parameters())
    left = (3 * 1 + 1) * weights  # one checkpoint, since two are there, and what is saved
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": left}))  # type: ignore[attr-defined]
    assert Run(config, quiet=True).execute()


def test_balanced_choice_without_limits_has_floors_of_a_quarter_of_the_mean_use() -> None:
    floors = SaeOptions(n_features=64, k=4.0).new_choice()
    assert isinstance(floors, st.BalancedChoice)
    floors.build(64)
    assert floors.floor_densities.tolist() == [1 / 64] * 64
    assert floors.cap_densities.tolist() == [1.0] * 64
    assert floors.floors_in_eval
    caps = SaeOptions(n_features=64, k=4.0, feature_caps=0.5).new_choice()
    caps.build(64)
    assert isinstance(caps, st.BalancedChoice)
    assert not caps.floor_densities.any()
    one = SaeOptions(n_features=64, k=4.0, floors_in_eval=False).new_choice()
    assert isinstance(one, st.BalancedChoice)
    assert not one.floors_in_eval
    with pytest.raises(st.InputError, match="floors_in_eval: only balanced choice takes it, found choice mutual"):
        SaeOptions(choice="mutual", floors_in_eval=False)


def on_rows(folder: Path, sae: SaeOptions) -> RunConfig:
    """A run on twelve batches that lie on disk."""
    np.save(folder / "x.npy", torch.cat(activations(12)).numpy())
    return RunConfig(out=folder / "run", activations=folder / "x.npy", reader=ReaderOptions(batch_size=256), sae=sae)


def test_a_run_with_limits_per_token_is_saved(tmp_path: Path) -> None:
    config = on_rows(tmp_path, SaeOptions(choice="balanced", n_features=64, k=3, token_caps=5))
    with pytest.warns(UserWarning, match="sae_torch alone reads this folder"):
        (folder,) = Run(config, quiet=True).execute()
    choice = st.load(folder).choice
    assert isinstance(choice, st.BalancedChoice)
    assert choice.token_caps == 5


def test_a_run_older_than_begin_tokens_goes_on(tmp_path: Path) -> None:
    config = on_rows(tmp_path, SaeOptions(choice="mutual", n_features=64, k=3))
    folders = Run(config, quiet=True).execute()
    written = config.out / "config.toml"
    written.write_text(re.sub(r"bos = .*\n", "", written.read_text()))
    assert Run(config, quiet=True).execute() == folders


def test_a_run_that_fails_before_its_first_step_leaves_its_folder_free(config: RunConfig, tmp_path: Path) -> None:
    """The corrected command takes it; what has trained keeps it."""
    bad = torch.cat(activations(STEPS, tokens=128))
    bad[3, 0] = torch.nan
    np.save(tmp_path / "bad.npy", bad.numpy())
    missing = tmp_path / "nowhere.npy"
    for wrong, message in ((missing, "nowhere.npy"), (tmp_path / "bad.npy", "NaN or infinite")):
        with pytest.raises(InputError, match=message):
            Run(dataclasses.replace(config, activations=wrong), quiet=True).execute()
        assert [path.name for path in config.out.iterdir()] == [".lock"]
    Run(config, quiet=True).execute()
    with pytest.raises(InputError, match=r"config.toml is of another run \(activations"):
        Run(dataclasses.replace(config, activations=tmp_path / "bad.npy"), quiet=True).execute()
