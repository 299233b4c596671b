"""One cell of the grid: a method in a setting, and what it trains with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# Raised when the fixed part of the training recipe changes: earlier runs then no longer count.
RECIPE = 1


@dataclass(frozen=True)
class Setting:
    """What methods are compared in.

    Parameters
    ----------
    source
        Where activations come from: ``"hidden_states[n]"`` or ``"synthetic"``.
    k, n_features
        Mean features per token, and width.
    """

    source: str
    k: int
    n_features: int


@dataclass(frozen=True)
class Cell:
    """One run: a training and what it is judged on."""

    source: str
    k: int
    n_features: int
    method: str
    auxiliary: str
    learning_rate: float
    split: str
    seed: int
    recipe: int = RECIPE

    @classmethod
    def of(cls, setting: Setting, **others: Any) -> Cell:
        """A run in a setting."""
        return cls(**asdict(setting), **others)

    @property
    def setting(self) -> Setting:
        """What it is compared in."""
        return Setting(self.source, self.k, self.n_features)

    @property
    def name(self) -> str:
        """In one line, for people."""
        auxiliary = "" if self.auxiliary == "none" else f" with aux {self.auxiliary}"
        where = f"{self.source}, k {self.k}, F {self.n_features}"
        return f"{self.method}{auxiliary}, {where}, rate {self.learning_rate:g}, {self.split}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Name of the folder for its weights."""
        letters = "".join(c if c.isalnum() or c == "." else "-" for c in self.name)
        return f"{letters}-{self.recipe}"
