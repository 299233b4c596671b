from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import allocation as al
from sae_torch.evaluation import Chapter, FeatureContexts, Quality, Result, TokenContext, render_report

CHROMIUM = Path("/usr/bin/chromium")
NAMES = ("token choice", "mutual choice", "feature choice")
HOSTILE = '<script>alert("x")</script> & "quoted"'


def make_chapter(name: str, seed: int, n_features: int = 300, n_tokens: int = 2000) -> Chapter:
    draw = torch.Generator().manual_seed(seed)
    densities = 3.0 / (torch.arange(n_features) + 20.0)
    counts = (densities * n_tokens).long() * (torch.rand(n_features, generator=draw) > 0.02)
    histogram = torch.bincount(torch.poisson(torch.full((n_tokens,), 8.0), generator=draw).long())
    quality = Quality(0.2, counts, histogram, torch.zeros(n_features, 8).long(), torch.ones(n_features, 8))
    context = TokenContext("the state\nof the ", HOSTILE, " is strong", 12.25, "1863-Lincoln-1")
    return Chapter(
        result=Result(name, 0.2 + 0.01 * seed, quality.l0, quality.dead, 3.5, 3.7, 8.4, 11.1, 0.97, 0.95),
        quality=quality,
        curve_tokens=[2048.0 * step for step in range(1, 40)],
        curve_loss=[500 / (step + 3 + seed) for step in range(1, 40)],
        zipf=al.fit_zipf(quality.densities),
        features=[FeatureContexts(7, 8, 0.1, (context,) * 5), FeatureContexts(200, 201, 0.01, (context,) * 5)],
    )


@pytest.fixture(scope="module")
def page() -> str:
    chapters = [make_chapter(name, seed) for seed, name in enumerate(NAMES)]
    return render_report(chapters, 8, {"Training": "80,000 tokens", "Made with": "<torch>"})


def test_the_page_holds_every_figure_and_escapes_all_text(page: str) -> None:
    for text in (*NAMES, "0.2000", "0.2100", "0.2200", "97.00 %", "1863-Lincoln-1", "α = ", "budget 8"):
        assert text in page
    assert HOSTILE not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;torch&gt;" in page
    assert page.count('<svg class="chart"') == 7  # losses, three spectra, three histograms


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"@import|url\(|https?:", page)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" word", " <mark>word</mark>"),
        ("word", "<mark>word</mark>"),
        ("\n", "<mark>↵ </mark>"),
        ("  ", "<mark>␣␣</mark>"),
    ],
)
def test_the_highlight_is_the_word_or_a_visible_sign(token: str, shown: str) -> None:
    context = TokenContext("before", token, "after", 1.0, "doc")
    chapter = make_chapter("token choice", 0)
    features = [FeatureContexts(1, 1, 0.1, (context,))]
    page = render_report([dataclasses.replace(chapter, features=features)], 8, {})
    assert f"…before{shown}after…" in page


def test_equal_chapters_give_the_same_page(page: str) -> None:
    chapters = [make_chapter(name, seed) for seed, name in enumerate(NAMES)]
    assert render_report(chapters, 8, {"Training": "80,000 tokens", "Made with": "<torch>"}) == page


def test_autoencoders_that_never_fire_can_be_reported() -> None:
    silent = Quality(1.0, torch.zeros(5).long(), torch.tensor([9]), torch.zeros(5, 2).long(), torch.ones(5, 2))
    result = Result("token choice", 1.0, 0.0, 5, 3.5, 8.4, 8.4, 11.1, 0.0, 0.0)
    page = render_report([Chapter(result, silent, [1.0], [2.0], None, [])], 8, {})
    assert "No feature fires on the held-out tokens" in page
    assert "No feature fires often enough" in page


def test_more_chapters_than_colours_are_refused() -> None:
    chapters = [make_chapter("token choice", 0)] * 4
    with pytest.raises(ValueError, match="4 chapters, expected 1 to 3"):
        render_report(chapters, 8, {})


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield chromium
        chromium.close()


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_in_a_browser(page: str, browser: Any, tmp_path: Path, scheme: str, width: int, height: int) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(file.as_uri())
    try:
        assert complaints == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        # nothing is wider than the window, and the table needs no scrolling
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("table thead th").all_inner_texts()[1:] == list(NAMES)
        assert tab.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroll'))") == 0
        for chart in tab.locator("svg.chart").all():
            size = chart.bounding_box()
            assert size["width"] > 200
        # letters in charts stay legible at phone width
        pixels = tab.evaluate(
            "[...document.querySelectorAll('svg.chart')].map(s => 12.5 * s.getBoundingClientRect().width / 420)"
        )
        assert min(pixels) > 8.5
        colours = tab.evaluate(
            """['p', 'p.lead', 'figcaption', 'mark', 'summary', 'thead th'].map(s => {
                 const e = document.querySelector(s); let b = e;
                 while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
                 return [s, getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; })"""
        )
        for name, ink, paper in colours:
            lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, ink, paper)
        second = tab.locator("details").nth(1)
        assert not second.locator("mark").first.is_visible()
        second.locator("summary").click()
        assert second.locator("mark").first.is_visible()
    finally:
        tab.close()
