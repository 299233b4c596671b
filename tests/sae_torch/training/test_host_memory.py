"""Sizes that cannot fit are refused before the kernel kills, devices are named, and bars show what matters."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_torch import devices
from sae_torch.activations import HarvestOptions
from sae_torch.cli import main
from sae_torch.errors import InputError
from sae_torch.training import host_memory
from sae_torch.training.host_memory import Sizes, available_memory, require_memory
from sae_torch.training.resolved import resolved
from sae_torch.training.run_config import RunConfig
from tests.sae_torch.command_line import complaint


@given(
    free=st.integers(1, 10**13),
    sizes=st.lists(st.builds(Sizes, st.integers(1, 10**7), st.integers(1, 9000), st.integers(1, 9000)), max_size=4),
    tokens=st.integers(1, 10**5),
)
def test_what_is_refused_needs_more_than_there_is(free: int, sizes: list[Sizes], tokens: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host_memory, "available_memory", lambda device: free)
        needed = sum(16 * s.n_features * (s.d_in + s.d_out) for s in sizes)
        needed += max((8 * tokens * s.n_features for s in sizes), default=0)
        if needed <= free:
            require_memory(sizes, tokens, "cpu")
        else:
            with pytest.raises(InputError, match=r"^memory: expected at most the .* GB that are free, found .*; "):
                require_memory(sizes, tokens, "cpu")


def test_train_refuses_what_the_control_group_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = tmp_path / "group" / "job"
    group.mkdir(parents=True)
    for name, text in (("memory.max", f"{3 * 10**9}\n"), ("memory.current", "2500000000\n")):
        (group / name).write_text(text)
    (group / "memory.stat").write_text("anon 5\ninactive_file 500000000\n")
    (tmp_path / "group" / "memory.max").write_text("max\n")
    (tmp_path / "cgroup").write_text("0::/job\n")
    monkeypatch.setattr(host_memory, "_CGROUP", tmp_path / "group")
    monkeypatch.setattr(host_memory, "_OWN_GROUPS", tmp_path / "cgroup")
    assert available_memory("cpu") == 10**9
    np.save(tmp_path / "x.npy", np.zeros((512, 16), np.float32))
    words = ["train", "--out", str(tmp_path / "run"), "--activations", str(tmp_path / "x.npy")]
    words += ["--reader.batch-size", "512", "--sae.k", "4", "--sae.n-features"]
    said = complaint([*words, "2000000"], capsys)
    assert said == (
        "sae-torch: memory: expected at most the 1.0 GB that are free, found 9.2 GB (weights 0.3, gradients 0.3, "
        "moments of Adam 0.5, scores of a batch 8.2); lower reader.batch_size, or set sae.feature_chunk"
    )
    assert not (tmp_path / "run" / "config.toml").exists()


def test_auto_is_the_card_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.resolved_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    card = types.SimpleNamespace(name="NVIDIA H200", total_memory=150_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert devices.described_device(devices.resolved_device("auto")) == "cuda (NVIDIA H200, 150 GB)"
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *sizes, device=None, **more: empty(*sizes, **more))
    found = resolved(RunConfig(live=True))
    assert (found.device, found.harvest.device, found.harvest.dtype) == ("cuda", "cuda", "bfloat16")
    assert HarvestOptions().config().device == "cuda"
    assert HarvestOptions(device="cpu").config().device == "cpu"
    monkeypatch.undo()
    with pytest.raises(InputError, match="device is 'cude', which torch cannot use here"):
        devices.resolved_device("cude")


def test_the_first_line_says_where_it_runs_and_the_bar_what_matters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32))
    words = ["train", "--out", str(tmp_path / "run"), "--activations", str(tmp_path / "x.npy")]
    words += ["--reader.batch-size", "64", "--sae.k", "4", "--sae.n-features", "32", "--metrics.every", "1"]
    assert main(words) == 0
    said = capsys.readouterr().err.replace("\r", "\n")
    assert said.startswith("device: c")
    last = [line for line in said.splitlines() if "8/8" in line][-1]
    assert all(f"{name}=" in last for name in ("loss", "L0", "dead", "NMSE"))


def test_memory_that_only_caches_files_counts_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("16000\n")
    (tmp_path / "memory.current").write_text("14000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 2000\nactive_file 11000\n")
    assert host_memory._of_group(tmp_path, "memory.max", "memory.current", host_memory._CACHED) == 15_000
