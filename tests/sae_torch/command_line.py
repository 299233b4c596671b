"""What the command line says, whoever says it."""

from __future__ import annotations

import pytest

from sae_torch.cli import main


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What words that cannot be used are answered, in the last line."""
    capsys.readouterr()
    try:
        found: object = main(words)
    except SystemExit as stop:
        found = stop.code
    captured = capsys.readouterr()
    assert found == code
    assert captured.out == ""
    assert "Traceback" not in captured.err
    line = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    assert line.startswith("sae-torch: ")
    return line
