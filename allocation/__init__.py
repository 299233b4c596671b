"""Exact token-feature allocation: state a constrained matching of tokens with features, solve it, prove it."""

from allocation import plot
from allocation.arguments import is_on_device
from allocation.certificate import Certificate, verify
from allocation.cuda.scores import FixedTop
from allocation.errors import InfeasibleError, InvalidProblemError, NotCertifiedError, UnsupportedProblemError
from allocation.exceeding import count_exceeding, exceeding
from allocation.problem import Group, Problem, balanced_choice, feature_choice, mutual_choice, token_choice
from allocation.quotas import (
    ZIPF_ALPHA,
    ZIPF_BETA,
    QuotaLedger,
    ZipfFit,
    apportion,
    fit_zipf,
    uniform_quotas,
    zipf_quotas,
    zipf_weights,
)
from allocation.ranks import Part, Ranks, mpi_ranks, thread_ranks
from allocation.rough import Rough
from allocation.scores import ScoresLike
from allocation.soft import SoftSolution, soft_solve
from allocation.solution import Price, Prices, Solution, Status
from allocation.solve import Auto, solve
from allocation.solvers import Assignment, Laminar, LinearProgram, Options, Solver, TopSelection, TwoSided
from allocation.solvers.linear_program import to_linear_program
from allocation.solvers.programme import ProgramArrays
from allocation.solvers.top_selection.fixed import select_fixed
from allocation.solvers.top_selection.stream import select_stream
from allocation.threads import map_blocks

__version__ = "0.1.0"

__all__ = [
    "ZIPF_ALPHA",
    "ZIPF_BETA",
    "Assignment",
    "Auto",
    "Certificate",
    "FixedTop",
    "Group",
    "InfeasibleError",
    "InvalidProblemError",
    "Laminar",
    "LinearProgram",
    "NotCertifiedError",
    "Options",
    "Part",
    "Price",
    "Prices",
    "Problem",
    "ProgramArrays",
    "QuotaLedger",
    "Ranks",
    "Rough",
    "ScoresLike",
    "SoftSolution",
    "Solution",
    "Solver",
    "Status",
    "TopSelection",
    "TwoSided",
    "UnsupportedProblemError",
    "ZipfFit",
    "apportion",
    "balanced_choice",
    "count_exceeding",
    "exceeding",
    "feature_choice",
    "fit_zipf",
    "is_on_device",
    "map_blocks",
    "mpi_ranks",
    "mutual_choice",
    "plot",
    "select_fixed",
    "select_stream",
    "soft_solve",
    "solve",
    "thread_ranks",
    "to_linear_program",
    "token_choice",
    "uniform_quotas",
    "verify",
    "zipf_quotas",
    "zipf_weights",
]
