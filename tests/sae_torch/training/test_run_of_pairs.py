"""Runs of transcoders in a folder: on activations of two files, from a checkpoint to the same bits, and live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import sae_torch as st
from sae_torch.activations import StateOfTheUnion
from sae_torch.activations.config import HarvestOptions
from sae_torch.interop import formats
from sae_torch.training.run import Run
from sae_torch.training.run_config import CheckpointOptions, ReaderOptions, RunConfig, SaeOptions
from sae_torch.training.trainer import Trainer


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(1600, 8)).astype(np.float32) + 1
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.maximum(x @ generator.normal(size=(8, 5)).astype(np.float32), 0))
    return RunConfig(
        out=tmp_path / "run",
        activations=tmp_path / "x.npy",
        targets=tmp_path / "y.npy",
        reader=ReaderOptions(batch_size=100, prefetch=0),
        sae=SaeOptions(kind="transcoder", skip=True, choice="feature", n_features=32, k=3.0, switch=0.5),
        checkpoints=CheckpointOptions(every=10),
    )


def changed(config: RunConfig, **fields: Any) -> RunConfig:
    return RunConfig(**{**vars(config), **fields})


def test_a_run_that_was_killed_ends_in_the_same_bits(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (whole,) = Run(changed(config, out=tmp_path / "whole"), quiet=True).execute()
    step = Trainer.step

    def stopped(self: Trainer, x: Any) -> Any:
        assert self.schedule is not None
        if self.schedule.step == 12:
            raise RuntimeError("killed")
        return step(self, x)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", stopped)
        with pytest.raises(RuntimeError, match="killed"):
            Run(config, quiet=True).execute()
    (resumed,) = Run(config, quiet=True).execute()
    one, other = (load_file(folder / "sae_weights.safetensors") for folder in (whole, resumed))
    assert one.keys() == other.keys() >= {"W_skip", "threshold"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert formats.describe(resumed).activation == "jumprelu_skip_transcoder"
    transcoder = st.load(resumed)
    x, y = (torch.from_numpy(np.load(tmp_path / f"{name}.npy")) for name in "xy")
    with torch.no_grad():
        out = transcoder(x)
    assert float((y - out.x_hat).square().sum() / (y - y.mean(0)).square().sum()) < 0.5
    assert out.codes.l0 == pytest.approx(3.0, abs=0.5)


def test_a_live_run_trains_on_pairs(
    config: RunConfig, tiny_model_folder: Path, tiny_text: StateOfTheUnion, tmp_path: Path
) -> None:
    site = "model.layers.1.post_attention_layernorm"
    wanted = HarvestOptions(
        model=str(tiny_model_folder), site=site, target="model.layers.1.mlp", text=str(tiny_text.folder), tokens=600,
        window=16, windows_per_shard=8, held_out=0.25, dtype="float32",
    )  # fmt: skip
    live = changed(config, activations=None, targets=None, live=True, harvest=wanted, out=tmp_path / "live")
    (folder,) = Run(live, quiet=True).execute()
    assert formats.metadata(folder)["hook_name_out"] == "model.layers.1.mlp"
    assert isinstance(st.load(folder), st.Transcoder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": None}, "targets: expected what a transcoder computes, found nothing"),
        (
            {"activations": None, "targets": None},
            r"harvest\.target: expected what a transcoder",
        ),
        ({"sae": SaeOptions()}, "targets: expected with sae.kind transcoder, found .*y.npy with autoencoder"),
        ({"activations": None}, r"targets: is for activations that lie on disk, expected harvest\.target"),
        ({"harvest": HarvestOptions(target="mlp")}, r"harvest\.target: is for activations that are harvested"),
    ],
)
def test_targets_are_those_of_a_transcoder(fields: dict[str, Any], message: str, config: RunConfig) -> None:
    with pytest.raises(st.InputError, match=message):
        changed(config, **fields)


def test_a_skip_connection_is_that_of_a_transcoder() -> None:
    with pytest.raises(st.InputError, match="skip: expected it with kind transcoder, found kind autoencoder"):
        SaeOptions(skip=True)
