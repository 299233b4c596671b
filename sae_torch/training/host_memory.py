"""Whether autoencoders fit in memory, found before they are made: the kernel kills without a word."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from sae_torch.errors import InputError

_FLOAT = 4
_CGROUP, _OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# What the kernel gives back before it kills: cached files and objects.
_CACHED: tuple[str, ...] = ("inactive_file", "active_file", "slab_reclaimable")


@dataclass(frozen=True)
class Sizes:
    """One autoencoder that is trained, by what it holds."""

    n_features: int
    d_in: int
    d_out: int
    feature_chunk: int | None = None
    is_rough: bool = False
    """Whether scores may be bfloat16."""

    @property
    def weights(self) -> int:
        """Bytes of encoder and decoder."""
        return _FLOAT * self.n_features * (self.d_in + self.d_out)

    def scores(self, tokens: int) -> int:
        """Bytes of the scores of a batch, and of what the choice compares: measured, it is 9 to 16 a float32 score."""
        return (4 if self.is_rough else 8) * tokens * min(self.n_features, self.feature_chunk or self.n_features)


def available_memory(device: str) -> int | None:
    """Bytes that are free: of a card, or of this machine and the control groups that hold the process."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [free for free in (_of_machine(), *_of_groups()) if free is not None]
    return min(found, default=None)


def _of_machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _of_groups() -> list[int | None]:
    """What every control group above the process leaves, of both versions."""
    try:
        entries = [line.split(":", 2) for line in _OWN_GROUPS.read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in entries:
        if controllers == "":
            root, names, cached = _CGROUP, ("memory.max", "memory.current"), _CACHED
        elif "memory" in controllers.split(","):
            root, names = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            cached = tuple(f"total_{name}" for name in _CACHED)
        else:
            continue
        inner = root / path.lstrip("/")
        # in a container the path may be that of the host, and its own group is the root
        for folder in (inner, *inner.parents):
            if folder == root or root in folder.parents:
                found += [_of_group(folder, *names, cached)]
    return found


def _of_group(folder: Path, limit: str, usage: str, reclaimable: tuple[str, ...]) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        if most == "max":
            return None
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        freed = sum(int(stat.get(name, 0)) for name in reclaimable)
        return int(most) - int((folder / usage).read_text()) + freed
    except (OSError, ValueError):
        return None


def require_memory(saes: Iterable[Sizes], tokens: int, device: str, data: int = 1, features: int = 1) -> None:
    """Refuse what cannot fit: weights, gradients and two moments of Adam of all, and the scores of one.

    A lower bound, so that nothing is refused that would have fitted; what lies between may still be killed.

    Parameters
    ----------
    saes : iterable of Sizes
        All that are trained side by side.
    tokens : int
        Tokens of a batch.
    device : str
        Where.
    data, features : int
        Processes that share tokens and features; those on this machine count together.

    Raises
    ------
    InputError
        If they need more than is free; the text has the numbers and what to lower.
    """
    free = available_memory(device)
    saes = list(saes)
    on_card = torch.device(device).type == "cuda"
    if free is None or not saes:
        return
    here = 1 if on_card else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    weights = here * sum(sae.weights for sae in saes) // features
    # on a card the scores of a batch are made in blocks where they do not fit
    scores = 0 if on_card else here * max(sae.scores(tokens) for sae in saes) // (data * features)
    needed = 4 * weights + scores
    if needed <= free:
        return
    if scores > 4 * weights:
        lower = "lower reader.batch_size, or set sae.feature_chunk"
    elif len(saes) > 1:
        lower = f"train fewer than {len(saes)} side by side, or lower sae.n_features"
    else:
        fitting = int(saes[0].n_features * free / needed)
        lower = f"lower sae.n_features to {fitting}, or share it between machines with parallel.features"
    parts = f"weights {_gb(weights)}, gradients {_gb(weights)}, moments of Adam {_gb(2 * weights)}"
    scored = f", scores of a batch {_gb(scores)}" if scores else ""
    where = device if on_card else "memory"
    raise InputError(
        f"{where}: expected at most the {_gb(free)} GB that are free, found {_gb(needed)} GB ({parts}{scored}); {lower}"
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"
