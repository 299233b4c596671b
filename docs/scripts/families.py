"""What was tried of each family of causal models: the table of the page "Families of language models".

`PYTHONPATH=. python docs/scripts/families.py` writes
docs/assets/tables/families.md, from tiny random models; nothing is downloaded.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from sae_torch.activations.sites import hidden_state, output_at, resolve_site
from sae_torch.errors import InputError
from sae_torch.evaluation import splice
from tests.sae_torch.tiny_families import tiny
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

TABLE = Path(__file__).parent.parent / "assets" / "tables" / "families.md"
SITE = "hidden_states[2]"
IDS = torch.randint(3, 61, (2, 7), generator=torch.Generator().manual_seed(0))
PADDING = torch.zeros(2, 2, dtype=torch.long)
MASK = torch.cat([PADDING, torch.ones_like(IDS)], dim=1)
# The largest difference that rounding may cause in logits of a few units.
TOLERANCE = 2e-3
LARGEST = 3_000_000
CACHES = ("past_key_values", "cache_params", "state")


class Shift(nn.Module):
    """An autoencoder that adds the same vector to every token."""

    def encode(self, x: Tensor) -> Any:
        """The activations themselves."""
        return x

    def decode(self, codes: Any) -> Tensor:
        """What was encoded, and the vector."""
        generator = torch.Generator().manual_seed(0)
        shift: Tensor = codes + 5 * torch.randn(codes.shape[-1], generator=generator)
        return shift


def numbered(model: Any) -> str:
    """Whether `hidden_states[n]` is that of transformers, or refused."""
    refused = []
    for index in range(4):
        site = f"hidden_states[{index}]"
        try:
            held = hidden_state(output_at(model, site, IDS))
        except InputError:
            refused.append(str(index))
            continue
        states = model(input_ids=IDS, output_hidden_states=True).hidden_states
        if not torch.equal(held, states[index]):
            return "WRONG"
    if len(refused) == 4:
        return "refused"
    return f"right, {', '.join(refused)} refused" if refused else "right"


def sites(model: Any) -> list[str]:
    """A block, and its own modules whose output has three axes."""
    block = resolve_site(model, SITE)
    path = next(name for name, each in model.named_modules() if each is block)
    shapes: dict[str, int] = {}
    handles = []
    for name, module in block.named_children():

        def note(_: Any, inputs: Any, output: Any, name: str = name) -> None:
            output = output[0] if isinstance(output, tuple) else output
            shapes[name] = getattr(output, "ndim", 0)

        handles.append(module.register_forward_hook(note))
    model(input_ids=IDS)
    for handle in handles:
        handle.remove()
    inside = [name for name, axes in shapes.items() if name and axes == 3]
    return [SITE, *(f"{path}.{name}" for name in inside)]


def compared(model: Any, places: list[str], other: Callable[[Any], Any]) -> str:
    """Whether spliced logits agree, at every place."""
    plain = other(model)
    if plain is None:
        return "no cache"
    whole = model(input_ids=IDS).logits[:, -plain.shape[1] :]
    if (plain - whole).abs().max() > TOLERANCE:
        return "not comparable"
    for place in places:
        try:
            with splice(model, place, Shift()):
                difference = (model(input_ids=IDS).logits[:, -plain.shape[1] :] - other(model)).abs()
        except InputError:
            continue  # said
        if difference.max() > TOLERANCE:
            return f"WRONG at {place}"
    return "right"


def in_chunks(model: Any) -> Tensor | None:
    """Logits of the last three tokens, one at a time after a cache."""
    out = model(input_ids=IDS[:, :4], use_cache=True)
    held = [name for name in CACHES if getattr(out, name, None) is not None]
    if not held:
        return None
    logits = []
    for position in range(4, 7):
        cache = {held[0]: getattr(out, held[0])}
        chunk = IDS[:, position : position + 1]
        out = model(input_ids=chunk, use_cache=True, **cache)
        logits.append(out.logits)
    return torch.cat(logits, dim=1)


def padded(model: Any) -> Tensor:
    """Logits of the last token beside padding on the left."""
    options: dict[str, Any] = {}
    if "position_ids" in inspect.signature(model.forward).parameters:
        options["position_ids"] = (MASK.cumsum(1) - 1).clamp(min=0)
    ids = torch.cat([PADDING + 1, IDS], dim=1)
    logits: Tensor = model(input_ids=ids, attention_mask=MASK, **options).logits
    return logits[:, -1:]


def tried(kind: str) -> tuple[str, str, str]:
    """Numbering, cache and padding of one family."""
    try:
        with torch.device("meta"):
            size = sum(part.numel() for part in tiny(kind).parameters())
        if size > LARGEST:
            return ("not tried: no tiny model", "", "")
        model = tiny(kind)
        model(input_ids=IDS)
    except Exception:
        return ("not tried: no tiny model", "", "")
    numbering = numbered(model)
    if numbering == "refused":
        return (numbering, "", "")
    places = sites(model)
    found = []
    for other in (in_chunks, padded):
        try:
            found.append(compared(model, places, other))
        except Exception as error:  # whatever the model itself refuses
            found.append(f"not comparable: {type(error).__name__}")
    return (numbering, found[0], found[1])


def main() -> None:
    """Try every family and write the table."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    kinds: dict[str, list[str]] = {}
    for family, names in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()):
        name = names if isinstance(names, str) else names[0]
        kinds.setdefault(name, []).append(family)
    rows: dict[tuple[str, str, str], list[str]] = {}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, families in kinds.items():
            found = tried(name)
            print(name, *found, sep=" | ", flush=True)
            rows.setdefault(found, []).append(min(families, key=len))
    lines = [
        "| `hidden_states[n]` | with a cache | padding on the left | families |",
        "| --- | --- | --- | --- |",
    ]
    ordered = sorted(rows.items(), key=lambda row: -len(row[1]))
    for (numbering, cache, padding), families in ordered:
        named = ", ".join(sorted(families))
        lines.append(f"| {numbering} | {cache} | {padding} | {named} |")
    lines.append("")
    lines.append(f"transformers {transformers.__version__}")
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
