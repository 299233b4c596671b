"""Where numbers go, and that nothing depends on it."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from sae_torch.training.metrics import METRICS, JsonLines, open_sinks, require_services
from sae_torch.training.run_config import MetricsOptions


def test_a_resumed_run_cuts_off_what_lies_beyond_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    sink = JsonLines(path, after_step=0)
    for step in (10, 20, 30):
        sink.write(step, "a", {"loss": step / 3})
    sink.close()
    with path.open("a") as stream:
        stream.write('{"step": 40, "sa')  # killed while writing
    sink = JsonLines(path, after_step=20)
    sink.write(30, "a", {"loss": 0.5})
    sink.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [
        {"step": 10, "sae": "a", "loss": 10 / 3},
        {"step": 20, "sae": "a", "loss": 20 / 3},
        {"step": 30, "sae": "a", "loss": 0.5},
    ]


class Service(types.ModuleType):
    """Stands in for wandb and trackio, whose `init`, `log` and `finish` it records."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> Service:
        self.calls.append(("init", options))
        return self

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.calls.append(("log", (values, step)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_the_same_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    sinks = open_sinks(MetricsOptions(**{name: "project"}), tmp_path, 0, {"k": 3})
    for sink in sinks:
        sink.write(10, "mutual-k3", {"loss": 1.5})
        sink.close()
    (_, options), (_, (values, step)), (last, _) = service.calls
    assert options["project"] == "project"
    assert options["config"] == {"k": 3}
    assert values["mutual-k3/loss"] == 1.5
    # a "step" among the values would be renamed, and "never", trackio's own default, would split a resumed run
    assert step == 10
    assert "step" not in values
    assert options["resume"] == "allow"
    assert last == "finish"
    assert json.loads((tmp_path / METRICS).read_text()) == {"step": 10, "sae": "mutual-k3", "loss": 1.5}


def test_tensorboard_reads_what_is_written(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sinks = open_sinks(MetricsOptions(tensorboard=True), tmp_path, 0, {})
    for step in (10, 20):
        for sink in sinks:
            sink.write(step, "mutual-k3", {"loss": step / 2})
    for sink in sinks:
        sink.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("mutual-k3/loss")] == [(10, 5.0), (20, 10.0)]


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_service_that_is_missing_is_named_before_anything_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    given: Any = {name: True if name == "tensorboard" else "project"}
    with pytest.raises(ModuleNotFoundError, match=f"metrics.{name}: {name} is not installed, run `pip install {name}`"):
        require_services(MetricsOptions(**given))
