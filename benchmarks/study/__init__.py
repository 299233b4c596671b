"""The evidence study: what allocation delivers of what is claimed for it, measured.

`make study` trains and measures what is missing, one line of `benchmarks/results/study.jsonl` per finished run;
`make study-report` rebuilds the tables, pictures and sentences of `docs/evidence.md` from those lines.
"""
