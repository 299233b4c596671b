#!/usr/bin/env bash
# transformers 5.24.0: whether hidden_states shows a hook's edit of a block depends on whether they were asked for before.
#
# Expected: hidden_states[n + 1] is what block n passes on to block n + 1, whatever ran earlier. Seen: they are recorded by
# hooks which the first call with output_hidden_states=True adds to the model and leaves there, and hooks act in the order
# in which they came. In a fresh model a forward hook that replaces a block's output (steering, ablation, a spliced
# autoencoder) comes first, and its edit is in the entry. After one earlier call with output_hidden_states=True, say for the
# unedited run to compare with, the entry of that block is the unedited output, whereas block n + 1 and all later entries
# have the edit. The same two calls in the other order differ; logits are the same. Nothing is said.
# A hook with prepend=True acts first in both cases.
# Source: run as below with transformers 5.24.0, torch 2.13.0, random weights; no other software is involved.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cd "$work"
"$work/env/bin/python" -W ignore - <<'PYTHON'
import torch
import transformers

transformers.logging.set_verbosity_error()
torch.set_grad_enabled(False)
BLOCKS, EDITED = 3, 0
SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": BLOCKS, "num_attention_heads": 4}
GROUPS = {"num_key_value_heads": 2, "intermediate_size": 64}
MODELS = {"GPT2LMHeadModel": SIZES, "LlamaForCausalLM": SIZES | GROUPS, "Qwen3ForCausalLM": SIZES | GROUPS | {"head_dim": 8}}
tokens = torch.tensor([[5, 9, 23, 41, 17, 8, 30]])


def add_one(module, given, returned):
    return (returned[0] + 1, *returned[1:]) if isinstance(returned, tuple) else returned + 1


def steered(name, asked_before, prepend):
    """Entry by entry, whether hidden_states is what the next block got; and the logits."""
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**MODELS[name])).eval()
    blocks = next(part for part in model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == BLOCKS)
    if asked_before:
        model(tokens, output_hidden_states=True)
    blocks[EDITED].register_forward_hook(add_one, prepend=prepend)
    entered = []

    def keep(module, given, named):
        entered.append(given[0] if given else named["hidden_states"])

    for block in blocks:
        block.register_forward_pre_hook(keep, with_kwargs=True)
    answer = model(tokens, output_hidden_states=True)
    gaps = [(got - state).abs().max().item() for got, state in zip(entered, answer.hidden_states)]
    return gaps, answer.logits


for name in MODELS:
    outcomes = {}
    for asked_before in (False, True):
        for prepend in (False, True):
            gaps, outcomes[asked_before, prepend] = steered(name, asked_before, prepend)
            print(
                f"{name}, asked for before: {asked_before}, prepend={prepend}: block n's input and hidden_states[n] differ by",
                [round(gap, 3) for gap in gaps],
            )
            missed = asked_before and not prepend
            expected = [float(missed and n == EDITED + 1) for n in range(BLOCKS)]
            assert torch.allclose(torch.tensor(gaps), torch.tensor(expected), atol=1e-5), f"changed: {name}"
    assert all(torch.equal(logits, outcomes[False, False]) for logits in outcomes.values()), f"changed: {name}'s logits"
PYTHON
