"""Where the numbers of a run go: JSON lines always, tracking services if asked for; none changes the training."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sae_torch.files import write_text
from sae_torch.training.run_config import MetricsOptions

METRICS = "metrics.jsonl"


class Sink(Protocol):
    """A place that takes the numbers of a step."""

    def write(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """Numbers of one autoencoder after `step` steps."""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class JsonLines:
    """One JSON object a line: ``step``, ``sae`` and the numbers.

    A resumed run cuts off what lies beyond the checkpoint it goes on from, so that no step comes twice.
    """

    def __init__(self, path: Path, after_step: int) -> None:
        lines: list[str] = []
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_before(line, after_step)]
        write_text(path, "".join(f"{line}\n" for line in lines))
        self.stream = path.open("a", encoding="utf-8")

    def write(self, step: int, name: str, values: Mapping[str, float]) -> None:
        """One line."""
        self.stream.write(json.dumps({"step": step, "sae": name, **values}) + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Close the file."""
        self.stream.close()


def _is_before(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):  # the process was killed while it wrote
        return False


class _TensorBoard:
    def __init__(self, folder: Path, after_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _missing("tensorboard") from error
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=after_step + 1)

    def write(self, step: int, name: str, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(f"{name}/{key}", value, step)

    def close(self) -> None:
        self.writer.close()


class _Wandb:
    def __init__(self, project: str, folder: Path, configuration: Mapping[str, Any]) -> None:
        # the same folder is the same run: a resumed one goes on in it
        run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self.run = _service("wandb").init(
            project=project, name=folder.name, id=run_id, resume="allow", dir=str(folder), config=dict(configuration)
        )

    def write(self, step: int, name: str, values: Mapping[str, float]) -> None:
        self.run.log({f"{name}/{key}": value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self.run.finish()


class _Trackio:
    def __init__(self, project: str, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.service = _service("trackio")
        # the same name is the same run: a resumed one goes on in it
        self.service.init(project=project, name=folder.name, resume="allow", config=dict(configuration))

    def write(self, step: int, name: str, values: Mapping[str, float]) -> None:
        self.service.log({f"{name}/{key}": value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self.service.finish()


def open_sinks(options: MetricsOptions, folder: Path, after_step: int, configuration: Mapping[str, Any]) -> list[Sink]:
    """Every place that the options ask for, metrics.jsonl first.

    Raises
    ------
    ModuleNotFoundError
        If a service that is asked for is not installed; the text has the install line.
    """
    sinks: list[Sink] = [JsonLines(folder / METRICS, after_step)]
    if options.tensorboard:
        sinks.append(_TensorBoard(folder, after_step))
    if options.wandb is not None:
        sinks.append(_Wandb(options.wandb, folder, configuration))
    if options.trackio is not None:
        sinks.append(_Trackio(options.trackio, folder, configuration))
    return sinks


def require_services(options: MetricsOptions) -> None:
    """Before hours are spent: the services asked for can be imported."""
    wanted = {"tensorboard": options.tensorboard, "wandb": options.wandb, "trackio": options.trackio}
    for name, asked in wanted.items():
        if asked:
            _service(name)


def _service(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(name) from error


def _missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"metrics.{name}: {name} is not installed, run `pip install {name}`")
