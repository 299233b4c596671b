"""A log in a notebook or a terminal is one line, not every float."""

from __future__ import annotations

from sae_torch.training.log import StepRecord, TrainLog


def test_a_log_is_one_line_and_a_table() -> None:
    log = TrainLog()
    assert repr(log) == "TrainLog(steps 0, tokens 0)"
    for step in range(1000):
        log.append(StepRecord(step, 1e-3, 512 * (step + 1), [800 / (step + 1), 800 / (step + 1), 0.0, 16.0, 900.0]))
    assert repr(log) == (
        "TrainLog(steps 1,000, tokens 512,000, loss 800 to 0.8, reconstruction 800 to 0.8, l0 16 to 16)"
    )
    assert ">512,000<" in log._repr_html_()
    assert log._repr_html_().count("<tr") == 5
