"""What the command line says, whoever says it."""

from __future__ import annotations

import re

import pytest

from sae_torch.cli import main


def unframed(text: str) -> str:
    """A message of tyro without its frame, which some terminals do not get, and its breaks of lines."""
    return " ".join(re.sub("[│╭╮╰╯─]|-{5,}", " ", text).split())


def complaint(words: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """What words that cannot be used are answered: by tyro, or by the last line of the command."""
    capsys.readouterr()
    refused = False
    try:
        found: object = main(words)
    except SystemExit as stop:
        refused, found = True, stop.code
    captured = capsys.readouterr()
    assert found == code
    assert captured.out == ""
    assert "Traceback" not in captured.err
    if refused:
        return unframed(captured.err)
    line = captured.err.replace("\r", "\n").strip().splitlines()[-1]
    assert line.startswith("sae-torch: ")
    return line
