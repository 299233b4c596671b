"""A tiny language model, its tokenizer and a tiny corpus, all made here: nothing is downloaded."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from sae_torch.activations import HarvestConfig, LanguageModel, StateOfTheUnion, load_language_model

# small matrices: a second thread only waits
torch.set_num_threads(1)

WORDS = [f"w{i}" for i in range(60)]
D_MODEL = 16
BLOCKS = 4


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformers folder with a random Llama of 4 blocks and a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-llama")
    vocabulary = {word: index for index, word in enumerate(["<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=D_MODEL,
            intermediate_size=32,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.5,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_language_model(tiny_model_folder: Path) -> LanguageModel:
    """The tiny model, loaded in float32."""
    return load_language_model(str(tiny_model_folder), torch.float32)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> StateOfTheUnion:
    """Twelve documents of 200 words each; 3 of them test, 3 development."""
    folder = tmp_path_factory.mktemp("speeches")
    draw = random.Random(5)
    for index in range(12):
        (folder / f"speech-{index:02d}.txt").write_text(" ".join(draw.choices(WORDS, k=200)))
    return StateOfTheUnion(held_out=3, folder=folder)


@pytest.fixture
def tiny_harvest(tiny_model_folder: Path, tiny_text: StateOfTheUnion) -> HarvestConfig:
    """Harvest of the tiny model after its second block: 1200 words make 75 windows of 16."""
    return HarvestConfig(
        model=str(tiny_model_folder),
        site="hidden_states[2]",
        text=tiny_text,
        window=16,
        dtype=torch.float32,
        windows_per_shard=8,
        windows_per_batch=3,
    )
