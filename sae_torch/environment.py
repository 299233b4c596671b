"""What a result depends on besides its configuration: versions, threads, CPU, code."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import allocation

PACKAGES = ("torch", "numpy", "scipy")


def environment(device: str) -> dict[str, str]:
    """Versions, threads and CPU: where all are equal, a run on the CPU repeats to the last bit."""
    facts = {"sae-allocation": allocation.__version__, "python": platform.python_version()}
    facts |= {name: importlib.metadata.version(name) for name in PACKAGES}
    facts |= {
        "threads": str(torch.get_num_threads()),
        "processor": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }
    if torch.device(device).type == "cuda":
        facts["card"] = torch.cuda.get_device_name(device)
    return facts


def difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What distinguishes two environments, sources or configurations, in words; empty if they are equal."""
    names = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    return ", ".join(f"{name} {there.get(name, 'absent')} there, {here.get(name, 'absent')} here" for name in names)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def code_version() -> str:
    """Name and version of the code, as the provenance of a harvest names it."""
    try:
        return f"sae-allocation {version('sae-allocation')}"
    except PackageNotFoundError:  # a source tree that is not installed
        return "sae-allocation (not installed)"


def package_versions() -> dict[str, str]:
    """Versions that can change a figure."""
    versions = {"Python": platform.python_version()}
    for name in ("sae-allocation", "torch", "transformers", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
            versions[name] = "not installed"
    return versions
