"""Command line: a table of typed dataclasses, one per command, their arguments made from the fields."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol, Union

import allocation as al
from sae_torch.commands.demo import Demo
from sae_torch.commands.evaluate import Evaluate
from sae_torch.commands.exchange import Export, Import, Inspect
from sae_torch.commands.harvest import Harvest
from sae_torch.commands.report import Report
from sae_torch.commands.train import Train
from sae_torch.config_file import read_config
from sae_torch.errors import InputError, InterruptedRunError, LostProcessError
from sae_torch.parallel.mesh import launch, leads, tells

PROGRAM = "sae-torch"


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
    "inspect": Inspect,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : Sequence[str] or None
        Words after the program's name; None takes them from the command line.

    Returns
    -------
    Exit code: 0 if it did what was asked, or kept all it needs to go on; 1 if another process of the run was lost; 2
    for input that cannot be used (one sentence on standard error); 130 if it was interrupted otherwise. After an
    interruption one line says how to resume.

    Raises
    ------
    SystemExit
        As `parse` does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _warnings_in_one_line():
            parse(words).run()
    except InterruptedRunError as interruption:
        again = shlex.join([*launch(), "sae_torch", *words])
        if leads():
            print(f"\nInterrupted {interruption}; what is finished is kept, resume with: {again}", file=sys.stderr)
        return interruption.code
    except KeyboardInterrupt:
        if leads():
            print("\nInterrupted.", file=sys.stderr)
        return 130
    except LostProcessError as error:
        if error.tell:
            print(f"{PROGRAM}: {error}\n", end="", file=sys.stderr)
        return 1
    except (InputError, al.InfeasibleError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # without Python's "[Errno 13]"
            text = f"{error.filename}: {error.strerror}"
        if tells(text):
            print(f"{PROGRAM}: {text}\n", end="", file=sys.stderr)  # in one call: lines of processes mix
        return 2
    return 0


@contextlib.contextmanager
def _warnings_in_one_line() -> Iterator[None]:
    """Warnings as a sentence, without the line of code that they come from."""
    as_before: Any = warnings.formatwarning

    def sentence(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
        if category is UserWarning:
            return f"{PROGRAM}: {message}\n"
        text: str = as_before(message, category, *place, **more)
        return text

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        warnings.formatwarning = as_before


def parse(words: Sequence[str]) -> Command:
    """Turn words into a command.

    Raises
    ------
    InputError
        If a file named by ``--config`` cannot be used; the text is one sentence.
    SystemExit
        With code 0 after ``--help``, with code 2 if they are no command; what is wrong is printed by then.
    """
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The command line needs tyro: run `pip install 'sae-allocation[lm]'`") from error

    words = _with_first(words)
    kinds: list[Any] = []
    for name, command_type in COMMANDS.items():
        given = _file_settings(command_type, words) if words[:1] == [name] else {}
        kinds.append(Annotated[command_type, tyro.conf.subcommand(name, prefix_name=False, **given)])
    any_of: Any = Union[tuple(kinds)]  # noqa: UP007  # made at run time
    command: Command = tyro.cli(any_of, prog=PROGRAM, args=list(words), description=_DESCRIPTION)
    return command


def _with_first(words: Sequence[str]) -> list[str]:
    """The words with the name of an argument before one that a command takes without it: ``import PATH``."""
    command, rest = words[:1], list(words[1:])
    first = getattr(COMMANDS.get(command[0]), "FIRST", None) if command else None
    return [*command, *([f"--{first}"] if first and rest and not rest[0].startswith("-") else []), *rest]


def _file_settings(command_type: type[Command], words: Sequence[str]) -> dict[str, Any]:
    """The defaults that a file named by ``--config`` gives a command."""
    paths = [after for word, after in itertools.pairwise(words) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    return {"default": read_config(command_type, Path(paths[-1]))} if paths else {}


_DESCRIPTION = "Sparse autoencoders as exact allocation of features to tokens."
