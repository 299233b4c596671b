"""Results of several autoencoders as one aligned table and as numbers for a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from sae_torch.evaluation.metrics import Quality
from sae_torch.evaluation.model_loss import ModelLoss


@dataclass(frozen=True)
class Result:
    """Held-out figures of one autoencoder.

    Parameters
    ----------
    name : str
        Name of the autoencoder in the table.
    nmse, l0 : float
        See `Quality`.
    dead : int
        Features that never fire, see `Quality`.
    ce_clean, ce_spliced, ce_mean, ce_zero : float
        Cross-entropy of the language model in nats per token, see `ModelLoss`.
    recovered_zero, recovered_mean : float
        Loss recovered against zero and against mean ablation, 1 is all of it.

    Examples
    --------
    >>> from sae_torch.evaluation import Result
    >>> Result("token choice", 0.2, 32.0, 3, 3.5, 3.7, 8.4, 11.1, 0.9737, 0.9592).as_json()["nmse"]
    0.2
    """

    name: str
    nmse: float
    l0: float
    dead: int
    ce_clean: float
    ce_spliced: float
    ce_mean: float
    ce_zero: float
    recovered_zero: float
    recovered_mean: float

    @classmethod
    def of(cls, name: str, quality: Quality, loss: ModelLoss) -> Result:
        """Figures of the autoencoder that `loss` knows by `name`."""
        return cls(
            name=name,
            nmse=quality.nmse,
            l0=quality.l0,
            dead=quality.dead,
            ce_clean=loss.clean,
            ce_spliced=loss.spliced[name],
            ce_mean=loss.mean,
            ce_zero=loss.zero,
            recovered_zero=loss.recovered(name, "zero"),
            recovered_mean=loss.recovered(name, "mean"),
        )

    def as_json(self) -> dict[str, float | int | str]:
        """Plain numbers for a JSON file."""
        return asdict(self)


@dataclass(frozen=True)
class Column:
    """One figure of a result.

    Parameters
    ----------
    heading, unit : str
        The two lines above it in the terminal.
    label : str
        Its name where there is room for one.
    cell : callable Result -> str
        Its text.
    """

    heading: str
    unit: str
    label: str
    cell: Callable[[Result], str]


COLUMNS = (
    Column("NMSE", "", "NMSE", lambda r: f"{r.nmse:.4f}"),
    Column("L0", "", "L0", lambda r: f"{r.l0:.2f}"),
    Column("dead", "features", "Dead features", lambda r: f"{r.dead}"),
    Column("CE clean", "nats", "CE clean", lambda r: f"{r.ce_clean:.3f}"),
    Column("spliced", "nats", "CE spliced", lambda r: f"{r.ce_spliced:.3f}"),
    Column("mean-abl.", "nats", "CE mean-ablated", lambda r: f"{r.ce_mean:.3f}"),
    Column("zero-abl.", "nats", "CE zero-ablated", lambda r: f"{r.ce_zero:.3f}"),
    Column("recovered", "of zero", "Recovered, zero", lambda r: f"{100 * r.recovered_zero:.2f} %"),
    Column("recovered", "of mean", "Recovered, mean", lambda r: f"{100 * r.recovered_mean:.2f} %"),
)


def text_table(results: Sequence[Result]) -> str:
    """Results as one aligned table for the terminal; the first column is left-aligned, numbers right.

    Examples
    --------
    >>> row = Result("token choice", 0.2, 32.0, 3, 3.5, 3.7, 8.4, 11.1, 0.9737, 0.9592)
    >>> print(text_table([row]))
    choice          NMSE     L0      dead  CE clean  spliced  mean-abl.  zero-abl.  recovered  recovered
                                 features      nats     nats       nats       nats    of zero    of mean
    ------------  ------  -----  --------  --------  -------  ---------  ---------  ---------  ---------
    token choice  0.2000  32.00         3     3.500    3.700      8.400     11.100    97.37 %    95.92 %
    """
    return aligned(
        ["choice", *(column.heading for column in COLUMNS)],
        ["", *(column.unit for column in COLUMNS)],
        [[result.name, *(column.cell(result) for column in COLUMNS)] for result in results],
    )


def aligned(headings: Sequence[str], units: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table for the terminal; the first column is left-aligned, numbers right.

    Examples
    --------
    >>> print(aligned(["name", "norm"], ["", "m"], [["one", "2.5"], ["another", "12.5"]]))
    name     norm
                m
    -------  ----
    one       2.5
    another  12.5
    """
    rows = [list(headings), list(units)] if any(units) else [list(headings)]
    widths = [max(len(row[column]) for row in [*rows, *cells]) for column in range(len(headings))]
    lines = [
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [*rows, ["-" * width for width in widths], *cells]
    ]
    return "\n".join(lines)
