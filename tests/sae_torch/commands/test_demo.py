from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.activations import HarvestConfig, harvest
from sae_torch.commands.demo import CHOICES as CHOICE_TYPES
from sae_torch.commands.demo import Demo
from sae_torch.errors import InputError, InterruptedRunError

CHOICES = tuple(CHOICE_TYPES)

# 6 training documents of 200 words make 75 windows of 15 kept tokens: 1120 tokens are 35 steps of 32
TINY = {"tokens": 1120, "test_tokens": 500, "loss_windows": 20, "features": 48, "k": 4, "batch_size": 32}


@pytest.fixture
def tiny_demo(tiny_harvest: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Demo]:
    """The demo on the tiny model and text."""
    monkeypatch.setattr(Demo, "_harvest_config", tiny_harvest)

    def make(out: str = "out", **changes: Any) -> Demo:
        settings = {"model": tiny_harvest.model, "site": tiny_harvest.site, **TINY, **changes}
        return Demo(out=tmp_path / out, cache=tmp_path / "cache", **settings)

    return make


def results(demo: Demo) -> Any:
    return json.loads((demo.out / "results.json").read_text())


def test_the_demo_trains_compares_saves_and_reports(
    tiny_demo: Callable[..., Demo], capsys: pytest.CaptureFixture[str]
) -> None:
    demo = tiny_demo()
    demo.run()
    out = capsys.readouterr().out
    found = results(demo)
    assert [row["name"] for row in found["results"]] == list(CHOICES)
    table = [line for line in out.splitlines() if line.startswith(CHOICES) and "%" in line]
    assert len(table) == len(CHOICES)
    for row, line in zip(found["results"], table, strict=True):
        assert f"{row['nmse']:.4f}" in line
        assert f"{row['ce_spliced']:.3f}" in line
        assert 0 < row["nmse"] < 1
        assert 0 < row["l0"] < 12
        expected = (row["ce_zero"] - row["ce_spliced"]) / (row["ce_zero"] - row["ce_clean"])
        assert row["recovered_zero"] == pytest.approx(expected)
    for stage in ("harvesting", *(f"training {name}" for name in CHOICES), "evaluating the language model"):
        assert re.search(rf"^{stage}: [\d.]+ s$", out, re.MULTILINE)
    assert sorted(file.name for file in demo.out.iterdir()) == [
        "balanced-choice",
        "feature-choice",
        "mutual-choice",
        "report.html",
        "results.json",
        "token-choice",
    ]
    demo.run()  # again: it says so and shows the same table
    again = capsys.readouterr().out
    assert again.startswith(f"finished already: {demo.out}; --overwrite does it again\n")
    assert [line for line in again.splitlines() if line.startswith(CHOICES)] == table
    assert not (demo.out / "unfinished").exists()
    # the figures are those of the autoencoders on disk
    test = harvest(demo._harvest_config, "test", demo.test_tokens, demo.cache)
    x = test.tensor(torch.float32)
    for row in found["results"]:
        sae = st.load(demo.out / row["name"].replace(" ", "-"))
        sae.eval()
        with torch.no_grad():
            codes = sae.encode(x)
            error = (x.double() - sae.decode(codes).double()).square().sum()
        assert row["nmse"] == pytest.approx(float(error / (x.double() - x.double().mean(0)).square().sum()), rel=1e-5)
        assert row["l0"] == pytest.approx(len(codes.values) / len(x))


def test_the_same_seed_gives_the_same_table_and_another_one_does_not(tiny_demo: Callable[..., Demo]) -> None:
    first, second, other = tiny_demo("first"), tiny_demo("second"), tiny_demo("other", seed=1)
    for demo in (first, second, other):
        demo.run()
    assert results(first)["results"] == results(second)["results"]
    assert results(first)["results"] != results(other)["results"]


@pytest.mark.parametrize("name", CHOICES)
def test_an_interrupted_training_is_resumed_to_the_same_table(
    tiny_demo: Callable[..., Demo], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    whole = tiny_demo("whole")
    whole.run()
    demo = tiny_demo("parts")
    with monkeypatch.context() as patch:
        before = st.Trainer.fit

        def fit(self: Any, batches: Any, *args: Any, **options: Any) -> Any:
            if type(self.sae.choice) is type(CHOICE_TYPES[name](1, 8)):
                raise KeyboardInterrupt
            return before(self, batches, *args, **options)

        patch.setattr(st.Trainer, "fit", fit)
        with pytest.raises(InterruptedRunError, match=f"while training {name}"):
            demo.run()
    finished = list(CHOICES[: CHOICES.index(name)])
    kept = sorted(folder.name for folder in (demo.out / "unfinished").iterdir() if folder.is_dir())
    assert kept == sorted(choice.replace(" ", "-") for choice in finished)
    assert not (demo.out / "results.json").exists()
    capsys.readouterr()
    demo.run()
    out = capsys.readouterr().out
    assert [choice for choice in CHOICES if f"{choice} is trained already" in out] == finished
    assert results(demo)["results"] == results(whole)["results"]
    assert not (demo.out / "unfinished").exists()


def test_results_of_another_configuration_are_kept_unless_told(tiny_demo: Callable[..., Demo]) -> None:
    tiny_demo().run()
    kept = results(tiny_demo())
    with pytest.raises(InputError, match="k 4 there, 3 here"):
        tiny_demo(k=3).run()
    assert results(tiny_demo()) == kept
    tiny_demo(k=3, overwrite=True).run()
    assert results(tiny_demo())["configuration"]["k"] == 3


def test_a_saved_autoencoder_that_differs_is_a_defect(
    tiny_demo: Callable[..., Demo], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = st.load

    def altered(folder: Path) -> Any:
        sae = load(folder)
        with torch.no_grad():
            sae.b_dec += 1
        return sae

    monkeypatch.setattr(st, "load", altered)
    with pytest.raises(RuntimeError, match="saved autoencoder of token choice does not give the outputs"):
        tiny_demo().run()


def test_fields_of_the_demo_are_documented_and_checked() -> None:
    assert {field.name for field in dataclasses.fields(Demo)} >= {"tokens", "seed", "out", "cache", "overwrite"}
    with pytest.raises(InputError, match="test_tokens: expected at least 1, found 0"):
        Demo(test_tokens=0)


# ------------------------------------------------------------------ the real model, as a real process


def start(folder: Path, out: str = "out") -> subprocess.Popen[str]:
    settings = {"tokens": 40000, "test-tokens": 4000, "loss-windows": 8, "features": 1024, "k": 16, "batch-size": 512}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "sae_torch", "demo", *words, "--out", out],
        cwd=folder,
        env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(Path(st.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that runs the tests in the background has its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def interrupt_when(process: subprocess.Popen[str], reached: Callable[[], bool]) -> str:
    """Send what Ctrl-C sends once `reached`; return what the process said on standard error."""
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "Traceback" not in err
    assert "results.json" not in out
    last = err.strip().splitlines()[-1]
    assert "what is finished is kept, resume with: python -m sae_torch demo --tokens 40000" in last
    return last


@pytest.mark.slow
def test_the_real_demo_survives_interrupts_and_reports(tmp_path: Path) -> None:
    def shards() -> list[Path]:
        return list((tmp_path / "cache").rglob("*.safetensors"))

    def unfinished(name: str) -> bool:
        return (tmp_path / "out" / "unfinished" / name).is_dir()

    last = interrupt_when(start(tmp_path), lambda: len(shards()) >= 1)
    assert last.startswith("Interrupted while harvesting")
    assert not list(tmp_path.rglob("*.tmp"))
    kept = {file: file.stat().st_mtime_ns for file in shards()}

    last = interrupt_when(start(tmp_path), lambda: unfinished("token-choice"))
    assert last.startswith("Interrupted while training mutual choice")
    assert not list(tmp_path.rglob("*.tmp"))
    assert kept.items() <= {file: file.stat().st_mtime_ns for file in shards()}.items()

    process = start(tmp_path)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "token choice is trained already" in out
    assert "Traceback" not in err
    for bar in ("train MutualChoice", "evaluate feature choice", "cross-entropy"):
        assert re.search(rf"{bar}: 100%.*tokens/s", err)
    table = [line for line in out.splitlines() if line.startswith(CHOICES) and "%" in line]
    assert len(table) == len(CHOICES)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    for row in found["results"]:
        assert row["l0"] == pytest.approx(16, rel=0.15)
        assert row["nmse"] < 0.6
        assert row["ce_clean"] < row["ce_spliced"] < row["ce_mean"] < row["ce_zero"]
        assert row["recovered_zero"] > 0.5

    # the same seed, never interrupted, with the shards there: the same table
    process = start(tmp_path, "again")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "harvest train" not in err
    assert [line for line in out.splitlines() if line.startswith(CHOICES) and "%" in line] == table
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["results"] == found["results"]
    check_in_browser(tmp_path / "again" / "report.html")


def check_in_browser(file: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=[*options.split(), "--disable-component-update", "--disable-sync"],
        )
        tab = browser.new_page()
        requests: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(file.as_uri())
        assert complaints == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        assert tab.locator("svg.chart").count() == 1 + 2 * len(CHOICES)
        assert tab.locator("table.sortable tbody th").all_inner_texts() == list(CHOICES)
        for choice in CHOICES:
            tab.select_option("#which", label=choice)
            tab.wait_for_function("name => document.querySelector('#feature h3').innerText.includes(name)", arg=choice)
            assert tab.locator("#list li").count() >= 5
            assert tab.locator("#feature mark").count() >= 5
        assert tab.screenshot(full_page=True)[:4] == b"\x89PNG"
        browser.close()
