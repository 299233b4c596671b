"""`fully_shard` of torch takes the module as it is: the same steps as without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import sae_torch as st

RANKS = 2
CHOICES: list[Callable[[], st.Choice]] = [
    lambda: st.TokenChoice(4),
    lambda: st.MutualChoice(4),
    lambda: st.BalancedChoice(4, feature_floors=0.02),
    lambda: st.FeatureChoice(4, switch_tokens=100),
]


def weights_after_steps(choice: st.Choice, shard: bool) -> list[torch.Tensor]:
    """Three steps of Adam on the same tokens at every rank."""
    sae = st.SparseAutoencoder(8, 25, choice)  # 25 features do not halve
    if shard:
        fully_shard(sae, mesh=init_device_mesh("cpu", (RANKS,)))
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(3):
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        st.losses.reconstruction(sae(x), x).backward()
        optimizer.step()
    if shard:
        assert all(isinstance(weight, DTensor) for weight in sae.parameters())
    return [weight.full_tensor() if isinstance(weight, DTensor) else weight.detach() for weight in sae.parameters()]


def one_rank(rank: int, folder: str) -> None:
    """What runs in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    for make in CHOICES:
        for sharded, whole in zip(weights_after_steps(make(), True), weights_after_steps(make(), False), strict=True):
            torch.testing.assert_close(sharded, whole, rtol=0, atol=0)
    dist.destroy_process_group()
    Path(folder, f"done-{rank}").touch()


def test_sharded_steps_are_those_of_the_whole_module(tmp_path: Path) -> None:
    multiprocessing.spawn(one_rank, args=(str(tmp_path),), nprocs=RANKS)
    assert len(list(tmp_path.glob("done-*"))) == RANKS
