"""Checkpoints are whole or not there."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_torch.errors import InputError
from sae_torch.training.checkpoint import Checkpoints, read_manifest, read_state

STATE: dict[str, Any] = {"a": torch.arange(5.0), "b": {"c": torch.zeros(3, 4).T, "d": 3, "e": None}}


def test_what_is_written_is_read_back_with_its_layout(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    checkpoints.prepare()
    place = checkpoints.write(7, STATE, {"why": "test"})
    assert place.name == "step-000000007"
    state = read_state(place)
    assert torch.equal(state["a"], STATE["a"])
    assert state["b"]["c"].stride() == STATE["b"]["c"].stride()
    assert (state["b"]["d"], state["b"]["e"]) == (3, None)
    assert read_manifest(place)["why"] == "test"


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.prepare()
    assert checkpoints.newest() is None
    for step in (5, 10, 100, 1000):
        checkpoints.write(step, STATE, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000100", "step-000001000"]
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == "step-000001000"
    checkpoints.write(1000, STATE, {}, finished=True)
    assert checkpoints.newest() == tmp_path / "finished"


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / ".step-000000003.tmp").mkdir()
    (tmp_path / ".step-000000003.tmp" / "state.pt").write_bytes(b"half")
    (tmp_path / ".DS_Store").write_bytes(b"of the desktop")
    checkpoints = Checkpoints(tmp_path, keep=2)
    assert checkpoints.newest() is None
    checkpoints.prepare()
    assert (tmp_path / ".DS_Store").exists()
    (tmp_path / ".DS_Store").unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "no state", "no manifest", "bad manifest"])
def test_damage_is_named_with_the_remedy(tmp_path: Path, damage: str) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.prepare()
    place = checkpoints.write(7, STATE, {})
    content = bytearray((place / "state.pt").read_bytes())
    if damage == "truncate":
        (place / "state.pt").write_bytes(content[:-10])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        (place / "state.pt").write_bytes(content)
    elif damage == "empty":
        (place / "state.pt").write_bytes(b"")
    elif damage == "no state":
        (place / "state.pt").unlink()
    elif damage == "no manifest":
        (place / "manifest.json").unlink()
    else:
        (place / "manifest.json").write_text("{")
    with pytest.raises(InputError, match=r"step-000000007 is damaged \(.*\); delete it, and the same command goes on"):
        read_state(place)


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_checkpoints_before(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the full disk: both fail a write in its middle."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.prepare()
    checkpoints.write(1, STATE, {})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoints.write(2, {"large": torch.zeros(100_000)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert str(caught.value.filename).endswith("state.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
