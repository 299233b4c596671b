"""The site in a real browser: formulas have a shape, search finds, nothing complains, nothing leaves the machine."""

from __future__ import annotations

import ast
import string
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", ["desk", "phone"])
def test_every_page_opens_in_silence_and_fits(visit: Any, site: Path, screen: str, scheme: str) -> None:
    """No error, no request to elsewhere, no page wider than the screen, colours as asked for."""
    one = visit(screen, scheme)
    names = sorted(str(file.relative_to(site)) for file in site.rglob("*.html") if file.name != "404.html")
    assert len(names) > 20
    for name in names:
        page = one.open(name, until="load")
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        assert page.evaluate("document.documentElement.scrollWidth") <= one.width, name
        expected = "slate" if scheme == "dark" else "default"
        assert page.evaluate("document.body.getAttribute('data-md-color-scheme')") == expected
        assert page.locator("h1").count() == 1, name
    page.wait_for_load_state("networkidle")
    assert one.complaints == []
    assert one.elsewhere == []


def test_a_link_to_a_question_opens_its_answer(visit: Any) -> None:
    """The evidence is one screen and a list of questions, whose tables are folded away."""
    page = visit().open("evidence.html")
    answers = page.locator("details.answer")
    opened = page.locator("details.answer[open]")
    assert answers.count() > 20
    assert opened.count() == 0
    assert page.locator("main table:visible").count() == 0
    page.get_by_role("link", name="A step", exact=True).click()
    page.wait_for_function("document.querySelectorAll('details.answer[open]').length == 1")
    assert opened.locator("summary").inner_text().startswith("Floors cost some more")
    assert opened.locator("table:visible").count() == 2
    page = visit().open("evidence.html#at-equal-time")
    assert page.locator("#at-equal-time").is_visible()


def test_formulas_are_rendered(visit: Any) -> None:
    """With the font of the site, each with a size; a sum is taller than its letters."""
    page = visit().open("mathematics/index.html")
    boxes = page.evaluate("Array.from(document.querySelectorAll('math'), m => m.getBoundingClientRect().toJSON())")
    assert len(boxes) > 20
    assert all(box["width"] > 4 and box["height"] > 4 for box in boxes)
    assert page.evaluate("document.fonts.check('16px \"Allocation Formulas\"')")
    loaded = page.evaluate("Array.from(document.fonts).filter(f => f.status === 'loaded').length")
    assert loaded >= 1
    display = page.evaluate("document.querySelector('.formula math').getBoundingClientRect().height")
    assert display > 120
    assert "\\sum" not in page.inner_text("main")


def test_what_is_copied_from_an_example_runs(visit: Any, site: Path) -> None:
    """The button takes the code without prompts and outputs."""
    one = visit()
    read = """Array.from(document.querySelectorAll('.highlight code:has(.gp)')).map(code => {
        code.setAttribute('data-md-copying', '');
        const text = code.innerText;
        code.removeAttribute('data-md-copying');
        return text;
    })"""
    copied = []
    for file in sorted((site / "api").glob("*.html")):
        copied += one.open(f"api/{file.name}").evaluate(read)
    assert len(copied) > 80
    for code in copied:
        ast.parse(code)
        assert ">>>" not in code
    page = one.open("api/choices.html")
    page.evaluate("document.addEventListener('copy', () => { window.copied = document.getSelection().toString(); })")
    example = page.locator(".highlight", has=page.locator(".gp")).first
    example.hover()
    example.locator("button.md-clipboard, .md-code__button").first.click()
    assert ast.unparse(ast.parse(page.evaluate("window.copied"))).startswith("import torch")


def search_box(page: Any) -> Any:
    """Open the search box and wait for its index; words typed before that wait for the next key."""
    box = page.locator("input.md-search__input")
    box.click()
    page.wait_for_function("document.querySelector('.md-search-result__meta').innerText.startsWith('Type')")
    return box


def test_every_beginning_of_a_word_can_be_searched(visit: Any) -> None:
    """A slow writer searches for each letter; 'f' once failed inside the index."""
    one = visit()
    page = one.open("index.html")
    box = search_box(page)
    for word in [*string.ascii_lowercase, "f3", "float32", "topk", "BatchTopK"]:
        box.press_sequentially(word)
        page.wait_for_selector(".md-search-result__item a")
        assert one.complaints == [], word
        for _ in word:
            box.press("Backspace")
        page.wait_for_function("document.querySelector('.md-search-result__meta').innerText.startsWith('Type')")


@pytest.mark.parametrize("name", ["index.html", "guides/train.html"])
@pytest.mark.parametrize("opened", ["served", "from its folder"])
def test_search_finds_feature_choice(visit: Any, site: Path, opened: str, name: str) -> None:
    """Browsers give pages opened from a folder neither workers nor files to read."""
    one = visit() if opened == "served" else visit(address=f"{site.as_uri()}/")
    page = one.open(name)
    search_box(page).press_sequentially("feature choice")
    page.wait_for_selector(".md-search-result__item a")
    page.wait_for_function("document.querySelectorAll('.md-search-result__item').length >= 3")
    found = page.inner_text(".md-search-result__list").lower()
    assert "featurechoice" in found
    assert "the allocation problem" in found
    first = page.locator(".md-search-result__item a:visible").filter(has_text="FeatureChoice").first
    with page.expect_navigation(wait_until="load"):
        first.click()
    assert {"feature", "choice"} <= set(page.inner_text("main").lower().split())
    assert one.complaints == []
    assert one.elsewhere == []


def test_search_answers_what_newcomers_ask(visit: Any) -> None:
    one = visit()
    page = one.open("index.html")
    box = search_box(page)
    asked = {
        "licence": "about",
        "BibTeX": "about",
        "wandb": "questions",
        "8 GPUs": "questions",
        "dead features": "questions",
    }
    for words, name in asked.items():
        box.fill("")
        box.press_sequentially(words)
        page.wait_for_selector(f'.md-search-result__item a[href*="{name}.html"]', state="attached")
    assert one.complaints == []


def test_the_reader_can_change_the_colours(visit: Any) -> None:
    page = visit("desk", "light").open("index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(background)
    for _ in range(2):  # system, light, dark
        page.locator("form[data-md-component=palette] label:not([hidden])").click()
    assert page.evaluate("document.body.getAttribute('data-md-color-scheme')") == "slate"
    page.wait_for_function(f"{background} !== {before!r}")


def test_the_watch_sees_what_leaves_the_machine(visit: Any) -> None:
    """The check of the other tests can fail: a page that asks for something elsewhere is noticed."""
    one = visit()
    page = one.open("index.html")
    page.evaluate("fetch('http://192.0.2.1/font.woff2').catch(() => 0)")
    page.wait_for_timeout(100)
    assert one.elsewhere == ["http://192.0.2.1/font.woff2"]
    assert one.complaints
