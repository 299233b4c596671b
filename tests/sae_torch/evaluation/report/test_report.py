from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.errors import InputError
from sae_torch.evaluation import (
    BatchMode,
    Difficulty,
    EdgeSwapNull,
    Evaluation,
    FeaturePage,
    Quality,
    TokenContext,
    render_report,
)
from sae_torch.evaluation.evaluation import Cosines, ModelFigures

CHROMIUM = Path("/usr/bin/chromium")
NAMES = ("token choice", "mutual choice", "feature choice")
HOSTILE = '</script><script>alert("x")</script> & "quoted"'


def make_evaluation(name: str, seed: int, n_features: int = 300, n_tokens: int = 2000) -> Evaluation:
    """Every part, with figures that tell the autoencoders apart."""
    draw = torch.Generator().manual_seed(seed)
    densities = 3.0 / (torch.arange(n_features) + 20.0)
    counts = (densities * n_tokens).long() * (torch.rand(n_features, generator=draw) > 0.02)
    histogram = torch.bincount(torch.poisson(torch.full((n_tokens,), 8.0), generator=draw).long())
    rows, values = torch.zeros(n_features, 8).long(), torch.ones(n_features, 8)
    quality = Quality(0.2 + 0.01 * seed, counts, histogram, rows, values, 0.19 + 0.01 * seed, 0.9 - 0.01 * seed)
    sae = st.SparseAutoencoder(16, n_features, st.MutualChoice(8))
    words = ("zebra", "state\nof the ", HOSTILE)
    return dataclasses.replace(
        Evaluation.of(name, sae, quality),
        cosines=Cosines(0.3, 0.6, 0.01, 0.2, (0.02,) * 50),
        batch_modes=tuple(BatchMode(size, order, 0.2, 8.0, 0.9) for size in (256, 1024) for order in ORDERS),
        difficulty=Difficulty(8, tuple(0.1 * i for i in range(10)), tuple(range(3, 13)), (0.2,) * 10, 0.8 - 0.1 * seed),
        null=EdgeSwapNull(0.2, 50.0, 1.5, 10.0, 0.01, 0.1, 0.02, 5),
        model=ModelFigures(900, 3.5, 3.7, 8.4, 11.1, 0.2, 5.0, 8.0),
        features=tuple(
            FeaturePage(
                feature, rank, 0.3 / rank, (feature + 1) % n_features, 0.5, (" war", " peace"), ("tax", "\n"),
                tuple(
                    TokenContext(f"before {feature} ", word, " is strong", 12.25 - i, "1863-Lincoln-1")
                    for i, word in enumerate(words)
                ),
            )
            for rank, feature in enumerate(range(7, 7 + 40), 1)
        ),
        curve=(tuple(2048.0 * step for step in range(1, 40)), tuple(500 / (step + 3 + seed) for step in range(1, 40))),
    )  # fmt: skip


ORDERS = ("shuffled", "topical")


@pytest.fixture(scope="module")
def evaluations() -> list[Evaluation]:
    return [make_evaluation(name, seed) for seed, name in enumerate(NAMES)]


@pytest.fixture(scope="module")
def page(evaluations: list[Evaluation]) -> str:
    return render_report(evaluations, {"Training": "80,000 tokens", "Made with": "<torch>"})


def test_the_page_holds_every_figure_and_escapes_all_text(page: str) -> None:
    for text in (
        *NAMES,
        "0.2000",
        "0.2100",
        "0.2200",
        "97.37 %",
        "1863-Lincoln-1",
        "α = ",
        "budget 8",
        "0.80",
        "1.5000",
    ):
        assert text in page
    assert HOSTILE not in page
    assert page.count("<script") == 2  # the pages as inert text, and the page's own script
    assert "&lt;torch&gt;" in page
    # losses, three spectra, three histograms, difficulty and batches twice, collapse
    assert page.count('<svg class="chart"') == 12
    inert = re.search(r'<script type="application/json" id="pages">(.*?)</script>', page, re.DOTALL)
    assert inert is not None
    assert json.loads(inert[1])[0][0][7][2][1] == HOSTILE


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert not re.search(r"@import|url\(|https?:", page)


def test_equal_evaluations_give_the_same_page(page: str, evaluations: list[Evaluation]) -> None:
    assert render_report(evaluations, {"Training": "80,000 tokens", "Made with": "<torch>"}) == page


def test_what_was_not_measured_is_left_out(evaluations: list[Evaluation]) -> None:
    found = evaluations[0]
    bare = dataclasses.replace(
        found, cosines=None, batch_modes=(), difficulty=None, null=None, model=None, features=(), curve=None
    )
    page = render_report([bare], {})
    assert re.findall(r'<section id="(\w+)">', page) == ["result", "spectrum", "tokens"]
    assert "CE clean" not in page
    # beside a complete one, what is missing is a dash
    assert "<td>–</td>" in render_report([bare, dataclasses.replace(found, name="other")], {})


def test_autoencoders_that_never_fire_can_be_reported() -> None:
    silent = Quality(1.0, torch.zeros(5).long(), torch.tensor([9]), torch.zeros(5, 2).long(), torch.ones(5, 2))
    found = Evaluation.of("silent", st.SparseAutoencoder(4, 5, st.TokenChoice(2)), silent)
    assert "No feature fires on the held-out tokens" in render_report([found], {})
    assert found.zipf is None


def test_too_many_and_names_twice_are_refused(evaluations: list[Evaluation]) -> None:
    with pytest.raises(InputError, match="9 autoencoders, expected 1 to 8"):
        render_report([dataclasses.replace(evaluations[0], name=str(i)) for i in range(9)], {})
    with pytest.raises(InputError, match="two autoencoders are called 'token choice'"):
        render_report([evaluations[0], evaluations[0]], {})


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


class Tab:
    """A page, what it complained about and what it asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(file.as_uri())

    def __enter__(self) -> Any:
        return self.tab

    def __exit__(self, kind: object, *rest: object) -> None:
        self.tab.close()
        if kind is None:
            assert self.complaints == []
            assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def file(page: str, tmp_path: Path) -> Path:
    place = tmp_path / "report.html"
    place.write_text(page, encoding="utf-8")
    return place


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_in_a_browser(file: Path, browser: Any, scheme: str, width: int, height: int) -> None:
    with Tab(browser, file, width, height, scheme) as tab:
        # nothing is wider than the window
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.locator("table.sortable tbody th").all_inner_texts() == list(NAMES)
        for chart in tab.locator("svg.chart").all():
            assert chart.bounding_box()["width"] > 200
        # letters in charts stay legible at phone width
        pixels = tab.evaluate(
            "[...document.querySelectorAll('svg.chart')].map(s => 12.5 * s.getBoundingClientRect().width / 420)"
        )
        assert min(pixels) > 8.5
        colours = tab.evaluate(
            """['p', '.lead', 'figcaption', 'mark', 'nav a', 'thead button', '.meta', 'code', '#more'].map(s => {
                 const e = document.querySelector(s); let b = e;
                 while (getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;
                 return [s, getComputedStyle(e).color, getComputedStyle(b).backgroundColor]; })"""
        )
        for name, ink, paper in colours:
            lighter, darker = sorted((luminance(ink), luminance(paper)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (name, ink, paper)


def test_the_table_sorts_by_any_figure(file: Path, browser: Any) -> None:
    with Tab(browser, file) as tab:
        names = tab.locator("table.sortable tbody th")
        tab.get_by_role("button", name="cosine").click()
        assert names.all_inner_texts() == list(reversed(NAMES))
        tab.get_by_role("button", name="cosine").click()
        assert names.all_inner_texts() == list(NAMES)
        assert tab.locator("table.sortable th[aria-sort=descending]").count() == 1
        tab.get_by_role("button", name="autoencoder").press("Enter")  # the keyboard does as well
        assert names.all_inner_texts() == sorted(NAMES)


def test_search_finds_a_feature(file: Path, browser: Any) -> None:
    with Tab(browser, file) as tab:
        heads = tab.locator("#list h3")
        assert heads.count() == 12
        tab.locator("#more").click()
        assert heads.count() == 24
        tab.fill("#query", "19")
        assert heads.all_inner_texts()[0].startswith("Feature 19")
        assert heads.count() == 1
        tab.fill("#query", "BEFORE 23 zebra")  # words of a context, over the border of the token
        assert heads.all_inner_texts()[0].startswith("Feature 23")
        assert tab.inner_text("#found") == "1 of 40 feature pages"
        tab.fill("#query", "nothing like it")
        assert heads.count() == 0
        tab.fill("#query", "")
        tab.select_option("#order", "rare")
        assert heads.first.inner_text().startswith("Feature 46")
        tab.select_option("#which", "2")
        assert tab.inner_text("#found") == "40 feature pages"
        # a click on the closest feature shows it
        tab.locator("button.link").first.click()
        assert tab.input_value("#query") == "#47"


def test_the_highlight_is_the_word_or_a_visible_sign(
    evaluations: list[Evaluation], browser: Any, tmp_path: Path
) -> None:
    tokens = (" word", "word", "\n", "  ", HOSTILE)
    contexts = tuple(TokenContext("before", token, "after", 1.0, "doc") for token in tokens)
    shown = dataclasses.replace(evaluations[0].features[0], contexts=contexts)
    place = tmp_path / "report.html"
    place.write_text(render_report([dataclasses.replace(evaluations[0], features=(shown,))], {}), encoding="utf-8")
    with Tab(browser, place) as tab:
        assert tab.locator("mark").all_text_contents() == ["word", "word", "↵ ", "␣␣", HOSTILE]
        assert tab.locator(".contexts li").all_text_contents()[0].startswith("…before wordafter…")
