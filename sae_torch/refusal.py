"""What the parser of the command line refuses, as one sentence in place of a box as wide as the terminal."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence

from sae_torch.launched import leads

# Wider than any message: a box breaks paths in two.
WIDE = "100000"
_FRAME = re.compile("[│╭╮╰╯]")
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text", "PATH": "a path", "{None}": "None"}
_SEVERAL = {"INT": "whole numbers", "FLOAT": "numbers", "STR": "texts", "PATH": "paths"}


@contextlib.contextmanager
def in_one_sentence(program: str, command: str, words: Sequence[str]) -> Iterator[None]:
    """Print what a parser says before it exits with code 2 as one sentence.

    Raises
    ------
    SystemExit
        As the parser does.
    """
    said = io.StringIO()
    columns = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if stop.code == 2 and leads():
            print(f"{program}: {sentence(said.getvalue(), f'{program} {command}', words)}", file=sys.stderr)
            said = io.StringIO()
        raise
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
        sys.stderr.write(said.getvalue())


def sentence(box: str, command: str, words: Sequence[str] = ()) -> str:
    r"""The text of a box about these words; what is wrong with an option is told as everywhere else.

    Examples
    --------
    >>> from sae_torch.refusal import sentence
    >>> sentence("╭─ Error ─╮\n│ Missing value for argument '--k'. Expected 1 values. │\n╰───╯", "sae-torch train")
    '--k: expected a value, found none'
    """
    message, hints = _parts(box)
    if found := re.fullmatch(r"Error parsing (--\S+): (.*)", message):
        option, reason = found.groups()
        wanted = next((line.split(" ", 1)[1] for line in hints if line.startswith(f"{option} ")), "")
        given = _after(option, words)
        return f"{option}: " + (f"expected {_wanted(wanted)}, found {given!r}" if wanted and given else reason)
    if found := re.fullmatch(r"Error parsing ([\w.-]+): (\w+: .*)", message):
        group = found[1]  # or the command itself, by the name of its class
        return f"{group}.{found[2]}" if group[0].islower() else found[2]
    if found := re.fullmatch(r"invalid choice '(.*)' for argument '(--\S+)'\. Expected one of \((.*)\)\.", message):
        return f"{found[2]}: expected one of {found[3].replace(chr(39), '').rstrip(',')}, found {found[1]!r}"
    if found := re.fullmatch(r"Missing value for argument '(--\S+)'\. Expected (\d+) values?\.", message):
        return f"{found[1]}: expected " + (
            "a value, found none" if found[2] == "1" else f"{found[2]} values, found fewer"
        )
    if found := re.fullmatch(r"Unrecognized options: (.*)", message):
        unknown = found[1].split(", ")
        near = [_options(line) for before, line in itertools.pairwise(hints) if before.endswith(":")]
        meant = f"did you mean {' and '.join(near)}?" if near else f"{command} --help lists them"
        named = " ".join(word for word in unknown if word.startswith("-")) or unknown[0]
        return f"{named}: expected an option, found none of this name; {meant}"
    if message.startswith("Missing from "):
        options = [found.groups() for line in message.split("\n") if (found := re.match(r"(--\S+) (.*)", line))]
        if options:
            return "; ".join(f"{option}: expected {_wanted(kind)}, found nothing" for option, kind in options)
    return " ".join([*message.split(), *hints])


def _parts(box: str) -> tuple[str, list[str]]:
    """The message, and the lines that explain it; the last ones name the help."""
    lines = [_FRAME.sub("", line).strip() for line in box.splitlines()]
    parts: list[list[str]] = [[]]
    for line in lines[1:]:  # without the title
        if re.fullmatch("[─+-]*", line):
            parts.append([])
        else:
            parts[-1].append(line.strip("| "))
    parts = [part for part in parts if part]
    message = parts[0] if parts else []
    joint = "\n" if message and message[0].startswith("Missing from ") else " "
    return joint.join(message), [line for part in parts[1:] for line in part if "full helptext" not in line]


def _wanted(metavar: str) -> str:
    """What a value is, in words."""
    metavar = metavar.strip()
    if metavar.startswith("["):
        kinds = metavar[1:].partition(" [")[0].split()
        return " and ".join(_SEVERAL.get(kind, kind) for kind in kinds) + (" in turn" if len(kinds) > 1 else "")
    if metavar.startswith("{") and "|" not in metavar:
        return f"one of {metavar.strip('{}').replace(',', ', ')}"
    if " " in metavar:
        return f"{len(metavar.split())} {_SEVERAL.get(metavar.split()[0], metavar)}"
    kinds = metavar.split("|")
    return " or ".join(_KINDS.get(kind, kind) for kind in kinds)


def _options(line: str) -> str:
    """The names at the beginning of a line of help."""
    names = itertools.takewhile(lambda word: word.startswith("--"), line.split())
    return " or ".join(name.strip(",") for name in names)


def _after(option: str, words: Sequence[str]) -> str:
    """What was given to an option, which may be written with underscores."""
    names = [word.partition("=")[0].replace("_", "-") for word in words]
    place = len(names) - 1 - names[::-1].index(option) if option in names else len(names)
    given = [word.partition("=")[2] for word in words[place : place + 1] if "=" in word]
    return " ".join([*given, *itertools.takewhile(lambda word: not word.startswith("--"), words[place + 1 :])])
