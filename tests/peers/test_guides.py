"""What the guides say about other libraries holds beside the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sae_torch as st
from docs.scripts import peer_facts, published

GUIDES = Path(__file__).parents[2] / "docs" / "guides"


def test_our_choice_in_their_trainer() -> None:
    """The class of the guide trains in dictionary_learning's trainer, gets its quotas there, and keeps the budget."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer

    page = (GUIDES / "exchange.md").read_text(encoding="utf-8")
    (code,) = (block.split("```")[0] for block in page.split("```py\n")[1:] if "class AllocatedSAE" in block)
    guide: dict[str, Any] = {}
    exec(code.replace("340_000", "60 * 512"), guide)
    sizes = {"activation_dim": 32, "dict_size": 128, "k": 4, "steps": 80, "lr": 3e-3, "warmup_steps": 10}
    about = {"layer": 0, "lm_name": "mine", "seed": 0, "device": "cpu", "dict_class": guide["AllocatedSAE"]}
    trainer = BatchTopKTrainer(**sizes, **about)
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(128, 32, generator=generator)

    def batch() -> torch.Tensor:
        active = torch.rand(512, 128, generator=generator) < 4 / 128
        return (active * torch.rand(512, 128, generator=generator)) @ basis

    losses = [trainer.update(step, batch()) for step in range(80)]
    assert losses[-1] < 0.8 * losses[0]
    assert "zipf (set)" in repr(trainer.ae.choice)
    with torch.no_grad():
        acts = trainer.ae.encode(batch())
    assert float((acts != 0).sum(dim=1).float().mean()) == pytest.approx(4, rel=0.15)
    assert isinstance(trainer.ae.choice, st.FeatureChoice)


@pytest.mark.parametrize("name", ["saelens", "dictionary_learning", "sparsify"])
def test_the_table_of_facts_is_current(name: str) -> None:
    """But for the size of a rounding error, which differs between machines."""
    table = peer_facts.TARGET.read_text(encoding="utf-8")
    for tried, found in peer_facts.ASKED[name][2]():
        assert f"| {tried} | {found.split(' up to ')[0]}" in table, "run docs/scripts/peer_facts.py"


def test_the_count_of_published_dictionaries_is_current() -> None:
    """Of SAELens' list in the installed package; every family's outcome is found by loading one."""
    counted = published.count()
    assert counted == json.loads(published.TARGET.read_text(encoding="utf-8")), "run docs/scripts/published.py"
    assert counted["dictionaries"] >= 13_857
    assert counted["import"] >= 13_800
