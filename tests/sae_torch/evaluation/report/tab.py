"""A page in a browser, which must not complain or ask for anything from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Tab:
    """A page, what it complained about and what it asked for."""

    def __init__(
        self, browser: Any, file: Path, width: int = 1280, height: int = 900, scheme: str = "light", fragment: str = ""
    ) -> None:
        self.tab = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.goto(file.as_uri() + fragment)

    def __enter__(self) -> Any:
        return self.tab

    def __exit__(self, kind: object, *rest: object) -> None:
        self.tab.close()
        if kind is None:
            assert self.complaints == []
            assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
