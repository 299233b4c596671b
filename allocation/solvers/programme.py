"""A linear programme as arrays, and as a text file that every solver of such programmes reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allocation.arguments import shown
from allocation.arrays import Indices
from allocation.errors import InvalidProblemError
from allocation.notebook import card

if TYPE_CHECKING:
    from scipy.sparse import csr_array

# Price vectors in the order of the rows of the programme.
BLOCKS = ("budget", "tokens", "features", "token_groups", "feature_groups")


@dataclass(frozen=True, eq=False, repr=False)
class ProgramArrays:
    """Arrays of the linear programme: pass them to `scipy.optimize.linprog` as they are, or `write` them to a file.

    HiGHS, which linprog and milp call, takes a cost below 1e-7 as none: of small scores, divide `c` by its largest.

    Attributes
    ----------
    c : (edges,) float64
        Minus the scores, since linprog minimises.
    A_ub : (rows, edges) CSR
        One row per cap and one, negated, per floor.
    b_ub : (rows,) float64
    bounds : (0.0, 1.0)
    tokens, features : int64
        The two ends of every variable.
    blocks, members, signs : vectors over rows
        Which limit a row is: block name, index in the block, +1 for a cap and -1 for a floor.
    """

    c: NDArray[np.float64]
    A_ub: csr_array
    b_ub: NDArray[np.float64]
    bounds: tuple[float, float]
    tokens: Indices
    features: Indices
    blocks: NDArray[np.str_]
    members: Indices
    signs: Indices

    def write(self, path: str | Path) -> None:
        """Write the programme in the free MPS format, which HiGHS, Gurobi, SCIP and others read.

        They read every number as it is.

        Parameters
        ----------
        path : str or path
            A name that ends in ``.mps``; a file of that name is replaced. Variables are named ``x_TOKEN_FEATURE``, rows
            after their limits.

        Raises
        ------
        InvalidProblemError
            If the name ends otherwise, or its folder does not exist.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import allocation as al
        >>> program = al.to_linear_program(al.mutual_choice([[2.0, 1.0]], budget=1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     program.write(f"{folder}/x.mps")
        ...     print(pathlib.Path(folder, "x.mps").read_text()[:53])
        NAME allocation
        ROWS
         N cost
         L budget_0_cap
        COLUMNS
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InvalidProblemError(f"path: expected a name that ends in .mps, found {shown(path)}")
        path = Path(path)
        if path.suffix != ".mps":  # by which solvers know the format
            raise InvalidProblemError(f"path: expected a name that ends in .mps, found {path.name!r}")
        if path.is_dir():
            raise InvalidProblemError(f"path: expected a file, found the folder {str(path)!r}")
        if not path.parent.is_dir():
            raise InvalidProblemError(f"path: expected a folder that exists, found {str(path.parent)!r}")
        with path.open("w", encoding="ascii", newline="\n") as file:
            file.writelines(f"{line}\n" for line in _lines(self))

    def __repr__(self) -> str:
        return f"ProgramArrays({self.c.size} variables, {self.b_ub.size} rows, {self.A_ub.nnz} entries)"

    def _repr_html_(self) -> str:
        blocks = [(block, int((self.blocks == block).sum())) for block in BLOCKS]
        rows = [
            ("variables", f"{self.c.size:,}, each from 0 to 1"),
            ("rows", ", ".join(f"{count:,} of {block}" for block, count in blocks if count) or "none"),
            ("entries", f"{self.A_ub.nnz:,}"),
        ]
        return card("Linear programme", rows, "c, A_ub, b_ub and bounds, for linprog; write() makes a file of them.")


def _lines(program: ProgramArrays) -> Iterator[str]:
    """Sections in the order of the format; a variable is named after its token and feature, a row after its limit."""
    rows = [
        f"{block}_{member}_{'cap' if sign > 0 else 'floor'}"
        for block, member, sign in zip(
            program.blocks.tolist(), program.members.tolist(), program.signs.tolist(), strict=True
        )
    ]
    variables = [f"x_{i}_{j}" for i, j in zip(program.tokens.tolist(), program.features.tolist(), strict=True)]
    yield "NAME allocation"
    yield "ROWS"
    yield " N cost"
    yield from (f" L {row}" for row in rows)
    yield "COLUMNS"
    columns = program.A_ub.tocsc()
    starts, places, entries = columns.indptr.tolist(), columns.indices.tolist(), columns.data.tolist()
    for number, (variable, cost) in enumerate(zip(variables, program.c.tolist(), strict=True)):
        yield f" {variable} cost {cost!r}"
        for at in range(starts[number], starts[number + 1]):
            yield f" {variable} {rows[places[at]]} {entries[at]!r}"
    yield "RHS"
    yield from (f" limits {row} {limit!r}" for row, limit in zip(rows, program.b_ub.tolist(), strict=True))
    yield "BOUNDS"
    lower, upper = program.bounds
    for variable in variables:
        yield f" LO within {variable} {lower!r}"
        yield f" UP within {variable} {upper!r}"
    yield "ENDATA"
