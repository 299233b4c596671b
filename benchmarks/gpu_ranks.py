"""Collectives of a process group of one, over NCCL on a GPU: they start, answer, and do not make the host wait."""

from __future__ import annotations

import tempfile

import numpy as np
import torch
import torch.distributed as dist

import allocation as al
import sae_torch as st
from benchmarks.gpu_device import Gpu


def collectives(gpu: Gpu) -> str:
    """Sums and gathers of a group of one, on the current stream; a solve by `ranks=` is that of the whole."""
    backend = "nccl" if gpu.is_real else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            tensor = torch.arange(1024.0, device=gpu.device)
            for dtype in (torch.float32, torch.bfloat16, torch.int64):
                held = tensor.to(dtype)
                dist.all_reduce(held)  # the first one connects
                parts = [torch.empty_like(held)]
                dist.all_gather(parts, held)
                with gpu.refusing_to_wait():
                    dist.all_reduce(held, async_op=True).wait()
                    dist.all_gather(parts, held)
                assert torch.equal(held, tensor.to(dtype))
                assert torch.equal(parts[0], held)
            ranks = st.parallel.ranks()
            scores = np.random.default_rng(0).normal(size=(64, 96)).astype(np.float32)
            part = al.Part(tokens=(0, 64), features=(0, 96))
            found = al.solve(al.Problem(scores, budget=300, feature_floors=1, part=part), ranks=ranks)
            expected = al.solve(al.Problem(scores, budget=300, feature_floors=1))
            assert np.array_equal(found.tokens, expected.tokens)
            assert np.array_equal(found.features, expected.features)
        finally:
            dist.destroy_process_group()
    return f"{backend}, three types, and a solve"
