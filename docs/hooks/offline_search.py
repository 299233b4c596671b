"""The index of the search as a script: a page that is opened from a folder may run one, and may not read a file.

The theme asks for it there; `docs/assets/worker.js` is the other half.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority


@event_priority(-100)  # after the search has written its index
def on_post_build(config: Any) -> None:
    """Write the script beside the index."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    (folder / "search_index.js").write_text(f"var __index = {index}", encoding="utf-8")
