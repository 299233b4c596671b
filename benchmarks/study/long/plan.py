"""Which runs there are at more tokens, the most telling first."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.cell import Setting
from benchmarks.study.grid import Block, Plan
from benchmarks.study.long.sources import FIVE, FIVE_SHORT, FOUR, LARGE_NORMS, source
from benchmarks.study.methods import (
    BATCH_TOP_K,
    DECAYED,
    LARGER_FLOORS,
    LET_GO,
    MUTUAL,
    MUTUAL_THEN_FEATURE,
    SPARSIFY,
    TOKEN,
    VARIANTS,
)

# Tokens after which a run of all tokens is measured, beside its end.
MILESTONES = (400_000, 1_000_000, 2_500_000, 5_000_000)
# Rates are searched, variants compared and seeds matched with a million tokens.
SHORT = Setting(source(FIVE_SHORT), k=32, n_features=4608)
LONG = Setting(source(FIVE), k=32, n_features=4608)
WIDE_SHORT, WIDE = (replace(setting, n_features=18_432) for setting in (SHORT, LONG))
CURVES = (LONG.source,)
UNSEEN = replace(SHORT, source=source(FOUR))
NORMS = replace(SHORT, source=source(FIVE_SHORT, LARGE_NORMS))
OURS = (LARGER_FLOORS, LET_GO, MUTUAL, MUTUAL_THEN_FEATURE, TOKEN)
ALIGNED_ONES = tuple(name for name, method in VARIANTS.items() if method.variant == "aligned")
OTHER_VARIANTS = tuple(name for name in VARIANTS if name not in ALIGNED_ONES)

PLAN = Plan(
    (
        # the bar: our default beside the best peer, and what the first question asks
        Block(LONG, (LARGER_FLOORS, MUTUAL), rates_of=SHORT, seeds=1),
        Block(LONG, (SPARSIFY,), "k", rates_of=SHORT, seeds=1),
        Block(LONG, (TOKEN,), "k", rates_of=SHORT, seeds=1),
        Block(LONG, (BATCH_TOP_K,), rates_of=SHORT, seeds=1),
        Block(LONG, (LET_GO,), rates_of=SHORT, seeds=1),
        # what won on the development split became the default; the best peer has it too
        Block(LONG, tuple(DECAYED), rates_of=SHORT, seeds=1),
        # two seeds: their dictionaries are matched
        Block(SHORT, (LARGER_FLOORS, MUTUAL, TOKEN, *ALIGNED_ONES), seeds=2),
        Block(SHORT, (SPARSIFY,), seeds=1),
        Block(SHORT, (*OTHER_VARIANTS, MUTUAL_THEN_FEATURE), seeds=1),
        Block(SHORT, (BATCH_TOP_K,), seeds=1),
        Block(UNSEEN, (LARGER_FLOORS, MUTUAL, TOKEN, SPARSIFY), rates_of=SHORT, seeds=1),
        Block(LONG, (MUTUAL,), "zipf", rates_of=SHORT, seeds=1),
        Block(LONG, (MUTUAL_THEN_FEATURE,), rates_of=SHORT, seeds=1),
        Block(WIDE_SHORT, (LARGER_FLOORS, MUTUAL, TOKEN, SPARSIFY), seeds=1),
        Block(WIDE, (LARGER_FLOORS, MUTUAL), rates_of=WIDE_SHORT, seeds=1),
        Block(WIDE, (MUTUAL,), "zipf", rates_of=WIDE_SHORT, seeds=1),
        Block(WIDE, (TOKEN, SPARSIFY), "k", rates_of=WIDE_SHORT, seeds=1),
        Block(WIDE, (MUTUAL_THEN_FEATURE, BATCH_TOP_K), rates_of=SHORT, seeds=1),
        Block(NORMS, (LARGER_FLOORS, MUTUAL, TOKEN, SPARSIFY), rates_of=SHORT, seeds=1),
        Block(LONG, (LARGER_FLOORS, MUTUAL), rates_of=SHORT),
        Block(LONG, (SPARSIFY,), "k", rates_of=SHORT),
    ),
    rates=(4e-3, 2e-3),
)
