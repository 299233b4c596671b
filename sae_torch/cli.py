"""Command line: a table of typed dataclasses, one per command, their arguments made from the fields.

A command is imported when it is called for, so that `inspect` and `--help` do not wait for torch.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import math
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol, get_type_hints

from sae_torch.errors import InputError, InterruptedRunError, LostProcessError
from sae_torch.launched import launch, leads
from sae_torch.refusal import in_one_sentence

PROGRAM = "sae-torch"


class Command(Protocol):
    """What every command of the command line is."""

    def run(self) -> None:
        """Do it."""
        ...


# Module and class of every command, and the first sentence of its help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "Demo", "Train and compare four sparse autoencoders on activations of a language model."),
    "harvest": ("harvest", "Harvest", "Harvest activations of a language model."),
    "train": (
        "train", "Train",
        "Train autoencoders on one stream of activations, several at once if `sweep` lists values.",
    ),
    "evaluate": (
        "evaluate", "Evaluate", "Judge autoencoders on held-out activations, and write a file for `report`.",
    ),
    "report": ("report", "Report", "Show evaluations side by side on one page that needs no network."),
    "export": ("exchange", "Export", "Write an autoencoder as a folder of another library."),
    "import": (
        "exchange", "Import",
        "Read a dictionary of another library and write it as a folder of this one, in the SAELens format.",
    ),
    "inspect": (
        "exchange", "Inspect",
        "Say what a dictionary is, without reading its weights: model, site, shapes, conventions, known defects.",
    ),
}  # fmt: skip


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
        _close_bars(interruption)
        again = shlex.join([*launch(), "sae_torch", *words])
        if leads():
            print(f"\nInterrupted {interruption}; what is finished is kept, resume with: {again}", file=sys.stderr)
        return interruption.code
    except KeyboardInterrupt as interruption:
        _close_bars(interruption)
        if leads():
            print("\nInterrupted.", file=sys.stderr)
        return 130
    except LostProcessError as error:
        _close_bars(error)
        if error.tell:
            print(f"{PROGRAM}: {error}\n", end="", file=sys.stderr)
        return 1
    except Exception as error:
        if not isinstance(error, _refusals()):
            raise
        _close_bars(error)
        text = str(error)
        if isinstance(error, OSError) and error.filename is not None:  # without Python's "[Errno 13]"
            text = f"{error.filename}: {error.strerror}"
        if _tells(text):
            print(f"{PROGRAM}: {text}\n", end="", file=sys.stderr)  # in one call: lines of processes mix
        return 2
    return 0


def _close_bars(error: BaseException) -> None:
    """Let progress bars print for the last time, so that the sentence stays the last line.

    A bar whose ``with`` was not yet entered, or that a generator holds, ends with the frames of the traceback.
    """
    cause: BaseException | None = error
    while cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__


def _refusals() -> tuple[type[Exception], ...]:
    """Errors that are about what the user gave; looked up when there is one."""
    import allocation as al

    return (InputError, al.InfeasibleError, OSError, ModuleNotFoundError, FloatingPointError)


def _tells(text: str) -> bool:
    """Whether this process is to tell the user of an error; processes join by torch alone."""
    if "torch" not in sys.modules:
        return leads()
    from sae_torch.parallel.mesh import tells

    return tells(text)


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
        With code 0 after ``--help`` and ``--version``, with code 2 if they are no command; what is wrong is printed by
        then.
    """
    name, rest = (words[0], list(words[1:])) if words else ("", [])
    if name in ("-h", "--help", "--version"):
        print(_version() if name == "--version" else _help())
        raise SystemExit(0)
    if name not in COMMANDS:
        _refuse_command(name)
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("The command line needs tyro: run `pip install 'sae-allocation[lm]'`") from error

    module, kind, _ = COMMANDS[name]
    command_type: Any = getattr(import_module(f"sae_torch.commands.{module}"), kind)
    _refuse_short(command_type, rest)
    settings = _file_settings(command_type, rest)
    arguments = _with_first(command_type, rest)
    with in_one_sentence(PROGRAM, name, arguments):
        command: Command = tyro.cli(command_type, prog=f"{PROGRAM} {name}", args=arguments, **settings)
    return command


def _with_first(command_type: Any, words: list[str]) -> list[str]:
    """The words with the name of an argument before what a command takes without it: ``import PATH``."""
    first = getattr(command_type, "FIRST", None)
    if first is None or any(word.partition("=")[0] == f"--{first}" for word in words):
        return words
    types = {field.name.replace("_", "-"): str(field.type) for field in fields(command_type)}
    values = 0.0  # how many of the next words are values of the option before them
    for place, word in enumerate(words):
        if word.startswith("-") and not word[1:2].isdigit():
            option, _, given = word.removeprefix("--").partition("=")
            kind = types.get(option.replace("_", "-"), "bool" if option.startswith("no-") else "")
            values = 0 if given or kind == "bool" else math.inf if kind.startswith("tuple") else 1
        elif values:
            values -= 1
        else:
            return [*words[:place], f"--{first}", *words[place:]]
    return words


def _refuse_short(command_type: Any, words: Sequence[str]) -> None:
    """Answer an option that lacks the name of its group, as ``--k`` for ``--sae.k``, with those that there are."""
    types = get_type_hints(command_type)
    own = {field.name for field in fields(command_type)}
    groups = {name: types[name] for name in own if is_dataclass(types[name])}
    for word in words:
        option = word.partition("=")[0].removeprefix("--").replace("_", "-")
        name = option.removeprefix("no-").replace("-", "_")
        meant = sorted(
            f"--{group}.{option}" for group, kind in groups.items() if name in {field.name for field in fields(kind)}
        )
        if word.startswith("--") and name not in own and meant:
            _refuse(f"--{option}: expected {' or '.join(meant)}, found --{option}")


def _file_settings(command_type: type[Command], words: Sequence[str]) -> dict[str, Any]:
    """The defaults that a file named by ``--config`` gives a command."""
    paths = [after for word, after in itertools.pairwise(words) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    if not paths:
        return {}
    from sae_torch.config_file import read_config

    return {"default": read_config(command_type, Path(paths[-1]))}


def _refuse_command(name: str) -> NoReturn:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    found = f"{name!r}" if name else "nothing"
    meant = f"; did you mean {near[0]}?" if near else f"; {PROGRAM} --help says what they do"
    _refuse(f"command: expected one of {', '.join(COMMANDS)}, found {found}{meant}")


def _refuse(sentence: str) -> NoReturn:
    if leads():
        print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {sentence}" for name, (_, _, sentence) in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND [OPTIONS]\n\nSparse autoencoders as exact allocation of features to tokens.\n\n"
        f"commands:\n{rows}\n\n`{PROGRAM} COMMAND --help` lists the options of one; `{PROGRAM} --version`"
    )


def _version() -> str:
    import allocation

    return f"{PROGRAM} {allocation.__version__}"
