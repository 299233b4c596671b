"""The windows of a text in the parts that become shards: packed in memory, or from a stream in blocks."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from sae_torch.activations.beginning import beginning
from sae_torch.activations.config import HarvestConfig
from sae_torch.activations.streams import MixedDocuments, StreamedText
from sae_torch.activations.windows import Windows, encoded, pack_windows, with_beginning
from sae_torch.errors import InputError
from sae_torch.files import write_text

# Beside the shards: where in the text each block begins, so that a resumed harvest does not read it from the start.
PLACES = ".places.json"


class WindowParts(Protocol):
    """Windows by the number of the shard that they become."""

    def part(self, index: int) -> Windows | None:
        """Windows of one shard; None past the end."""
        ...

    def holds(self, index: int) -> bool:
        """Whether there are any."""
        ...

    def most(self) -> int | None:
        """How many windows there are in all; None where only reading to the end would tell."""
        ...

    @property
    def ended(self) -> str:
        """Why there are no more, of a mixture whose end has been read; else empty."""
        ...


def window_parts(
    config: HarvestConfig, split: str, tokenizer: Any, folders: Sequence[Path] = (), keep: bool = False
) -> WindowParts:
    """The windows that are harvested.

    Parameters
    ----------
    config : HarvestConfig
        From which text.
    split : {"train", "dev", "test"}
        Of which documents.
    tokenizer : transformers tokenizer
        Of the model.
    folders : sequence of Path
        Folders of the harvest's shards, where places in a stream may be kept.
    keep : bool
        Whether to keep them there: one process does.
    """
    begin = beginning(tokenizer, config.begins)
    text = config.text
    if isinstance(text, StreamedText):
        return StreamedWindows(
            text, split, tokenizer, config.window, config.seed, begin, config.windows_per_shard,
            tuple(folders), keep,
        )  # fmt: skip
    # one at a time where the text can be read so, since only the tokens stay
    documents = getattr(text, "iterate", text.documents)(split)
    packed = pack_windows(tokenizer, documents, config.window, config.seed, begin)
    return PackedWindows(packed, config.windows_per_shard)


@dataclass(frozen=True)
class PackedWindows:
    """All windows in memory, shuffled with one another."""

    windows: Windows
    per_part: int

    def part(self, index: int) -> Windows | None:
        """Windows of one shard; None past the end."""
        return self.windows.part(index * self.per_part, (index + 1) * self.per_part) if self.holds(index) else None

    def holds(self, index: int) -> bool:
        """Whether there are any."""
        return index * self.per_part < len(self.windows)

    def most(self) -> int:
        """How many windows there are in all."""
        return len(self.windows)

    @property
    def ended(self) -> str:
        """All of the text is there."""
        return ""


@dataclass(eq=False)
class StreamedWindows:
    """Windows of a stream, of which one block is in memory.

    A block is the next `shuffle` windows of the documents one after another, in an order drawn from seed and block. So
    a block follows from the place where it begins, and places are all that a resumed harvest needs.
    """

    text: StreamedText
    split: str
    tokenizer: Any
    window: int
    seed: int
    begin: int | None
    per_part: int
    folders: tuple[Path, ...] = ()
    keep: bool = False
    # where each block begins: the place before the document in which it does, and the tokens before it there
    _starts: list[Any] = field(default_factory=lambda: [[None, 0]])
    _ended: bool = False
    _block: tuple[int, Windows | None] = (-1, None)
    _reading: _Tokens | None = None

    def __post_init__(self) -> None:
        for folder in self.folders:
            # places only save time; what cannot be read is found again
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                kept = json.loads((folder / PLACES).read_text(encoding="utf-8"))
                if kept["sha256"] == _digest(kept["starts"]):
                    self._starts = max(self._starts, kept["starts"], key=len)

    @property
    def per_block(self) -> int:
        """Windows of a block: whole shards."""
        return -(-self.text.shuffle // self.per_part) * self.per_part

    def part(self, index: int) -> Windows | None:
        """Windows of one shard; None past the end."""
        block, first = divmod(index * self.per_part, self.per_block)
        windows = self._of_block(block)
        if windows is None or first >= len(windows):
            return None
        return windows.part(first, first + self.per_part)

    def holds(self, index: int) -> bool:
        """Whether there are any; a block before another is full."""
        block, first = divmod(index * self.per_part, self.per_block)
        if block + 1 < len(self._starts):
            return True
        windows = self._of_block(block)
        return windows is not None and first < len(windows)

    def most(self) -> None:
        """Only reading to the end would tell."""

    @property
    def ended(self) -> str:
        """Which source of a mixture was due and had no more documents."""
        source = None if self._reading is None else self._reading.documents.ended
        return "" if source is None or len(self.text.sources) == 1 else f"{source} ended while it was due"

    def _of_block(self, block: int) -> Windows | None:
        if self._block[0] == block:
            return self._block[1]
        self._block = (-1, None)  # before the next one is made
        at = min(block, len(self._starts) - 1)
        if self._reading is None or self._reading.block != at:
            self._reading = _Tokens(self, at)
        windows = self._packed(at)
        while at < block and at + 1 < len(self._starts):
            at += 1
            windows = self._packed(at)
        windows = windows if at == block else None
        self._block = (block, windows)
        return windows

    def _packed(self, block: int) -> Windows | None:
        """The block at which the reading stands; the start of the next one is known after it."""
        assert self._reading is not None
        own = self.window - (self.begin is not None)
        token_ids, documents, names, start = self._reading.take(self.per_block * own)
        count = len(token_ids) // own
        if start is not None and block + 1 == len(self._starts):
            self._starts.append(start)
            for folder in self.folders if self.keep else ():
                write_text(folder / PLACES, json.dumps({"starts": self._starts, "sha256": _digest(self._starts)}))
        if count == 0:
            if block == 0:
                raise InputError(f"text: expected at least one window of {own} tokens, found {len(token_ids)} tokens")
            return None
        drawn = hashlib.sha256(f"{self.seed}\0{block}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(drawn[:8]) >> 1)
        order = torch.randperm(count, generator=generator)
        shape, cut = (count, own), count * own
        return with_beginning(token_ids[:cut].view(shape)[order], documents[:cut].view(shape)[order], names, self.begin)


class _Tokens:
    """The tokens of a stream from the start of a block on."""

    def __init__(self, windows: StreamedWindows, block: int) -> None:
        place, self.skipped = windows._starts[block]
        self.block, self.tokenizer = block, windows.tokenizer
        self.documents = MixedDocuments(windows.text, windows.split, place)
        # the document in which the last block ended: its tokens that are left, name, place before it, tokens gone
        self.rest: tuple[Tensor, str, Any, int] | None = None

    def take(self, wanted: int) -> tuple[Tensor, Tensor, tuple[str, ...], Any]:
        """So many tokens, for each the index of its document, their names, and the start of what follows.

        The start is None at the end of the text.
        """
        ids: list[Tensor] = []
        names: list[str] = []
        held, place, gone = 0, None, 0
        while held < wanted:
            found = self._next()
            if found is None:
                break
            part, name, place, gone = found
            used = min(len(part), wanted - held)
            ids.append(part[:used].clone())
            names.append(name)
            held, gone = held + used, gone + used
            self.rest = (part[used:], name, place, gone)
        owners = [torch.full((len(part),), index, dtype=torch.int32) for index, part in enumerate(ids)]
        self.block += 1
        empty = torch.empty(0, dtype=torch.int32)
        start = [place, gone] if held == wanted else None
        return torch.cat([empty, *ids]), torch.cat([empty, *owners]), tuple(names), start

    def _next(self) -> tuple[Tensor, str, Any, int] | None:
        if self.rest is not None and len(self.rest[0]):
            rest, self.rest = self.rest, None
            return rest
        place = self.documents.place
        found = self.documents.next()
        if found is None:
            return None
        document, source = found
        ids = encoded(self.tokenizer, document.text)
        self.documents.count(source, len(ids))
        gone, self.skipped = self.skipped, 0
        return ids[gone:], document.name, place, gone


def _digest(starts: Any) -> str:
    return hashlib.sha256(json.dumps(starts).encode()).hexdigest()
