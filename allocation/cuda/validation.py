"""CuPy arrays and CUDA tensors as callers pass them in, checked on the device and wrapped."""

from __future__ import annotations

from typing import Any

from allocation.arguments import TOO_LARGE, beyond_range, plain_tensor, refusal_of_entries
from allocation.cuda.kernels import TYPES
from allocation.cuda.scores import DeviceScores
from allocation.errors import InvalidProblemError, warn_caller


def device_scores(scores: Any, name: str = "scores", check_finite: bool = True) -> DeviceScores:
    """Validate a CuPy array or a CUDA tensor and wrap it without a copy where its layout allows.

    NaN and +inf are found by a read for which the host waits. Without it nothing waits: +inf counts as the largest
    score, and which NaN count as large depends on their signs and on the engine.
    """
    matrix = _of_tensor(scores, name) if hasattr(scores, "detach") else _of_cupy(scores, name)
    if matrix.array.ndim != 2:
        raise InvalidProblemError(
            f"{name}: expected a matrix of shape (tokens, features), found {matrix.array.ndim} dimension(s) "
            f"{tuple(matrix.array.shape)}"
        )
    if check_finite and not matrix.is_integer and matrix.n_edges:
        _refuse(matrix, name)
    return matrix


def _of_cupy(scores: Any, label: str) -> DeviceScores:
    import cupy

    from allocation.cuda.cupy_device import CupyDevice

    name = scores.dtype.name
    _require_supported(name, label)
    device = CupyDevice(scores.device.id)
    with device.scope():
        array = cupy.ascontiguousarray(scores)
    return DeviceScores(array.view("int16") if name == "bfloat16" else array, name, device)


def _of_tensor(scores: Any, label: str) -> DeviceScores:
    scores = plain_tensor(scores, label)
    name = str(scores.dtype).removeprefix("torch.")
    _require_supported(name, label)
    tensor = scores.contiguous()
    try:
        import cupy  # noqa: F401

        from allocation.cuda.torch_device import TorchDevice
    except ImportError:
        warn_caller(
            "CuPy is not installed: CUDA tensors are selected by torch alone, which is slower; "
            "pip install 'sae-allocation[cuda12]' or 'sae-allocation[cuda13]'"
        )
        from allocation.cuda.torch_engine import TorchEngine

        return DeviceScores(tensor, name, TorchEngine(str(tensor.device)))
    return DeviceScores(tensor, name, TorchDevice(tensor.device.index))


def _require_supported(name: str, label: str) -> None:
    if name not in TYPES and name not in ("int8", "int16", "int32", "uint8", "uint16", "uint32"):
        raise InvalidProblemError(
            f"{label}: on CUDA expected float16, bfloat16, float32, float64 or integers up to int64, found {name}"
        )


def _refuse(matrix: DeviceScores, label: str) -> None:
    """One read on the device, and one look at four numbers; a second read of float64, which alone may be too large."""
    with matrix.scope():
        counts = [int(number) for number in matrix.engine.inspect(matrix)]
        if matrix.type == "float64":
            xp = matrix.namespace
            beyond = xp.nonzero(xp.reshape(beyond_range(matrix.array), (-1,)))[0]
            counts += [len(beyond), int(beyond[0]) if len(beyond) else 0]
    for kind, count, first in zip(("NaN", "+inf", TOO_LARGE), counts[::2], counts[1::2], strict=False):
        if count:
            raise refusal_of_entries(label, count, kind, divmod(first, matrix.shape[1]))
