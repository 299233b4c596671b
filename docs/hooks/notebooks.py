"""Pages of the notebooks: their text, code, and what the code printed and drew, in the form of the other pages."""

from __future__ import annotations

import base64
import json
import re
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PLACE = "notebooks"
# Here a picture stands above its code.
PICTURE_FIRST = ("gallery",)
HTML, SVG, PLAIN = "text/html", "image/svg+xml", "text/plain"


def on_files(files: Files, config: Any) -> Files:
    """Add a page for every notebook, which itself stays beside it to be taken away."""
    for notebook in sorted((Path(config["docs_dir"]) / PLACE).glob("*.ipynb")):
        content = page(json.loads(notebook.read_text(encoding="utf-8")), notebook.stem)
        files.append(File.generated(config, f"{PLACE}/{notebook.stem}.md", content=content))
    return files


def page(notebook: dict[str, Any], name: str) -> str:
    """The notebook as Markdown; where to take it follows its title."""
    parts, taken = [], f"The notebook, to run it yourself: [{name}.ipynb]({name}.ipynb){{: download }}"
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next((line.lstrip("# ") for line in source.splitlines() if line.startswith("#")), heading)
            parts.append(source)
            if taken:
                parts.append(taken)
                taken = ""
        if cell["cell_type"] != "code":
            continue
        code = f"```python\n{source}\n```"
        shown = [part for output in cell["outputs"] if (part := _shown(output, heading))]
        parts += [*shown, code] if name in PICTURE_FIRST else [code, *shown]
    return "\n\n".join(parts) + "\n"


def _shown(output: dict[str, Any], heading: str) -> str:
    """One output: a picture, a card, or text."""
    if output["output_type"] == "stream":
        return _block("".join(output["text"]))
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if SVG in data:
        drawn = base64.b64encode(_svg(data[SVG]).encode()).decode()
        return f'<img alt="{escape(heading)}" src="data:{SVG};base64,{drawn}">'
    if HTML in data:
        return f"<div>{data[HTML]}</div>"
    return _block(data.get(PLAIN, "") + "\n")


def _block(text: str) -> str:
    return f'```text title="Output"\n{text.rstrip()}\n```' if text.strip() else ""


def _svg(text: str) -> str:
    """From its root on; what comes before means nothing in a page."""
    return text[found.start() :] if (found := re.search(r"<svg\b", text)) else text
