"""What the bits of a result depend on besides the configuration."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import allocation

PACKAGES = ("torch", "numpy", "scipy")


def environment(device: str) -> dict[str, str]:
    """Versions, threads and processor: where all are equal, a run on the CPU repeats to the last bit."""
    found = {"sae-allocation": allocation.__version__, "python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in PACKAGES}
    found |= {
        "threads": str(torch.get_num_threads()),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        found["card"] = torch.cuda.get_device_name(device)
    return found


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What distinguishes two environments, sources or configurations, in words; empty if they are equal."""
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return ", ".join(f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here" for name in names)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
