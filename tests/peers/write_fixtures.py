"""Writes what the real libraries write, small, so that tests without them can read it.

Run it in the environment of `make test-peers`. Each folder also holds `expected.safetensors`: inputs, and the dense
activations and reconstructions that the library itself gives for them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

D_MODEL, N_FEATURES, K, TOKENS = 6, 10, 3, 24
PLACE = Path(__file__).parents[1] / "sae_torch" / "interop" / "fixtures"


def randomise(module: nn.Module, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module


def inputs() -> Tensor:
    return torch.randn(TOKENS, D_MODEL, generator=torch.Generator().manual_seed(11)) + 0.3


def expect(folder: Path, acts: Tensor, x_hat: Tensor) -> None:
    tensors = {"x": inputs(), "acts": acts, "x_hat": x_hat}
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, folder / "expected.safetensors")


def write_saelens() -> None:
    from sae_lens import SAE

    sizes = {"d_in": D_MODEL, "d_sae": N_FEATURES}
    metadata = {"model_name": "toy", "hook_name": "blocks.3.hook_resid_post", "l0": 2.5}
    options: dict[str, dict[str, Any]] = {
        "jumprelu": {},
        "jumprelu-raw-input": {"architecture": "jumprelu", "apply_b_dec_to_input": False},
        "topk-rescaled": {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True},
        "standard": {},
        "gated": {},
        "layer-norm": {"architecture": "jumprelu", "normalize_activations": "layer_norm"},
    }
    for seed, (name, option) in enumerate(options.items()):
        sae = randomise(SAE.from_dict({"architecture": name, **sizes, "metadata": metadata, **option}), seed)
        folder = PLACE / f"saelens-{name}"
        sae.save_model(folder)
        expect(folder, sae.encode(inputs()), sae(inputs()))


def write_dictionary_learning() -> None:
    from dictionary_learning.dictionary import GatedAutoEncoder, JumpReluAutoEncoder
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    torch.manual_seed(0)
    dictionaries = {
        "AutoEncoderTopK": AutoEncoderTopK(D_MODEL, N_FEATURES, K),
        "BatchTopKSAE": BatchTopKSAE(D_MODEL, N_FEATURES, K),
        "MatryoshkaBatchTopKSAE": MatryoshkaBatchTopKSAE(D_MODEL, N_FEATURES, K, [4, 6]),
        "JumpReluAutoEncoder": JumpReluAutoEncoder(D_MODEL, N_FEATURES),
        "GatedAutoEncoder": GatedAutoEncoder(D_MODEL, N_FEATURES),
    }
    for seed, (name, dictionary) in enumerate(dictionaries.items()):
        randomise(dictionary, seed)
        if name == "AutoEncoderTopK":  # its training keeps rows at norm 1
            dictionary.decoder.weight.data /= dictionary.decoder.weight.data.norm(dim=0)
        if "Batch" in name:
            dictionary.threshold.fill_(0.35)
        folder = PLACE / f"dictionary-learning-{name}"
        folder.mkdir(parents=True)
        torch.save(dictionary.state_dict(), folder / "ae.pt")
        trainer = {"dict_class": name, "layer": 3, "lm_name": "toy", "k": K}
        (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}) + "\n")
        expect(folder, dictionary.encode(inputs()), dictionary(inputs()))


def write_sparsify() -> None:
    from sparsify import SparseCoder, SparseCoderConfig

    coder = randomise(SparseCoder(D_MODEL, SparseCoderConfig(num_latents=N_FEATURES, k=K)), 7)
    coder.set_decoder_norm_to_unit_norm()
    folder = PLACE / "sparsify-topk"
    coder.save_to_disk(folder)
    encoded = coder.encode(inputs())
    acts = torch.zeros(TOKENS, N_FEATURES).scatter(1, encoded.top_indices, encoded.top_acts)
    expect(folder, acts, coder(inputs()).sae_out)


if __name__ == "__main__":
    shutil.rmtree(PLACE, ignore_errors=True)
    torch.manual_seed(0)
    write_saelens()
    write_dictionary_learning()
    write_sparsify()
    print(*sorted(folder.name for folder in PLACE.iterdir()), sep="\n")
