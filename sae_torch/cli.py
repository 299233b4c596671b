"""Command line: a table of typed dataclasses, one per command, their arguments made from the fields."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Union

import allocation as al
from sae_torch.commands.demo import Demo
from sae_torch.commands.evaluate import Evaluate
from sae_torch.commands.exchange import Export, Import
from sae_torch.commands.harvest import Harvest
from sae_torch.commands.report import Report
from sae_torch.commands.train import Train
from sae_torch.config_file import read_config
from sae_torch.errors import InputError, InterruptedRunError

PROGRAM = "sae-torch"
# What tyro draws between the parts of a message.
RULE = re.compile("[─-]{5,}")


class Command(Protocol):
    """What every command of the command line is."""

    def run(self) -> None:
        """Do it."""
        ...


COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "harvest": Harvest,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "export": Export,
    "import": Import,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments
        Words after the program's name; None takes them from the command line.

    Returns
    -------
    Exit code: 0 if it did what was asked, or kept all it needs to go on; 2 for input that cannot be used (one sentence
    on standard error); 130 if it was interrupted otherwise. After an interruption one line says how to resume.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parse(words).run()
    except InterruptedRunError as interruption:
        again = shlex.join(["python", "-m", "sae_torch", *words])
        print(f"\nInterrupted {interruption}; what is finished is kept, resume with: {again}", file=sys.stderr)
        return interruption.code
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except (InputError, al.InfeasibleError, OSError, ModuleNotFoundError, FloatingPointError) as error:
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
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The command line needs tyro: run `pip install 'sae-allocation[lm]'`") from error

    kinds: list[Any] = []
    for name, command_type in COMMANDS.items():
        given = _file_settings(command_type, words) if words[:1] == [name] else {}
        kinds.append(Annotated[command_type, tyro.conf.subcommand(name, prefix_name=False, **given)])
    any_of: Any = Union[tuple(kinds)]  # noqa: UP007  # made at run time
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            command: Command = tyro.cli(any_of, prog=PROGRAM, args=list(words), description=_DESCRIPTION)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(_sentence(complaint.getvalue(), words[0] if words else "")) from None
    return command


def _file_settings(command_type: type[Command], words: Sequence[str]) -> dict[str, Any]:
    """The defaults that a file named by ``--config`` gives a command."""
    paths = [after for word, after in itertools.pairwise(words) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return {"default": read_config(command_type, Path(paths[-1]))} if paths else {}


_DESCRIPTION = "Sparse autoencoders as exact allocation of features to tokens."


def _sentence(box: str, command: str) -> str:
    """First paragraph of tyro's framed complaint as one sentence, and the option of this command that it suggests."""
    lines = [line.strip("│ \t") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    if len(lines) > 1 and re.fullmatch(
        "-{5,}", lines[1]
    ):  # where the terminal has no frames, a title and a rule come first
        lines = lines[2:]
    paragraph = itertools.takewhile(lambda line: line and not RULE.fullmatch(line), lines)
    text = re.sub(r" \(applied to [^)]*\)", "", " ".join(paragraph)).rstrip(".")
    text = re.sub(r"^Error parsing [A-Z]\w*: ", "", text)
    if command not in COMMANDS:
        return f"{text}; `{PROGRAM} --help` lists the commands."
    meant = re.search(rf"(--[\w.-]+)[^\n]*\n(?:(?! *--)[^\n]*\n)*? *in {PROGRAM} {command} --help", "\n".join(lines))
    hint = f"perhaps you meant {meant[1]}; " if meant else ""
    return f"{text}; {hint}`{PROGRAM} {command} --help` lists what there is."
