"""How many of the dictionaries that SAELens lists import here: counted from the list in the installed package.

Run it in the peers' environment, which has SAELens:

    PYTHONPATH=. .venv-peers/bin/python docs/scripts/published.py

It writes docs/assets/published.json and the table that the guide to exchange shows. A family counts as one that imports
if a dictionary that is laid out as it lays them out, on random weights, loads; what is refused is refused with the
sentence that a user would see.
"""

from __future__ import annotations

import collections
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import allocation
import torch
from sae_torch.errors import InputError
from sae_torch.interop import formats
from safetensors.torch import save_file
from tests.sae_torch.interop import layouts

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "assets" / "published.json"
TABLE = ROOT / "docs" / "assets" / "tables" / "published.md"
FIXTURES = ROOT / "tests" / "sae_torch" / "interop" / "fixtures"
D, F = 6, 10
AFFINE = {"folder": "transcoder/layer_12_width_16k_l0_small_affine", "skip": torch.eye(D)}
MATRYOSHKA = "dictionary-learning-Matryoshka"
Sample = Callable[[Path], Path]


@dataclass(frozen=True)
class Family:
    """Dictionaries of one layout.

    Attributes
    ----------
    name : str
        As the table calls it.
    loader : str
        SAELens' name for what reads it.
    pattern : str
        Of ``release/path``, which the family's entries in the list match; the first family whose pattern does has them.
    sample : callable
        Writes one, and returns the path to load.
    """

    name: str
    loader: str
    pattern: str
    sample: Sample


def _layout(layout: Callable[..., layouts.Published], **options: Any) -> Sample:
    return lambda root: layout(root, layouts.weights(D, F), **options).path


def _fixture(name: str, **changes: Any) -> Sample:
    """A folder that the real library wrote, with other entries in its configuration."""

    def write(root: Path) -> Path:
        folder = shutil.copytree(FIXTURES / name, root / name)
        file = folder / "cfg.json"
        if changes:
            file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return folder

    return write


def _plain_autoencoder(root: Path) -> Path:
    """A ReLU autoencoder of dictionary_learning."""
    state = {"encoder.weight": torch.randn(F, D), "encoder.bias": torch.zeros(F), "bias": torch.zeros(D)}
    torch.save(state | {"decoder.weight": torch.randn(D, F)}, root / "ae.pt")
    (root / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder", "k": 3}}))
    return root


def _circuit_tracer_set(root: Path) -> Path:
    """Layers of one width, ReLU."""
    hooks = "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    (root / "config.yaml").write_text(f"model_name: Qwen/Qwen3-0.6B\nmodel_kind: transcoder_set\n{hooks}")
    tensors = {"W_enc": torch.randn(F, D), "W_dec": torch.randn(F, D), "b_enc": torch.zeros(F), "b_dec": torch.zeros(D)}
    save_file(tensors, root / "layer_0.safetensors")
    return root / "layer_0.safetensors"


def _cross_layer_set(root: Path) -> Path:
    """The first of two layers, with decoders for both."""
    (root / "config.yaml").write_text("model_name: google/gemma-2-2b\nmodel_kind: cross_layer_transcoder\n")
    encoder = {"W_enc_0": torch.randn(F, D), "b_enc_0": torch.zeros(F), "b_dec_0": torch.zeros(D)}
    save_file(encoder, root / "W_enc_0.safetensors")
    save_file({"W_dec_0": torch.randn(F, 2, D)}, root / "W_dec_0.safetensors")
    return root


def _temporal(root: Path) -> Path:
    (root / "conf.yaml").write_text("sae: {}\n")
    held = {"D": torch.zeros(F, D), "b": torch.zeros(D), "attn_layers.0.W": torch.zeros(2)}
    save_file(held, root / "latest_ckpt.safetensors")
    return root


DL, SL = "dictionary_learning_1", "sae_lens"
DEEPSEEK = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
CONSTANT_NORM = {"normalize_activations": "constant_norm_rescale"}
FAMILIES = (
    Family("Gemma Scope 2, autoencoders", "gemma_3", r"/(resid_post|mlp_out|attn_out)", _layout(layouts.gemma_scope_2)),
    Family("Gemma Scope 2, transcoders", "gemma_3", r"/transcoder", _layout(layouts.gemma_scope_2, **AFFINE)),
    Family("Gemma Scope", "gemma_2", r"", _layout(layouts.gemma_scope)),
    Family("Gemma Scope, transcoders", "gemma_2_transcoder", r"", _layout(layouts.gemma_scope, site="transcoders")),
    Family("Qwen Scope", "qwen_scope", r"", _layout(layouts.qwen_scope)),
    Family("Llama Scope", "llama_scope", r"", _layout(layouts.llama_scope, with_norms=True)),
    Family("Llama Scope R1", "llama_scope_r1_distill", r"", _layout(layouts.llamascopium, version=1)),
    Family("dictionary_learning, gated", DL, r"_gated_", _fixture("dictionary-learning-GatedAutoEncoder")),
    Family("dictionary_learning, TopK", DL, r"_topk_", _fixture("dictionary-learning-AutoEncoderTopK")),
    Family("dictionary_learning, ReLU", DL, r"_(standard|vanilla|panneal)_", _plain_autoencoder),
    Family("dictionary_learning, Matryoshka", DL, r"(?i)matryoshka", _fixture(f"{MATRYOSHKA}BatchTopKSAE")),
    Family("dictionary_learning, BatchTopK", DL, r"", _fixture("dictionary-learning-BatchTopKSAE")),
    Family("SAELens, top k of normalised inputs", SL, r"-v5-", _fixture("saelens-layer-norm")),
    Family("SAELens, inputs of constant norm", SL, r"^mistral", _fixture("saelens-standard", **CONSTANT_NORM)),
    Family("SAELens, BatchTopK", SL, r"matryoshka-dc", _fixture("saelens-jumprelu")),
    Family("SAELens, ReLU", SL, r"", _fixture("saelens-standard")),
    Family("Attention autoencoders of GPT-2 small", "connor_rob_hook_z", r"", _layout(layouts.hook_z)),
    Family("Goodfire", "goodfire", r"", _layout(layouts.goodfire)),
    Family("DeepSeek R1, qresearch", "deepseek_r1", r"", _layout(layouts.goodfire, name=DEEPSEEK)),
    Family("circuit-tracer, sets of transcoders", "mwhanna_transcoder", r"", _circuit_tracer_set),
    Family("circuit-tracer, cross-layer", "mntss_clt_layer_transcoder", r"", _cross_layer_set),
    Family("Temporal", "temporal", r"", _temporal),
)


def listed() -> Iterator[tuple[str, str]]:
    """Of every dictionary in SAELens' list, the loader and ``release/path``."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    for release, entry in get_pretrained_saes_directory().items():
        for path in entry.saes_map.values():
            yield entry.conversion_func or "sae_lens", f"{release}/{path}"


def family_of(loader: str, name: str) -> Family:
    """The first that has it."""
    return next(each for each in FAMILIES if each.loader == loader and re.search(each.pattern, name))


def outcome(family: Family) -> tuple[str | None, str | None]:
    """Name of the format that a sample loads as, or why it does not."""
    with tempfile.TemporaryDirectory() as folder:
        path = family.sample(Path(folder))
        try:
            formats.load(path, k=None if formats.describe(path).k is not None else 4)
            return formats.format_of(path), None
        except InputError as error:
            return None, re.sub(r"^/\S*?: ", "", str(error)).replace(folder, "")


def count() -> dict[str, Any]:
    """The families in the order of their number."""
    numbers = collections.Counter(family_of(*entry).name for entry in listed())
    rows = []
    for family in sorted(FAMILIES, key=lambda each: -numbers[each.name]):
        read_as, why = outcome(family)
        rows.append({"family": family.name, "dictionaries": numbers[family.name], "format": read_as, "refused": why})
    return {
        "versions": {"sae-lens": metadata.version("sae-lens"), "sae-allocation": allocation.__version__},
        "dictionaries": numbers.total(),
        "import": sum(row["dictionaries"] for row in rows if row["format"]),
        "families": rows,
    }


def table(counted: dict[str, Any]) -> str:
    """One row for each family."""
    lines = ["| family | dictionaries | format here, or why not |", "| --- | ---: | --- |"]
    lines += [
        f"| {row['family']} | {row['dictionaries']:,} | {row['format'] or row['refused']} |"
        for row in counted["families"]
    ]
    said = f"`docs/scripts/published.py`, list of SAELens {counted['versions']['sae-lens']}"
    total = f"| all, of which import | {counted['dictionaries']:,} | {counted['import']:,} |"
    return "\n".join([*lines, total, "", f"<small>{said}</small>", ""])


if __name__ == "__main__":
    counted = count()
    TARGET.write_text(json.dumps(counted, indent=1) + "\n", encoding="utf-8")
    TABLE.write_text(table(counted), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))
