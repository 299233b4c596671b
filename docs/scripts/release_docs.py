"""The site of this version beside those of earlier ones, with the list that lets a reader change between them.

`python docs/scripts/release_docs.py FOLDER` writes FOLDER/<version>/, FOLDER/versions.json, and FOLDER/index.html,
which leads to the newest. What was in FOLDER stays; any web server can show it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEAD = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={0}/"><a href="{0}/">{0}</a>\n'


def listed(folder: Path, version: str) -> list[dict[str, object]]:
    """The versions of a folder and this one, the newest first; the theme's switch reads this."""
    file = folder / "versions.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    names = {str(entry["version"]) for entry in before} | {version}
    newest_first = sorted(names, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    return [
        {"version": name, "title": name, "aliases": ["latest"] if at == 0 else []}
        for at, name in enumerate(newest_first)
    ]


def main(folder: Path) -> None:
    """Build, and add to the list."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "mkdocs-versions.yml"]
    subprocess.run([*command, "--site-dir", str((folder / version).resolve())], cwd=ROOT, check=True)
    versions = listed(folder, version)
    (folder / "versions.json").write_text(json.dumps(versions, indent=1) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(LEAD.format(versions[0]["version"]), encoding="utf-8")
    print(folder / version)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
