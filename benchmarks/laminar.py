"""Three nested levels with floors on the CPU, against one read of the scores."""

from __future__ import annotations

import tracemalloc

import allocation as al
from benchmarks.harness import alternating, arguments, report
from benchmarks.selection import BUDGET, SHAPE, generic

DOCUMENTS = 16


def main() -> None:
    """Token floors and caps, document floors and caps, a budget."""
    options = arguments(__doc__ or "").parse_args()
    scores = generic()
    share = SHAPE[0] // DOCUMENTS
    groups = [al.Group(range(n * share, (n + 1) * share), cap=8500, floor=8000) for n in range(DOCUMENTS)]
    cases = {
        "tokens 4..64, documents 8000..8500, budget": {"token_caps": 64, "token_floors": 4, "token_groups": groups},
        "tokens 4..64, budget": {"token_caps": 64, "token_floors": 4},
        "documents 8000..8500, budget": {"token_groups": groups},
    }
    rows = []
    for name, limits in cases.items():
        problem = al.Problem(scores, budget=BUDGET, **limits)
        times = alternating({"floor": lambda: scores.max(), "solve": lambda p=problem: al.solve(p)}, options.repeats)
        tracemalloc.start()
        solution = al.solve(problem)
        peak = tracemalloc.get_traced_memory()[1] / scores.nbytes
        tracemalloc.stop()
        assert solution.stats["solver"] == "Laminar"
        assert al.verify(problem, solution).optimal
        rows.append([name, 1e3 * times["floor"], 1e3 * times["solve"], times["solve"] / times["floor"], peak])
    report(
        "laminar",
        ["limits", "floor ms", "solve ms", "solve / floor", "peak / scores"],
        rows,
        f"float32 {SHAPE[0]} x {SHAPE[1]}",
    )


if __name__ == "__main__":
    main()
