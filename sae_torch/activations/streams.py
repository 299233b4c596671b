"""Text that streams: never held as a whole, in one documented order, one source or a mixture of several."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from sae_torch.activations.corpora import require_share, split_of, split_rule
from sae_torch.activations.stream_sources import StreamSource, stream_source
from sae_torch.activations.text import SPLITS, Document
from sae_torch.errors import InputError


@dataclass(frozen=True)
class StreamedText:
    r"""Text larger than memory: one source, or a mixture by shares of the tokens.

    ::

        next document from the source i with the least  tokens_i / shares_i

    So after any number of documents a source is ahead of its share by less than one of its documents. A source that is
    due and has ended ends the text. Documents come in the order of their files; windows are shuffled within
    blocks of `shuffle` windows, each by `HarvestConfig.seed` and the number of the block.

    One document and two blocks are in memory. A document belongs to a split by the SHA-256 of `seed` and its text, as
    in `Corpus`: the same text never lies in two, whatever the source.

    Parameters
    ----------
    sources : tuple of str
        Each a folder of ``*.txt`` files or of ``.jsonl`` and ``.jsonl.gz`` files (below it too), one file of lines, or
        whatever `datasets` reads: Parquet, CSV, Arrow, a folder that it saved, a dataset as ``name`` or ``name:split``.
    shares : tuple of float
        Their shares of the tokens, positive, in any unit; empty for equal ones.
    field : str
        Field of lines and rows that holds the text.
    held_out : float
        Share of the documents in the test split, from 0 to below 0.5, and as many again in the development split.
    seed : int
        Seed of the split.
    shuffle : int
        Windows that are shuffled with one another, rounded up to whole shards; 1 keeps whole shards' order.

    Raises
    ------
    InputError
        If there is no source, a share is not positive, or `held_out` is no such share.

    Notes
    -----
    Names, sizes and times of change of the files identify the text, since reading all of it could take days: copy with
    times (``cp -p``), else it counts as another text.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from sae_torch.activations import StreamedText
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    ...     text = StreamedText((f"{folder}/a.jsonl",), held_out=0.0)
    ...     [document.text for document in text.iterate("train")]
    ['one', 'two']
    """

    sources: tuple[str, ...]
    shares: tuple[float, ...] = ()
    field: str = "text"
    held_out: float = 0.05
    seed: int = 0
    shuffle: int = 1 << 14

    def __post_init__(self) -> None:
        require_share(self.held_out)
        if not self.sources:
            raise InputError("sources: expected at least one, found none")
        if self.shares and len(self.shares) != len(self.sources):
            raise InputError(f"shares: expected one for each of {len(self.sources)} sources, found {len(self.shares)}")
        for source, share in zip(self.sources, self.shares, strict=False):
            if not 0 < share < float("inf"):
                raise InputError(f"mixture: expected a positive share of {source}, found {share:g}")
        if self.shuffle < 1:
            raise InputError(f"shuffle: expected at least 1 window, found {self.shuffle}")

    @property
    def provenance(self) -> dict[str, str]:
        """What identifies the text: sources, digest of names, sizes and times of their files, shares, split, order."""
        identity = [source.identity for source in self._sources]
        named = [Path(source).name if Path(source).exists() else source for source in self.sources]
        shares = f", shares {' : '.join(f'{float(share):g}' for share in self._shares)}" if len(named) > 1 else ""
        return {
            "text": " + ".join(named) + shares,
            "text_field": self.field,
            "text_files_sha256": hashlib.sha256(json.dumps([identity, [*map(str, self._shares)]]).encode()).hexdigest(),
            "text_split": split_rule(self.seed, self.held_out),
            "text_order": f"stream, shuffled in blocks of {self.shuffle} windows",
        }

    def iterate(self, split: str) -> Iterator[Document]:
        """Documents of one split in their order, with characters in place of tokens where sources are mixed.

        Raises
        ------
        InputError
            If there is no such split, or a source cannot be read.
        """
        mixed = MixedDocuments(self, split)
        while (found := mixed.next()) is not None:
            document, source = found
            mixed.count(source, len(document.text))
            yield document

    @cached_property
    def _sources(self) -> tuple[StreamSource, ...]:
        return tuple(stream_source(source, self.field) for source in self.sources)

    @property
    def _shares(self) -> tuple[Fraction, ...]:
        """Exact, so that no rounding decides which source is due."""
        return tuple(map(Fraction, self.shares or (1.0,) * len(self.sources)))

    def documents_of(self, source: int, split: str, place: Any) -> Iterator[tuple[Document, Any]]:
        """Documents of one source and split from a place on, each with the place after it."""
        for document, after in self._sources[source].read(place):
            if split_of(document.text, self.seed, self.held_out) == split:
                yield document, after


class MixedDocuments:
    """Documents of all sources of a text in their order, from a place between any two of them.

    Parameters
    ----------
    text : StreamedText
        The sources and their shares.
    split : {"train", "dev", "test"}
        Of which documents.
    place : list, optional
        Where it stood, as `place` said; None is the beginning.
    """

    def __init__(self, text: StreamedText, split: str, place: list[list[Any]] | None = None) -> None:
        if split not in SPLITS:
            raise InputError(f"split: expected one of {', '.join(map(repr, SPLITS))}, found {split!r}")
        self._shares = text._shares
        self._places: list[list[Any]] = [list(each) for each in place or [[None, 0]] * len(text.sources)]
        self._read = [text.documents_of(i, split, at) for i, (at, _) in enumerate(self._places)]
        self._names = text.sources
        self.ended: str | None = None  # the source that ended the text

    @property
    def place(self) -> list[list[Any]]:
        """For each source where it stands, and its tokens so far: plain values."""
        return [list(each) for each in self._places]

    def next(self) -> tuple[Document, int] | None:
        """The next document and its source; None at the end. The caller then counts its tokens."""
        due = min(range(len(self._places)), key=lambda source: self._places[source][1] / self._shares[source])
        found = next(self._read[due], None)
        if found is None:
            self.ended = self._names[due]
            return None
        document, self._places[due][0] = found
        return document, due

    def count(self, source: int, tokens: int) -> None:
        """Count the tokens of the document that came last."""
        self._places[source][1] += tokens
