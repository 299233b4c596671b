"""The GPU that `make gpu-check` runs on, and how it is timed; in a dry run the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import util

import torch


@dataclass
class Gpu:
    """The device of this run, and the seconds that this part of it may take."""

    device: str
    seconds: float = 60.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def is_real(self) -> bool:
        """Whether this is a GPU."""
        return self.device == "cuda"

    @property
    def name(self) -> str:
        """What results are called."""
        return torch.cuda.get_device_name() if self.is_real else "dry run"

    @property
    def has_kernels(self) -> bool:
        """Whether the kernels can run here."""
        return self.is_real and util.find_spec("cupy") is not None

    @property
    def has_time(self) -> bool:
        """Whether another benchmark may start."""
        return self.seconds_left > 0

    def wait(self) -> None:
        """Until everything launched has ended."""
        if self.is_real:
            torch.cuda.synchronize()

    @contextmanager
    def refusing_to_wait(self) -> Iterator[None]:
        """Inside, torch raises where the host would wait."""
        self.wait()
        if self.is_real:
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            if self.is_real:
                torch.cuda.set_sync_debug_mode("default")

    def times(self, sides: dict[str, Callable[[], object]], repeats: int = 7) -> dict[str, float]:
        """Median milliseconds of every side, in turn, each from an idle device to an idle device."""
        found: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(repeats + 2):
            for name, run in sides.items():
                self.wait()
                start = time.perf_counter()
                run()
                self.wait()
                if turn > 1:
                    found[name].append(1e3 * (time.perf_counter() - start))
        return {name: statistics.median(values) for name, values in found.items()}

    @property
    def seconds_left(self) -> float:
        """Until no other benchmark may start."""
        return self.seconds - (time.perf_counter() - self.started)

    def answers(self) -> bool:
        """Whether the device still works for this process, which a kernel's fault may end; frees what is held."""
        try:
            self.wait()
            self.free()
        except Exception as error:  # torch and CuPy raise errors of their own
            print(f"{type(error).__name__}: {error}", flush=True)
            return False
        return True

    def free(self) -> None:
        """Two libraries with a pool each must not hold on to what the other needs."""
        if self.is_real:
            torch.cuda.empty_cache()
        if self.has_kernels:
            import cupy

            cupy.get_default_memory_pool().free_all_blocks()


def verdict(is_met: bool) -> str:
    """How a target is judged."""
    return "met" if is_met else "missed"
