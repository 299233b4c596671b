"""What a step of the largest autoencoder holds on a GPU, counted on torch's device without numbers."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import allocation
import allocation.validation
import sae_torch as st
from allocation.cuda import validation as cuda_validation
from allocation.cuda.scores import DeviceScores
from allocation.cuda.torch_device import TorchDevice
from sae_torch.choices import thresholds
from sae_torch.training import trainer as trainer_module
from sae_torch.training.units import Units

TOKENS, D, FEATURES, K = 4096, 768, 1 << 20, 32
SCORES = TOKENS * FEATURES * 2
CHOICES = {
    "token": lambda: st.TokenChoice(K),
    "mutual": lambda: st.MutualChoice(K),
    "feature": lambda: st.FeatureChoice(K, switch=0),
    "floors": lambda: st.BalancedChoice(K, feature_floors=K / FEATURES / 4),
}


class NoNumbers(TorchDevice):
    """The memory that the kernels are given, and no kernels."""

    @property
    def device(self) -> str:
        return "meta"

    @contextmanager
    def scope(self) -> Iterator[None]:
        yield

    def put(self, array: Any) -> Any:
        return torch.from_numpy(array).to("meta")

    def launch(self, kernel: str, type_name: str, blocks: int, *arguments: Any) -> None:
        pass


class Held(TorchDispatchMode):
    """Bytes that exist at once, and how many storages as large as the scores do."""

    def __init__(self, sae: torch.nn.Module) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.most = self.matrices = 0
        self._see(list(sae.parameters()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._see(result)
        return result

    def _see(self, tensors: Any) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or not tensor.is_meta:
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.alive.pop, storage._cdata)
        self.most = max(self.most, sum(self.alive.values()))
        self.matrices = max(self.matrices, sum(size >= SCORES for size in self.alive.values()))


def fused_step(optimizer: torch.optim.Adam) -> None:
    """Fused Adam makes its two moments at first, and nothing else."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                for name in ("exp_avg", "exp_avg_sq"):
                    optimizer.state[parameter][name] = torch.zeros_like(parameter)


@pytest.mark.parametrize("name", CHOICES)
def test_a_step_holds_one_matrix_and_a_third_of_a_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2^20 features of width 768, 4096 tokens, bfloat16, with the default auxiliary loss."""
    monkeypatch.setattr(
        cuda_validation,
        "_of_tensor",
        lambda scores, label: DeviceScores(scores, "bfloat16", NoNumbers(0)),
    )
    # Triton's kernel compares without a matrix
    monkeypatch.setattr(
        thresholds,
        "count_above",
        lambda scores, theta: torch.empty(scores.shape[1:] if theta.ndim else (), dtype=torch.int64, device="meta"),
    )
    monkeypatch.setattr(torch.optim.Adam, "step", fused_step)
    # made of width 1, so that few weights are drawn
    sae = st.SparseAutoencoder(1, FEATURES, CHOICES[name](), torch.bfloat16).to("meta")
    for parameter, shape in ((sae.encoder, (FEATURES, D)), (sae.W_dec, (FEATURES, D)), (sae.b_dec, (D,))):
        parameter.data = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    for module in (allocation, allocation.validation):
        monkeypatch.setattr(module, "is_on_device", lambda array: getattr(array, "is_meta", False))
    monkeypatch.setattr(trainer_module, "is_on_device", lambda x: x.is_meta)
    trainer.units = Units(1.0)
    trainer._plan(10, 10 * TOKENS)
    with Held(sae) as held:
        for _ in range(2):
            trainer.step(torch.empty(TOKENS, D, dtype=torch.bfloat16, device="meta"))
    assert held.matrices == 1
    assert 20e9 < held.most < 24e9
