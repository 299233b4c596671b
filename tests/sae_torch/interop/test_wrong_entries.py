"""Entries of configurations that are of another type than their formats': one sentence, or the dictionary is read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sae_torch as st
from sae_torch.interop import formats
from tests.sae_torch.interop import layouts
from tests.sae_torch.interop.test_damage import EXAMPLES, D, F, K

WRONG: tuple[Any, ...] = (1, "zz", ["zz"], {"zz": 1}, True, -0.5, math.inf, 10**400, None)
# Entries that a format reads and an example may lack.
MORE = {
    "saelens": ("normalize_activations", "reshape_activations", "metadata", "k", "hook_name", "model_name",
                "activation_fn", "activation_fn_kwargs", "rescale_acts_by_decoder_norm"),
    "sparsify": ("activation", "skip_connection", "transcode", "num_latents", "expansion_factor"),
    "gemma-scope-2": ("affine_connection", "hf_hook_point_in", "type"),
    "llama-scope": ("dataset_average_activation_norm", "act_fn", "sparsity_include_decoder_norm"),
    "llamascopium": ("dataset_average_activation_norm", "hook_point_out", "use_glu_encoder"),
}  # fmt: skip
IN_METADATA = ("hook_name", "model_name", "l0", "allocation", "training_architecture_details", "known_defects")


def places(config: dict[str, Any], more: tuple[str, ...]) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects of a configuration, and the names of what they hold."""
    for name in (*config, *(each for each in more if each not in config)):
        yield config, name
        if isinstance(config.get(name), dict):
            yield from places(config[name], IN_METADATA if name == "metadata" else ())


def config_of(path: Path) -> Path | None:
    folder = path if path.is_dir() else path.parent
    return next((file for file in sorted(folder.glob("*.json"))), None)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of known defects
@pytest.mark.parametrize("name", [*EXAMPLES, "qwen-scope with a configuration"])
def test_an_entry_of_another_type_is_one_sentence(name: str, tmp_path: Path) -> None:
    if name in EXAMPLES:
        path = EXAMPLES[name](tmp_path)
    else:
        path = layouts.qwen_scope(tmp_path, layouts.weights(D, F), config=True).path
    file = config_of(path)
    if file is None:
        return
    config, named = json.loads(file.read_text()), 0
    for table, entry in places(config, MORE.get(name.split()[0], ())):
        there, had = table.get(entry), entry in table
        for wrong in WRONG:
            table[entry] = wrong
            file.write_text(json.dumps(config))
            for read in (lambda: st.load(path, k=K), lambda: formats.describe(path).text(),
                         lambda: formats.metadata(path)):  # fmt: skip
                try:
                    read()
                except st.InputError as error:
                    named += entry in str(error) and len(str(error).splitlines()) == 1
                except Exception as error:
                    raise AssertionError(f"{entry} = {wrong!r}") from error
        table.pop(entry)
        if had:
            table[entry] = there
    assert named > 10
