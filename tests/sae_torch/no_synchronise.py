"""A watch for what makes the host wait for a GPU, on tensors of the processor that stand for the GPU's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sae_torch import codes
from sae_torch.choices import thresholds

LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim", "bincount")


class NoLook(TorchDispatchMode):
    """Every operation whose size or order of execution depends on a number is an error; but for numbers of the host."""

    def __init__(self, on_host: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.on_host = {tensor.data_ptr() for tensor in on_host}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in LOOKS:
            assert args[0].data_ptr() in self.on_host, f"{name} looks at a number"
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{name} counts a mask"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_synchronise(on_host: Iterable[Tensor] = ()) -> Iterator[None]:
    """Neither by an operation nor by NumPy; sorting and counting are those of any device but the processor."""
    watch, numpy = NoLook(on_host), Tensor.numpy

    def read(tensor: Tensor, **how: Any) -> Any:
        assert tensor.data_ptr() in watch.on_host, "NumPy reads a tensor"
        return numpy(tensor, **how)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Tensor, "numpy", read))
        stack.enter_context(mock.patch.object(codes, "_stable_order", lambda g, n: g.argsort(stable=True)))
        stack.enter_context(mock.patch.object(codes, "_counts", codes._counts_by_adding))
        stack.enter_context(
            mock.patch.object(thresholds, "count_above", lambda s, t: (s > t).sum(dim=0 if t.ndim else None))
        )
        stack.enter_context(watch)
        yield
