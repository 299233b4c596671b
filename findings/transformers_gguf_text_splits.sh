#!/usr/bin/env bash
# transformers 5.24.0 cuts text for a GGUF tokenizer as GPT-2 does where it does not know the file's `tokenizer.ggml.pre`.
#
# The entry says how text is cut before merges are applied. Expected: an error or a warning for a value that is not in
# the list; llama.cpp, whose entry it is, refuses unknown ones. Seen: "stablelm2", "deepseek-v3", "glm4", "falcon" and a
# made-up word are all taken as "gpt-2", without a word. By llama.cpp's source stablelm2 cuts as qwen2 does, and
# deepseek-v3 and glm4 take at most three digits, as llama-bpe does; so numbers, and words after a bracket or a slash, get
# other tokens than the model was trained with, and a dictionary other activations than the file's own program makes.
# Source: run as below with transformers 5.24.0, gguf 0.19.0 on a file of 20 tokens; llama.cpp's cuts read in its source.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 gguf==0.19.0
cd "$work"
"$work/env/bin/python" - <<'PYTHON'
import contextlib
import io
import warnings

import gguf
import transformers

MERGES = ["4 5", "3 45", "1 2", "12 3", "( a"]
TOKENS = [*"0123456789", "a", "(", "45", "345", "12", "123", "(a", "<end>"]


def cut(pre):
    """Tokens of a number and of a word after a bracket by a file with this entry, and what was said about it."""
    file = gguf.GGUFWriter(f"{pre}.gguf", "llama")
    file.add_context_length(64)
    file.add_embedding_length(8)
    file.add_block_count(1)
    file.add_feed_forward_length(8)
    file.add_head_count(1)
    file.add_head_count_kv(1)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(TOKENS))
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(pre)
    file.add_token_list(TOKENS)
    file.add_token_merges(MERGES)
    file.add_token_types([gguf.TokenType.NORMAL] * (len(TOKENS) - 1) + [gguf.TokenType.CONTROL])
    file.add_eos_token_id(len(TOKENS) - 1)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokenizer = transformers.AutoTokenizer.from_pretrained(".", gguf_file=f"{pre}.gguf")
    about = [line for line in [said.getvalue(), *(str(warning.message) for warning in caught)] if pre in line]
    return [tokenizer.tokenize(text) for text in ("12345", "(a")], about


GPT_2, BY_THREE, ALONE = ["12", "345"], ["123", "45"], ["1", "2", "3", "4", "5"]
for pre, number, bracket in (
    ("gpt-2", GPT_2, ["(", "a"]), ("llama-bpe", BY_THREE, ["(a"]), ("qwen2", ALONE, ["(a"]),
    ("stablelm2", GPT_2, ["(", "a"]), ("deepseek-v3", GPT_2, ["(", "a"]), ("glm4", GPT_2, ["(", "a"]),
    ("falcon", GPT_2, ["(", "a"]), ("no-such-name", GPT_2, ["(", "a"]),
):
    found, about = cut(pre)
    print(f"{pre}: 12345 is {found[0]}, (a is {found[1]}; said about it: {about or 'nothing'}")
    assert found == [number, bracket], f"changed: {pre}"
    assert not about, f"changed: {pre} is remarked upon"
PYTHON
