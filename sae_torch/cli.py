"""Command line: one typed dataclass per command, its arguments made from the fields."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from sae_torch.activations import HarvestConfig, harvest, plan
from sae_torch.activations.language_model import SMOLLM2
from sae_torch.demo import Demo
from sae_torch.errors import InputError, InterruptedRunError
from sae_torch.interop.commands import Export, Import

PROGRAM = "sae-torch"


class Command(Protocol):
    """What every command of the command line is."""

    def run(self) -> None:
        """Do it."""
        ...


@dataclass(frozen=True)
class Harvest:
    """Harvest activations of a language model over the State of the Union addresses.

    An interrupted harvest continues from its finished shards; more tokens later only add shards.
    """

    tokens: int = 250_000
    """Activations to harvest."""
    split: Literal["train", "dev", "test"] = "train"
    """Which addresses: 24 are the test split, 24 the development split, the rest training."""
    model: str = SMOLLM2
    """Packaged model, folder, GGUF file, or any model name that transformers knows."""
    site: str = "hidden_states[11]"
    """Hidden-state index as transformers numbers it, or the path of a module."""
    window: int = 128
    """Tokens per context window."""
    cache: Path | None = None
    """Cache folder; by default sae-allocation in the user's cache folder."""

    def run(self) -> None:
        """Harvest and say where the shards lie."""
        config = HarvestConfig(model=self.model, site=self.site, window=self.window)
        try:
            found = harvest(config, self.split, self.tokens, self.cache, progress=True)
        except KeyboardInterrupt:
            raise InterruptedRunError(f"while harvesting the {self.split} split") from None
        folder = plan(config, self.split, 1, self.cache).folder
        print(f"{len(found)} activations of width {found.d_model} in {folder}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Words after the program's name; None takes them from the command line.

    Returns
    -------
    Exit code: 0 if it did what was asked, 2 for input that cannot be used (one sentence on standard error),
    130 if it was interrupted (one line that says how to resume).
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parse(words).run()
    except InterruptedRunError as interruption:
        again = shlex.join(["python", "-m", "sae_torch", *words])
        print(f"\nInterrupted {interruption}; what is finished is kept, resume with: {again}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (InputError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # without Python's "[Errno 13]"
            text = f"{error.filename}: {error.strerror}"
        print(f"{PROGRAM}: {text}", file=sys.stderr)
        return 2
    return 0


def parse(words: Sequence[str]) -> Command:
    """Turn words into a command.

    Raises
    ------
    InputError
        If they are no command; the text is one sentence.
    SystemExit
        With code 0 after ``--help``.
    """
    try:
        from tyro.extras import SubcommandApp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The command line needs tyro: run `pip install 'sae-allocation[lm]'`") from error

    app = SubcommandApp()
    app.command(name="demo")(Demo)
    app.command(name="harvest")(Harvest)
    app.command(name="export")(Export)
    app.command(name="import")(Import)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command: Command = app.cli(prog=PROGRAM, args=list(words), description=_DESCRIPTION)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_sentence(complaint.getvalue())) from None
    return command


_DESCRIPTION = "Sparse autoencoders as exact allocation of features to tokens."


def _sentence(box: str) -> str:
    """First paragraph of tyro's framed complaint as one sentence; the rest of the frame repeats the help."""
    lines = [line.strip("│ \t") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    if len(lines) > 1 and lines[1].startswith("--"):  # where the terminal has no frames, a title and a rule come first
        lines = lines[2:]
    rule = next((index for index, line in enumerate(lines) if line.startswith(("──", "--" * 5))), len(lines))
    text = " ".join(line for line in lines[:rule] if line)
    text = re.sub(r"^Error parsing [A-Z]\w*: ", "", text).rstrip(".")
    return f"{text}; `{PROGRAM} --help` and `{PROGRAM} demo --help` list what there is."
