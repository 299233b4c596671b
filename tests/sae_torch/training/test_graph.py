"""A captured step, replayed on other batches, is the step itself: whatever it needs lies where it is read."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

import sae_torch as st
from sae_torch.training import graph
from tests.sae_torch.no_synchronise import no_synchronise
from tests.sae_torch.test_devices import as_device  # noqa: F401
from tests.sae_torch.training import graph_on_host

STEPS = 70
CHOICES = {"token": lambda: st.TokenChoice(3), "mutual": lambda: st.MutualChoice(3)}


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Captures on the processor, with the number of operations in each."""
    found: list[int] = []

    def captured(work: Any) -> Any:
        replay, answer = graph_on_host.captured(work)
        found.append(len(replay.__self__.launches))
        return replay, answer

    monkeypatch.setattr(graph, "captured", captured)
    return found


def trained(choice: st.Choice, captured: bool, batches: list[torch.Tensor], **options: Any) -> list[torch.Tensor]:
    """The numbers of every step, and the state after them."""
    sae = st.SparseAutoencoder(8, 24, choice)
    trainer = st.Trainer(sae, st.TrainConfig(graph=captured, progress=False, **options))
    trainer.begin(batches[0], steps=STEPS, planned_tokens=40 * STEPS)
    records = []
    for group in trainer.optimizer.param_groups:
        group["lr"] = torch.tensor(0.0)  # float32, as a graph reads it
    for step, x in enumerate(batches):
        with no_synchronise() if captured and step else nullcontext():
            records.append(trainer.step(x))
    trainer.check_losses()
    state = trainer.state_dict()
    kept = [*state["sae"].values(), *(v for s in state["optimizer"]["state"].values() for v in s.values())]
    usage = state["usage"]
    assert usage["steps"] == len(batches)
    return [*(torch.tensor(record.read()) for record in records), *kept, usage["densities"], usage["silent_for"]]


def batches_of(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 8, generator=generator) for size in sizes]


@pytest.mark.usefixtures("as_device")
@pytest.mark.parametrize(("name", "auxiliary"), [("token", "k"), ("mutual", "zipf"), ("mutual", "none")])
def test_replays_are_the_steps_themselves(name: str, auxiliary: str, captures: list[int]) -> None:
    """Weights, moments, thresholds, densities, numbers of the log, while the learning rate falls; one capture does."""
    batches = batches_of(*[40] * STEPS)
    expected = trained(CHOICES[name](), False, batches, auxiliary=auxiliary, dead_after=200)
    assert not captures
    found = trained(CHOICES[name](), True, batches, auxiliary=auxiliary, dead_after=200)
    assert len(captures) == 1
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("as_device")
def test_other_sizes_are_captured_anew(captures: list[int]) -> None:
    """A short batch runs as it comes; a budget on its way keeps every step from capture until it has arrived."""
    batches = batches_of(*[40] * 60, 24, *[40] * 4)
    options: dict[str, Any] = {"k_start": 8.0, "k_annealing": 0.8}
    expected = trained(CHOICES["mutual"](), False, batches, **options)
    found = trained(CHOICES["mutual"](), True, batches, **options)
    assert len(captures) == 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@pytest.mark.usefixtures("as_device")
def test_a_replay_that_diverges_is_skipped_and_named(captures: list[int]) -> None:
    """The flag is read where it lies, too."""
    batches = batches_of(*[40] * 60)
    sae = st.SparseAutoencoder(8, 24, st.TokenChoice(3))
    trainer = st.Trainer(sae, st.TrainConfig(graph=True, progress=False))
    trainer.begin(batches[0], steps=STEPS, planned_tokens=4000)
    trainer.step(batches[0])
    with no_synchronise():
        for x in batches[1:55]:
            trainer.step(x)
    trainer.check_losses()
    assert len(captures) == 1
    before = sae.W_enc.detach().clone()
    for x in [batches[55] * torch.nan, *batches[56:]]:
        trainer.step(x)
    with pytest.raises(st.InputError, match="batch 55 holds NaN"):
        trainer.check_losses()
    torch.testing.assert_close(sae.W_enc.detach(), before)


def test_what_no_graph_holds_is_refused(request: pytest.FixtureRequest) -> None:
    """A processor, other choices, blocks of features."""
    config = st.TrainConfig(graph=True)
    with pytest.raises(st.InputError, match="graph: expected an autoencoder on a CUDA device, found one on cpu"):
        st.Trainer(st.SparseAutoencoder(8, 24, st.TokenChoice(3)), config)
    request.getfixturevalue("as_device")
    with pytest.raises(
        st.InputError, match=r"graph: expected a choice whose steps all have one size, .* found FeatureChoice"
    ):
        st.Trainer(st.SparseAutoencoder(8, 24, st.FeatureChoice(3)), config)
    with pytest.raises(st.InputError, match="graph: with feature_chunk"):
        st.Trainer(st.SparseAutoencoder(8, 24, st.TokenChoice(3), feature_chunk=5), config)
