"""Where work runs: a device by its name, or the card where there is one."""

from __future__ import annotations

import torch

from sae_torch.errors import InputError

AUTO = "auto"


def resolved_device(device: str) -> str:
    """A device that torch can use; ``"auto"`` is the CUDA device where there is one, else the CPU.

    Raises
    ------
    InputError
        If it is not there.

    Examples
    --------
    >>> from sae_torch.devices import resolved_device
    >>> resolved_device("cpu")
    'cpu'
    """
    if device == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device is {device!r}, which torch cannot use here ({str(error).splitlines()[0]})") from None
    return device


def described_device(device: str) -> str:
    """A device in words: ``cuda (NVIDIA H200, 140 GB)``, ``cpu (2 threads)``."""
    kind = torch.device(device).type
    if kind == "cpu":
        threads = torch.get_num_threads()
        return f"cpu ({threads} thread{'s' if threads > 1 else ''})"
    if kind != "cuda":
        return device
    properties = torch.cuda.get_device_properties(device)
    return f"{device} ({properties.name}, {properties.total_memory / 1e9:.0f} GB)"
