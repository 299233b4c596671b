"""Dashboards by `sae-dashboard`, of the language model as transformers has it.

Options are those of `neuronpedia-runner`. What differs: the model may be a folder
of transformers, of a family that TransformerLens converts; its weights are taken
as they are, like those that the activations of the training came from; and its
predictions are compared with transformers' before anything is written.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from sae_dashboard.neuronpedia import neuronpedia_runner as tool
from transformer_lens import loading_from_pretrained as loading
from transformers import AutoConfig, AutoModelForCausalLM

AS_THEY_ARE = dict.fromkeys(
    (
        "fold_ln",
        "center_writing_weights",
        "center_unembed",
        "fold_value_biases",
    ),
    False,
)
PROMPT = "The committee met in the spring, and what it found was read aloud."
# By how much log probabilities may differ in float32, and in narrower types.
NATS, NARROW_NATS = 0.01, 1.0


class Runner(tool.NeuronpediaRunner):  # type: ignore[misc]
    """The tool's runner, with another way to load the language model."""

    def _initialize_model(self) -> None:
        self.sae_from_pretrained_kwargs = AS_THEY_ARE
        is_folder = Path(self.model_id, "config.json").is_file()
        with admitted(self.model_id) if is_folder else contextlib.nullcontext():
            super()._initialize_model()
        require_same(self.model, self.cfg.hf_model_path or self.model_id)


@contextlib.contextmanager
def admitted(folder: str) -> Any:
    """TransformerLens loads a folder as if it were on its list."""
    names = [*loading.OFFICIAL_MODEL_NAMES, folder]
    convert = with_rotary_base(loading.convert_hf_model_config)
    with (
        patch.object(loading, "OFFICIAL_MODEL_NAMES", names),
        patch.object(loading, "convert_hf_model_config", convert),
    ):
        yield


def with_rotary_base(convert: Any) -> Any:
    """Configurations with the rotary base, which TransformerLens 2 leaves at 10,000."""

    def converted(name: str, **options: Any) -> dict[str, Any]:
        config = AutoConfig.from_pretrained(name)
        # where transformers 5 writes it; version 4 does not read it there
        said = getattr(config, "rope_parameters", None) or {}
        base = said.get("rope_theta") or getattr(config, "rope_theta", None)
        changed = {} if base is None else {"rotary_base": base}
        return convert(name, **options) | changed

    return converted


@torch.no_grad()
def require_same(model: Any, name: str) -> None:
    """End where the model in TransformerLens predicts otherwise."""
    tokens = model.tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    original = AutoModelForCausalLM.from_pretrained(name)
    theirs = original(tokens).logits.float().log_softmax(-1)
    ours = model(tokens.to(model.cfg.device)).cpu().float().log_softmax(-1)
    worst = float((ours - theirs[..., : ours.shape[-1]]).abs().max())
    if worst > (NATS if model.cfg.dtype == torch.float32 else NARROW_NATS):
        raise SystemExit(
            f"{name}: expected the predictions of transformers, found others "
            f"by up to {worst:.3g} nats"
        )
    print(f"{name}: as in transformers, to {worst:.2g} nats")


if __name__ == "__main__":
    tool.NeuronpediaRunner = Runner
    tool.main()
