from __future__ import annotations

import base64
import dataclasses
import gzip
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some

import sae_torch as st
from sae_torch.errors import InputError
from sae_torch.evaluation import (
    BatchMode,
    Difficulty,
    EdgeSwapNull,
    Evaluation,
    EvaluationFile,
    FeaturePage,
    Quality,
    TokenContext,
    render_report,
)
from sae_torch.evaluation.evaluation import Cosines, ModelFigures
from sae_torch.evaluation.report.methods import equal_l0, methods
from tests.sae_torch.evaluation.report.tab import Tab

NAMES = ("token choice", "mutual choice", "feature choice")
HOSTILE = '</script><script>alert("x")</script> & "quoted"'


def make_quality(n_features: int, n_tokens: int = 2000, seed: int = 0) -> Quality:
    """Features that fire ever less often."""
    draw = torch.Generator().manual_seed(seed)
    densities = 3.0 / (torch.arange(n_features) + 20.0)
    counts = (densities * n_tokens).long() * (torch.rand(n_features, generator=draw) > 0.02)
    histogram = torch.bincount(torch.poisson(torch.full((n_tokens,), 8.0), generator=draw).long())
    rows, values = torch.zeros(n_features, 8).long(), torch.ones(n_features, 8)
    return Quality(0.2 + 0.01 * seed, counts, histogram, rows, values, 0.19 + 0.01 * seed, 0.9 - 0.01 * seed)


def make_evaluation(name: str, seed: int, n_features: int = 300, n_tokens: int = 2000) -> Evaluation:
    """Every part, with figures that tell the autoencoders apart."""
    quality = make_quality(n_features, n_tokens, seed)
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
        "α = ",
        "budget 8",
        "0.80",
        "1.5000",
    ):
        assert text in page
    assert HOSTILE not in page
    assert "&lt;torch&gt;" in page
    # losses, three spectra, three histograms, difficulty and batches twice, collapse
    assert page.count('<svg class="chart"') == 12
    # feature pages are inert: gzip in letters, beside the page's own script and what it reads
    assert re.findall(r"<script(?! type=.text/plain)[^>]*>", page) == [
        '<script type="application/json" id="dashboard">',
        "<script>",
    ]
    assert block(page, "d0/text")["windows"][2] == ["before 7 ", HOSTILE, " is strong"]
    assert block(page, "d0/text")["documents"][2] == [[0, "1863-Lincoln-1"]]
    assert block(page, "d1/features-0")[0]["examples"][2] == [0, 2, 1, [1, 10.25]]
    assert "d1/text" not in page  # the same text is there once


def block(page: str, name: str) -> Any:
    packed = re.search(f'<script type="text/plain" id="block:{name}">(.*?)</script>', page)
    assert packed is not None
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


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
    assert re.findall(r'<section id="(\w+)">', page) == ["result", "no_features", "spectrum", "tokens"]
    assert "CE clean" not in page
    # beside a complete one, what is missing is a dash
    assert "<td>–</td>" in render_report([bare, dataclasses.replace(found, name="other")], {})


def test_autoencoders_that_never_fire_can_be_reported() -> None:
    silent = Quality(1.0, torch.zeros(5).long(), torch.tensor([9]), torch.zeros(5, 2).long(), torch.ones(5, 2))
    found = Evaluation.of("silent", st.SparseAutoencoder(4, 5, st.TokenChoice(2)), silent)
    assert "No feature fires on the held-out tokens" in render_report([found], {})
    assert found.zipf is None


def test_none_and_names_twice_are_refused(evaluations: list[Evaluation]) -> None:
    with pytest.raises(InputError, match="0 autoencoders, expected at least 1 on a page"):
        render_report([], {})
    with pytest.raises(InputError, match="two autoencoders are called 'token choice'"):
        render_report([evaluations[0], evaluations[0]], {})


def test_a_sweep_has_a_line_for_each_method_and_marks_the_best_within_equal_l0(evaluations: list[Evaluation]) -> None:
    """Of any number; the best of an L0 that only one has is not marked."""
    sweep = [
        dataclasses.replace(
            evaluations[0], name=f"{choice} {l0}", choice=choice, l0=l0 * (1 + 0.01 * worse), nmse=(2 + worse) / l0
        )
        for worse, choice in enumerate(("TokenChoice", "BalancedChoice"))
        for l0 in (8.0, 16.0, 32.0, 64.0, 128.0)
    ] + [dataclasses.replace(evaluations[0], name="alone", choice="TokenChoice", l0=300.0, nmse=0.001)]
    page = render_report(sweep, {})
    assert "<h1>11 autoencoders</h1>" in page
    frontier = page[page.index('<section id="frontier">') : page.index('<section id="features">')]
    assert re.findall(r"</svg>([a-z ]+)</li>", frontier) == ["token choice", "balanced choice"]
    assert frontier.count("<polyline") == 2
    assert frontier.count("<circle") == 11
    ringed = re.findall(r'ringed"[^>]*><title>([^:]*)', frontier)
    assert ringed == [f"TokenChoice {l0}" for l0 in (8.0, 16.0, 32.0, 64.0, 128.0)]
    rows = re.findall(r"</span>([^<]*)</th><td data-value=\"[^\"]*\">(<b>)?", page)
    assert [name for name, bold in rows if bold] == ringed
    # of one method and one L0 there is no line
    assert 'id="frontier"' not in render_report(evaluations, {})


def test_choices_of_one_class_with_other_limits_are_methods_of_their_own(tmp_path: Path) -> None:
    """At any k, where they follow it. What was saved and loaded is of the method that it was before."""
    sweep = []
    made = [
        st.BalancedChoice(k, feature_floors=share * k / 20, feature_caps=caps)
        for k in (1, 2)
        for share, caps in ((0.25, None), (0.5, None), (0.25, 4 * k / 20))
    ]
    for number, choice in enumerate([*made, st.FeatureChoice(2, quotas="uniform", switch=0), st.TokenChoice(2)]):
        sae = st.SparseAutoencoder(4, 20, choice)
        st.Trainer(sae, st.TrainConfig(progress=False)).fit([torch.randn(200, 4)] * 3)
        sae = st.load(st.save(sae, tmp_path / str(number)))
        quality = make_quality(20)
        sweep.append(Evaluation.of(str(number), sae, quality))
    floors, more, caps = (
        "floors of 0.25 mean use",
        "floors of 0.5 mean use",
        "floors of 0.25 mean use, caps of 4 mean use",
    )
    balanced = [f"balanced choice, {variant}" for variant in (floors, more, caps)]
    assert methods(sweep) == [*balanced, *balanced, "feature choice", "token choice"]
    assert methods(sweep[::3]) == ["balanced choice", "balanced choice", "feature choice"]
    assert sweep[-2].variant == "uniform quotas"
    file = EvaluationFile(tuple(sweep), {})
    file.write(tmp_path / "evaluation.json")
    assert methods(EvaluationFile.read(tmp_path / "evaluation.json").evaluations) == methods(sweep)
    content = json.loads((tmp_path / "evaluation.json").read_text())
    for values in content["evaluations"]:  # as files of before are
        del values["variant"]
    (tmp_path / "old.json").write_text(json.dumps(content))
    old = EvaluationFile.read(tmp_path / "old.json").evaluations
    assert methods(old) == ["balanced choice"] * 6 + ["feature choice", "token choice"]
    assert methods([*old[:3], *sweep]) == ["balanced choice"] * 9 + ["feature choice", "token choice"]


def test_limits_that_do_not_follow_k_are_one_method() -> None:
    sweep = []
    for k in (1, 2, 4):
        sae = st.SparseAutoencoder(4, 20, st.BalancedChoice(k, feature_caps=0.5))
        sae(torch.ones(2, 4))
        sweep.append(dataclasses.replace(Evaluation.of(str(k), sae, make_quality(20)), l0=float(k)))
    assert len({one.variant for one in sweep}) == 3
    assert methods(sweep) == ["balanced choice"] * 3
    assert 'id="frontier"' in render_report(sweep, {})


@given(some.lists(some.floats(0.01, 1000.0), min_size=1, max_size=30))
def test_equal_l0_means_within_five_percent(found: list[float]) -> None:
    base = make_evaluation("one", 0, n_features=20, n_tokens=50)
    groups = equal_l0([dataclasses.replace(base, l0=l0) for l0 in found])
    assert sorted(i for group in groups for i in group) == list(range(len(found)))
    for group in groups:
        assert max(found[i] for i in group) <= 1.05 * min(found[i] for i in group)
    for smaller, larger in itertools.pairwise(groups):
        assert min(found[i] for i in larger) > 1.05 * min(found[i] for i in smaller)


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.fixture
def file(page: str, tmp_path: Path) -> Path:
    place = tmp_path / "report.html"
    place.write_text(page, encoding="utf-8")
    return place


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (360, 740)])
def test_the_page_in_a_browser(file: Path, browser: Any, scheme: str, width: int, height: int) -> None:
    with Tab(browser, file, width, height, scheme) as tab:
        tab.wait_for_selector("#feature .contexts")
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
            """['p', '.lead', 'figcaption', 'mark', 'nav a', 'thead button', '.meta', '.logits code', '#export',
                  '#list a[aria-current] .meta', '.token.fires'].map(s => {
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
    from playwright.sync_api import expect

    with Tab(browser, file) as tab:
        listed = tab.locator("#list b")
        tab.wait_for_selector("#feature h3")
        tab.select_option("#show", "all")
        expect(listed).to_have_count(25)
        tab.get_by_role("button", name="more →").click()
        assert listed.count() == 15
        tab.fill("#query", "19")
        expect(listed).to_have_text(["19"])
        tab.fill("#query", "BEFORE 23 zebra")  # words of a context, over the border of the token
        expect(listed).to_have_text(["23"])
        expect(tab.locator("#feature h3")).to_contain_text("Feature 23")
        assert tab.inner_text("#found") == "1 of 40 feature pages"
        tab.fill("#query", "nothing like it")
        expect(listed).to_have_count(0)
        tab.fill("#query", "")
        tab.select_option("#order", "rare")
        expect(listed.first).to_have_text("46")
        tab.select_option("#which", "2")
        expect(tab.locator("#found")).to_have_text("40 of 40 feature pages")
        # of a feature that an evaluation has no page of, this is said
        tab.locator(".nearest a").first.click()
        expect(tab.locator("#feature")).to_have_text("Feature 47 has no page.")


def test_the_highlight_is_the_word_or_a_visible_sign(
    evaluations: list[Evaluation], browser: Any, tmp_path: Path
) -> None:
    tokens = (" word", "word", "\n", "  ", HOSTILE)
    contexts = tuple(TokenContext("before", token, "after", 1.0, "doc") for token in tokens)
    shown = dataclasses.replace(evaluations[0].features[0], contexts=contexts)
    place = tmp_path / "report.html"
    place.write_text(render_report([dataclasses.replace(evaluations[0], features=(shown,))], {}), encoding="utf-8")
    with Tab(browser, place) as tab:
        tab.wait_for_selector("#feature mark")
        assert tab.locator("mark").all_text_contents() == ["word", "word", "↵ ", "␣␣", HOSTILE]
        assert tab.locator(".contexts li").all_text_contents()[0].startswith("…before wordafter…")


def test_a_page_without_features_says_what_they_need() -> None:
    plain = dataclasses.replace(make_evaluation("mutual", 0), features=())
    said = "they need activations that know their tokens"
    assert said in render_report([plain], {})
    assert said not in render_report([make_evaluation("mutual", 0)], {})
