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
# Colours, which a parser gives to a terminal.
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
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
    if not {"-h", "--help"} & set(words):  # help is as wide as the terminal
        os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if stop.code == 2:
            text = _COLOUR.sub("", said.getvalue())
            start = max(text.find("╭"), 0)  # without a corner where only ASCII is written
            said = io.StringIO(text[:start])  # warnings
            if leads():
                print(f"{program}: {sentence(text[start:], f'{program} {command}', words)}", file=sys.stderr)
        raise
    finally:
        if columns is None:
            os.environ.pop("COLUMNS", None)
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
        return f"{option}: " + (f"expected {_wanted(wanted)}, found {_after(option, words)!r}" if wanted else reason)
    if found := re.fullmatch(r"Error parsing ([\w.-]+): ([\w.]+: .*)", message):
        group, text = found.groups()  # or the command itself, by the name of its class
        return text if group[0].isupper() or text.startswith(f"{group}.") else f"{group}.{text}"
    if found := re.fullmatch(r"invalid choice '(.*)' for argument '(--\S+)'\. Expected one of \((.*)\)\.", message):
        return f"{found[2]}: expected one of {found[3].replace(chr(39), '').rstrip(',')}, found {found[1]!r}"
    if found := re.fullmatch(r"Missing value for argument '(--\S+)'\. Expected (\d+) values?\.", message):
        return f"{found[1]}: expected " + (
            "a value, found none" if found[2] == "1" else f"{found[2]} values, found fewer"
        )
    if found := re.fullmatch(r"Unrecognized options: (.*)", message):
        unknown = found[1].split(", ")
        if not any(word.startswith("-") for word in unknown):
            return (
                f"{' '.join(unknown)}: expected nothing more, found a value of no option; {command} --help lists them"
            )
        near = [_options(line) for before, line in itertools.pairwise(hints) if before.endswith(":")]
        meant = f"did you mean {' and '.join(near)}?" if near else f"{command} --help lists them"
        named = " ".join(word for word in unknown if word.startswith("-"))
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
    if metavar.startswith("[") and "|" not in metavar:
        kinds = metavar[1:].partition(" [")[0].split()
        return " and ".join(_SEVERAL.get(kind, kind) for kind in kinds) + (" in turn" if len(kinds) > 1 else "")
    if metavar.startswith("{") and "|" not in metavar and metavar != "{None}":
        return f"one of {metavar.strip('{}').replace(',', ', ')}"
    if "|" in metavar:  # a list stands in braces beside others
        return " or ".join(_wanted(kind[1:-1] if kind.startswith("{[") else kind) for kind in metavar.split("|"))
    if " " in metavar:
        return f"{len(metavar.split())} {_SEVERAL.get(metavar.split()[0], metavar)}"
    return _KINDS.get(metavar, metavar)


def _options(line: str) -> str:
    """The names at the beginning of a line of help."""
    names = itertools.takewhile(lambda word: word.startswith("--"), line.split())
    return " or ".join(name.strip(",") for name in names)


def _after(option: str, words: Sequence[str]) -> str:
    """What was given to an option, which may be written with underscores."""
    names = [word.partition("=")[0].replace("_", "-") for word in words]
    place = len(names) - 1 - names[::-1].index(option) if option in names else len(names)
    given = [word.partition("=")[2] for word in words[place : place + 1] if "=" in word]
    rest = words[place + 1 :]
    first = [] if given else list(rest[:1])  # its value, whatever it looks like
    more = itertools.takewhile(lambda word: not word.startswith("--"), rest[len(first) :])
    return " ".join([*given, *first, *more])
