"""Files and folders are whole, on the disk, and readable by those whom the user lets read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from sae_torch.files import new_folder, replacing, write_text


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Inodes that were flushed to the disk."""
    found: set[int] = set()
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        found.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    return found


def test_a_file_and_the_folder_that_names_it_are_flushed(tmp_path: Path, flushed: set[int]) -> None:
    write_text(tmp_path / "a", "whole")
    assert flushed == {(tmp_path / "a").stat().st_ino, tmp_path.stat().st_ino}


def test_a_folder_is_flushed_with_all_that_it_holds(tmp_path: Path, flushed: set[int]) -> None:
    with new_folder(tmp_path / "a") as beside:
        (beside / "b").mkdir()
        (beside / "b" / "c").write_text("whole")
        assert not (tmp_path / "a").exists()
    assert flushed == {path.stat().st_ino for path in (tmp_path, *tmp_path.rglob("*"))}


@pytest.mark.parametrize("write", [replacing, new_folder])
def test_what_fails_leaves_what_was_there(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]]
) -> None:
    if write is replacing:
        (tmp_path / "a").write_text("before")

    def interrupted() -> None:
        with write(tmp_path / "a") as beside:
            (beside if write is replacing else beside / "b").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"] * (write is replacing)


def test_files_have_the_mode_that_the_user_wants(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as beside:
        beside.write_text("secret until it is whole")
        beside.chmod(0o600)
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)
