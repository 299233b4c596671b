"""The report: one self-contained HTML page about several autoencoders."""

from __future__ import annotations

import base64
import functools
import importlib.resources
import io
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sae_torch.errors import InputError
from sae_torch.evaluation.dashboard.blocks import BlockFile
from sae_torch.evaluation.evaluation import Evaluation
from sae_torch.evaluation.report.figures import (
    batches,
    collapse,
    difficulty,
    frontier,
    histograms,
    null,
    spectrum,
    training,
)
from sae_torch.evaluation.report.page_blocks import blocks_of_pages
from sae_torch.evaluation.report.table import result_table
from sae_torch.files import new_folder, replacing

PACKAGE = "sae_torch.evaluation.report"
# Names that fit into a title.
MOST_NAMED = 8
LEAD = "Sparse autoencoders side by side, judged on held-out activations."
LEAD_ALONE = "A sparse autoencoder, judged on held-out activations."
NO_FEATURES = (
    "Not here: pages of features show the text on which they fire, so they need activations that know their tokens, "
    "as `sae-torch harvest` writes them, and the language model; `evaluate --pages 0` leaves them out."
)
DEFAULT = "BalancedChoice"
SCRIPTS = ("blocks.js", "examples.js", "feature.js", "dashboard.js")
DATA = "data"
# Blocks that the page asks for as soon as it opens.
FIRST = ("index", "labels", "text")
END = "</body>\n</html>\n"


def render_report(
    evaluations: Sequence[Evaluation],
    facts: Mapping[str, str],
    lead: str = LEAD,
) -> str:
    """Render the page as one text, feature pages included; it needs no network and no other file.

    Parameters
    ----------
    evaluations : Sequence[Evaluation]
        One per autoencoder, as many as there are.
    facts : Mapping[str, str]
        What was run, by label, for the end of the page.
    lead : str
        The sentence under the title.

    Returns
    -------
    HTML text, equal for equal arguments.

    Raises
    ------
    InputError
        If there are no evaluations, or two of one name, or the feature pages of one cannot be read.
    """
    page, dashboards = _rendered(evaluations, facts, lead, "")
    text = io.StringIO()
    _write_whole(text, page, dashboards)
    return text.getvalue()


def write_report(
    out: Path, evaluations: Sequence[Evaluation], facts: Mapping[str, str], lead: str = LEAD, overwrite: bool = False
) -> None:
    """Write the page block by block: as one file, or as a folder whose parts are read when they are shown.

    Parameters
    ----------
    out : path
        With a suffix a file; without one a folder, whose page is ``index.html``.
    evaluations : Sequence[Evaluation]
        One per autoencoder, as many as there are.
    facts : Mapping[str, str]
        What was run, by label, for the end of the page.
    lead : str
        The sentence under the title.
    overwrite : bool
        Whether a folder that is there is replaced.

    Raises
    ------
    InputError
        As `render_report`, and if a folder to replace holds something else than a report.
    """
    folder = out if is_folder(out) else None
    page, dashboards = _rendered(evaluations, facts, lead, "" if folder is None else f"{DATA}/")
    out.parent.mkdir(parents=True, exist_ok=True)
    if folder is None:
        with replacing(out) as beside, beside.open("w", encoding="utf-8") as file:
            _write_whole(file, page, dashboards)
        return
    if folder.exists() and not (overwrite and (not any(folder.iterdir()) or (folder / DATA).is_dir())):
        raise InputError(f"{folder}: expected no folder or one of a report, found another")
    with new_folder(folder.with_name(f"{folder.name}.new")) as made:
        (made / "index.html").write_text(page + END, encoding="utf-8")
        for name, packed in _blocks(dashboards):
            block = made / DATA / f"{name}.js"
            block.parent.mkdir(parents=True, exist_ok=True)
            block.write_text(f'received("{name}","{packed}")', encoding="ascii")
    if folder.exists():
        shutil.rmtree(folder)
    folder.with_name(f"{folder.name}.new").rename(folder)


def is_folder(out: Path) -> bool:
    """Whether a report goes to a folder: where its name has no suffix."""
    return not out.suffix


def _rendered(
    evaluations: Sequence[Evaluation], facts: Mapping[str, str], lead: str, data: str
) -> tuple[str, dict[int, BlockFile]]:
    """The page up to its blocks, and where these come from."""
    names = [evaluation.name for evaluation in evaluations]
    if not names:
        raise InputError("0 autoencoders, expected at least 1 on a page")
    if len(set(names)) < len(names):
        raise InputError(f"two autoencoders are called {max(names, key=names.count)!r}, expected names that differ")
    shown = [number for number, e in enumerate(evaluations) if e.dashboard is not None or e.features]
    # the default method, where it is there; its blocks come first
    opened = next((i for i, number in enumerate(shown) if evaluations[number].choice == DEFAULT), 0)
    dashboards = {number: _blocks_of(evaluations[number]) for number in (*shown[opened:], *shown[:opened])}
    texts: dict[str, int] = {}
    for number, blocks in dashboards.items():
        texts.setdefault(blocks.text_digest, number)
    runs = [
        {"name": names[number], "key": f"d{number}", "text": f"d{texts[dashboards[number].text_digest]}"}
        for number in shown
    ]
    # each by the name of its template, with what the template shows
    sections: list[tuple[str, str, Any]] = [
        ("result", "Result", result_table(evaluations)),
        ("frontier", "Error over L0", frontier(evaluations)),
        ("features", "Features in text", {"runs": runs, "opened": opened})
        if runs
        else ("no_features", "Features in text", NO_FEATURES),
        ("training", "Training", training(evaluations)),
        ("spectrum", "How often features fire", spectrum(evaluations)),
        ("tokens", "How many features a token gets", histograms(evaluations)),
        ("difficulty", "Who gets the features", difficulty(evaluations)),
        ("batches", "What the batch does", batches(evaluations)),
        ("collapse", "Whether features are copies", collapse(evaluations)),
        ("null", "Whether the matching matters", null(evaluations)),
        ("run", "What was run", facts),
    ]
    page = (
        _templates()
        .get_template("page.html")
        .render(
            title=_title(evaluations),
            lead=LEAD_ALONE if lead == LEAD and len(evaluations) == 1 else lead,
            sections=[section for section in sections if section[2]],
            dashboard={"runs": runs, "opened": opened, "data": data} if runs else None,
            styles=[_file(name) for name in ("page.css", *(["dashboard.css"] if runs else []))],
            scripts=[_file(name) for name in ("table.js", *(SCRIPTS if runs else []))],
        )
    )
    return page, dashboards


def _blocks_of(evaluation: Evaluation) -> BlockFile:
    return blocks_of_pages(evaluation) if evaluation.dashboard is None else BlockFile(evaluation.dashboard)


def _write_whole(file: IO[str], page: str, dashboards: Mapping[int, BlockFile]) -> None:
    """The page with its blocks as inert text, which the script finds by name."""
    file.write(page)
    for name, packed in _blocks(dashboards):
        file.write(f'<script type="text/plain" id="block:{name}">{packed}</script>\n')
    file.write(END)


def _blocks(dashboards: Mapping[int, BlockFile]) -> Iterator[tuple[str, str]]:
    """Name and bytes of each block, as letters; a text that several share comes once."""
    known: set[str] = set()
    for number, blocks in dashboards.items():
        for name in sorted(blocks.names, key=lambda name: name not in FIRST):
            if name == "text":
                if blocks.text_digest in known:
                    continue
                known.add(blocks.text_digest)
            yield f"d{number}/{name}", base64.b64encode(blocks.packed(name)).decode()


@functools.cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment


def _title(evaluations: Sequence[Evaluation]) -> str:
    names = [evaluation.name for evaluation in evaluations]
    if len(names) > MOST_NAMED:
        return f"{len(names)} autoencoders"
    text = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return text[:1].upper() + text[1:]


def _file(name: str) -> Markup:
    return Markup(importlib.resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8"))
