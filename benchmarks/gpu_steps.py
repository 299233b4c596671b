"""Whole training steps on a GPU: the same numbers as in main memory, waiting for none, and the same when captured."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import sae_torch as st
from benchmarks.gpu_device import Gpu
from benchmarks.gpu_training import SIZES, SMALL, OurStep
from benchmarks.training_step import activations
from sae_torch.training.graph import SETTLED

# Every choice, all features together and in this many blocks.
KINDS: tuple[tuple[Callable[[int], st.Choice], int], ...] = (
    (st.TokenChoice, 1),
    (st.MutualChoice, 1),
    (st.MutualChoice, 4),
    (lambda k: st.FeatureChoice(k, switch=0.5), 1),
    (lambda k: st.FeatureChoice(k, switch=0), 1),
    (lambda k: st.BalancedChoice(k, feature_floors=0.01), 1),
)


def exact_parity(gpu: Gpu) -> str:
    """Codes and gradients of whole numbers so small that none rounds: those of main memory, bit for bit."""
    tokens, d_model, n_features = 64, 24, 96
    for make, blocks in KINDS:
        found: list[list[Tensor]] = []
        losses: list[float] = []
        for device in (gpu.device, "cpu"):
            sae = st.SparseAutoencoder(
                d_model, n_features, make(3), device=device, feature_chunk=_chunk(n_features, blocks)
            )
            with torch.no_grad():
                sae.W_enc.copy_(_whole_numbers(1, d_model, n_features))
                scale = 2.0 ** (torch.arange(n_features) % 3)
                sae.W_dec.copy_(torch.eye(d_model)[torch.arange(n_features) % d_model] * scale[:, None])
            x = _whole_numbers(2, tokens, d_model).to(device)
            lacking = torch.arange(n_features, device=device) % 4
            out = sae(x, return_pre=True)
            loss = st.losses.reconstruction(out, x) + st.losses.aux_zipf_loss(out, x, sae, lacking / 4, k_aux=5)
            loss = loss + st.losses.aux_k_loss(out, x, sae, lacking == 1, k_aux=3, every=2)
            torch.autograd.backward(loss)
            codes = out.codes.trim()
            parts = [codes.tokens, codes.features, codes.values, out.x_hat, *(p.grad for p in sae.parameters())]
            found.append([part.detach().cpu() for part in parts if part is not None])
            losses.append(float(loss.detach()))
        assert math.isclose(*losses, rel_tol=1e-6)
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
    return f"{len(KINDS)} kinds of steps"


def _chunk(n_features: int, blocks: int) -> int | None:
    return None if blocks == 1 else n_features // blocks


def _whole_numbers(seed: int, *shape: int) -> Tensor:
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).float()


def training_parity(gpu: Gpu) -> str:
    """Twenty steps: near those of main memory, and twice on the GPU the same bits."""
    sizes, steps = ((256, 64, 512, 8), 20) if gpu.is_real else (SMALL, 2)
    for make, blocks in KINDS:
        for dtype in (torch.float32, torch.bfloat16):
            runs = []
            for device in (gpu.device, gpu.device, "cpu"):
                batches = [batch.to(device, dtype) for batch in activations(*sizes[:2], count=steps)]
                chunk = _chunk(sizes[2], blocks)
                sae = st.SparseAutoencoder(*sizes[1:3], make(sizes[3]), dtype, device, feature_chunk=chunk)
                log = st.Trainer(sae, st.TrainConfig(progress=False)).fit(batches)
                kept = torch.cat([sae.eval()(batches[0]).x_hat.flatten(), *(p.flatten() for p in sae.parameters())])
                runs.append((torch.tensor(log.loss), kept.detach().cpu()))
            once, again, host = runs
            assert torch.equal(once[0], again[0])
            assert torch.equal(once[1], again[1])
            rtol = 0.02 if dtype == torch.float32 else 0.1
            torch.testing.assert_close(once[0], host[0], rtol=rtol, atol=0)
    return f"{len(KINDS)} kinds of training, float32 and bfloat16"


def steps_without_waiting(gpu: Gpu) -> str:
    """Every choice that promises it, before and after its switch, under torch's watch; the losses are finite."""
    sizes = (1024, 256, 4096, 16) if gpu.is_real else SMALL
    done = 0
    for dtype in (torch.float32, torch.bfloat16) if gpu.is_real else (torch.float32,):
        batches = [batch.to(gpu.device, dtype) for batch in activations(*sizes[:2], count=3)]
        k = sizes[3]
        choices = [st.TokenChoice(k), st.MutualChoice(k), st.FeatureChoice(k), st.FeatureChoice(k, switch=0)]
        floors = 0.25 * k / sizes[2]
        choices += [st.BalancedChoice(k, feature_floors=floors), st.BalancedChoice(k, None, None, 0.2, floors)]
        for choice in choices:
            step = OurStep(choice, sizes, batches)
            for _ in range(3):  # compile
                step()
            with gpu.refusing_to_wait():
                for _ in range(4):
                    step()
            step.trainer.check_losses()
            done += 1
    return f"{done} kinds of steps"


def captured_steps(gpu: Gpu) -> str:
    """Replayed steps against launched ones: the same losses, and the time of both."""
    if not gpu.is_real:
        return "not run: the GPU is missing"
    said = []
    for sizes in ((1024, 256, 4096, 16), SIZES[0]):
        batches = [batch.to(gpu.device) for batch in activations(*sizes[:2], count=3)]
        for kind in (st.TokenChoice, st.MutualChoice):
            sides = {
                name: OurStep(kind(sizes[3]), sizes, batches, graph=name == "graph") for name in ("launched", "graph")
            }
            for _ in range(SETTLED + 20):
                records = [step() for step in sides.values()]
            losses = torch.tensor([record.read() for record in records])
            torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=1e-3)
            times = gpu.times(dict(sides.items()))
            said.append(
                f"{sizes} {kind.__name__}: {times['launched']:.2f} ms launched, {times['graph']:.2f} ms replayed"
            )
    return "; ".join(said)
