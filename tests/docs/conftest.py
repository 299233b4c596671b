"""The site, built once, and a browser that watches what its pages say and ask for."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENS = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the site, built in strict mode: a warning ends the build. Only slow tests look into the explorer."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "EXPLORER": "solve" if slow else "empty"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Requests are watched in the browser."""


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Visit:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, address: str, screen: str, scheme: str) -> None:
        self.width = SCREENS[screen]["width"]
        self.context = browser.new_context(viewport=SCREENS[screen], color_scheme=scheme)
        self.address, self.complaints, self.elsewhere = address, [], []
        self.context.route("**/*", self._watch)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # what the page had asked for when the next one was opened is no fault of it
        gone = "net::ERR_ABORTED"
        self.page.on("requestfailed", lambda r: r.failure != gone and self.complaints.append(f"{r.failure} {r.url}"))
        self.page.on("response", lambda r: r.status >= 400 and self.complaints.append(f"{r.status} {r.url}"))

    def _watch(self, route: Any) -> None:
        url = route.request.url
        if url.startswith((self.address, "data:", "blob:")):
            route.continue_()
        else:
            self.elsewhere.append(url)
            route.abort()

    def open(self, name: str, until: str = "networkidle") -> Any:
        self.page.goto(self.address + name, wait_until=until)
        return self.page


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    made: list[Visit] = []

    def start(screen: str = "desk", scheme: str = "light", address: str = address) -> Visit:
        made.append(Visit(browser, address, screen, scheme))
        return made[-1]

    yield start
    for one in made:
        one.context.close()
