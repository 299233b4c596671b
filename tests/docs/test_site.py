"""The built site: links lead somewhere, nothing comes from elsewhere, every public name is in the reference."""

from __future__ import annotations

import inspect
import re
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import allocation
import sae_torch
from sae_torch import activations, evaluation, losses, parallel

# A reader may follow a link to these; the page itself loads nothing from there.
OUTSIDE = {"arxiv.org", "github.com", "pythonot.github.io", "ott-jax.readthedocs.io", "semver.org"}
LOADING = {
    "script": "src",
    "img": "src",
    "link": "href",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


class Links(HTMLParser):
    """What a page links to, what it loads, and where one can link to in it."""

    def __init__(self) -> None:
        super().__init__()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.linked.append(found["href"])
        elif LOADING.get(tag, "") in found and found.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(found[LOADING[tag]])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Links]:
    found = {}
    for file in sorted(site.rglob("*.html")):
        found[file] = Links()
        found[file].feed(file.read_text(encoding="utf-8"))
    return found


def test_every_link_leads_somewhere(pages: dict[Path, Links], site: Path) -> None:
    broken = []
    for page, links in pages.items():
        for link in links.linked + links.loaded:
            parts = urlsplit(link)
            if parts.scheme == "data":  # a picture that is in the page
                continue
            if link == "javascript:void(0)":  # the share button of the search
                continue
            if parts.scheme or parts.netloc:
                if parts.netloc not in OUTSIDE:
                    broken.append(f"{page.relative_to(site)}: {link} is not a known place")
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if page.name == "404.html":
                continue  # served at any depth, so its links start at the root
            if not target.is_file():
                broken.append(f"{page.relative_to(site)}: {link} does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{page.relative_to(site)}: {link} has no such place in it")
    assert not broken, "\n".join(broken)


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Links], site: Path) -> None:
    loaded = [link for links in pages.values() for link in links.loaded]
    assert len(loaded) > 20
    assert [link for link in loaded if urlsplit(link).netloc] == []
    styles = [file.read_text(encoding="utf-8") for file in site.rglob("*.css")]
    assert styles
    for style in styles:
        assert re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*", style) == []


def test_formulas_are_mathml(site: Path) -> None:
    """No TeX is left for a script to find, and there are formulas."""
    page = (site / "mathematics" / "prices.html").read_text(encoding="utf-8")
    assert page.count("<math ") >= 30
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert "arithmatex" not in text, file
        assert not re.search(r"\$\$|\\\(|\\\[", re.sub(r"<(code|script)\b.*?</\1>", "", text, flags=re.S)), file


def public() -> Iterator[tuple[str, str]]:
    for module in (allocation, sae_torch, activations, evaluation, parallel):
        for name in module.__all__:
            if not inspect.ismodule(getattr(module, name)):
                yield module.__name__, name
    for name, function in inspect.getmembers(losses, inspect.isfunction):
        if not name.startswith("_") and function.__module__ == losses.__name__:
            yield losses.__name__, name


def test_the_reference_holds_every_public_name(pages: dict[Path, Links]) -> None:
    ids = set().union(*(links.ids for page, links in pages.items() if page.parent.name == "api"))
    names = [f"{module}.{name}" for module, name in public()]
    assert len(names) > 60
    assert [name for name in names if name not in ids] == []


def test_signatures_have_no_private_arguments(site: Path) -> None:
    """Dataclasses hold fields that only this library fills."""
    pages = [file.read_text(encoding="utf-8") for file in sorted((site / "api").glob("*.html"))]
    assert sum(page.count('id="allocation.Solution"') for page in pages) == 1
    assert [re.findall(r'<span class="n">_[a-z]\w*', page) for page in pages] == [[]] * len(pages)


def test_displayed_problems_of_docstrings_are_blocks(site: Path) -> None:
    texts = [page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html")]
    assert sum(text.count('class="problem') for text in texts) > 20
    assert not any("<p>::</p>" in text for text in texts)


def test_citation_and_changelog_name_this_version() -> None:
    root = Path(__file__).parents[2]
    citation = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert citation["version"] == newest[1] == project["version"] == allocation.__version__
