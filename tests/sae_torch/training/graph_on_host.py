"""What a CUDA graph does, on the processor: the operations of a capture again, on the memory they were captured on.

Whatever Python decided during the capture is held fast, as on a GPU; so is every address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class GraphOnHost(TorchDispatchMode):
    """Records what runs inside; afterwards the memory is as if nothing had run, until `replay`."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[Any, Any, Any, Any]] = []
        self.written: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[number] if number < len(args) else kwargs.get(argument.name)
                for tensor in tree_leaves(given):
                    whole = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
                    self.written.setdefault(whole.data_ptr(), (whole, whole.clone()))
        result = func(*args, **kwargs)
        self.launches.append((func, args, kwargs, result))
        return result

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for whole, before in self.written.values():
            whole.copy_(before)

    def replay(self) -> None:
        """Everything once more; what an operation makes goes where it went at first."""
        with torch.no_grad():
            for func, args, kwargs, result in self.launches:
                given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in given:
                        old.copy_(new)


def captured(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """As `sae_torch.training.graph.captured`."""
    graph = GraphOnHost()
    with graph:
        answer = work()
    return graph.replay, answer
