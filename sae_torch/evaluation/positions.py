"""Which tokens of a model's call come after the first of their text: with a cache and with padding too."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sae_torch.errors import InputError

# What a call hands over from the tokens before it, in the names of all families.
_CACHES = ("past_key_values", "cache_params", "past_buckets_states", "state", "cache")


@dataclass(frozen=True)
class _Call:
    """What one module on the way to the site was told of the tokens."""

    windows: int
    length: int
    past: int | None
    """Tokens before these; None for some, where the state does not count them."""
    positions: Tensor | None
    mask: Tensor | None
    """1 for a token, 0 for padding; of the tokens before these too, where it is longer than they are."""
    device: torch.device


@dataclass
class ModelCalls:
    """The calls that a site lies in, innermost last, and what they tell of its tokens.

    Positions are the model call's: a module on the way, such as an MLP, is told none. `watching` keeps them while the
    context lasts.
    """

    reached: bool = False
    """Whether a call has come by the site; whoever reads the site says so."""
    _calls: dict[int, _Call] = field(default_factory=dict)
    _earlier: dict[tuple[int, int], Tensor | None] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Windows and tokens in each, of the innermost call; None where no call takes tokens."""
        call = self._innermost
        return None if call is None else (call.windows, call.length)

    @property
    def _innermost(self) -> _Call | None:
        return self._calls[max(self._calls)] if self._calls else None

    def after_first(self, windows: int, length: int) -> Tensor | None:
        """Which tokens come after the first of their text, ``(windows, length)`` bool, False for padding.

        None where no call took these tokens.

        Raises
        ------
        InputError
            If the calls do not tell.
        """
        inner = self._innermost
        if inner is None:
            # a block that is computed again in a backward pass, outside any call
            if self._earlier.get((windows, length), False) is None:
                raise InputError(
                    "skip_first: expected False where activations are computed again after calls with other positions, "
                    "found True"
                )
            return self._earlier.get((windows, length))
        if (inner.windows, inner.length) != (windows, length):
            return None
        calls = [self._calls[depth] for depth in sorted(self._calls, reverse=True)]
        calls = [call for call in calls if (call.windows, call.length) == (windows, length)]
        positions = next((call.positions for call in calls if call.positions is not None), None)
        mask = next((call.mask for call in calls if call.mask is not None), None)
        past = _most([call.past for call in calls])
        after = torch.ones(windows, length, dtype=torch.bool, device=inner.device)
        if mask is not None:
            after &= _after_padding(mask.to(inner.device), past, windows, length)
        elif past == 0:
            after[:, 0] = False
        if positions is not None:
            after &= positions.to(inner.device).expand(windows, length) != 0
        if torch.is_grad_enabled():
            known = self._earlier.setdefault((windows, length), after)
            if known is not None and not torch.equal(known, after):
                self._earlier[windows, length] = None
        return after

    @contextlib.contextmanager
    def watching(self, model: nn.Module, module: nn.Module, site: str) -> Iterator[None]:
        """Follow the calls of `model`, and of the modules between it and `module`, while the context lasts.

        Raises
        ------
        InputError
            When a call of the model ends that did not come by the site: nothing was replaced.
        """
        handles = []
        for depth, ancestor in enumerate(_path(model, module)):
            signature = inspect.signature(ancestor.forward)
            if not {"input_ids", "inputs_embeds"} & signature.parameters.keys():
                continue

            def enter(
                _: nn.Module,
                inputs: Any,
                named: dict[str, Any],
                depth: int = depth,
                signature: inspect.Signature = signature,
            ) -> None:
                call = _told(signature, inputs, named)
                if call is not None:
                    self._calls[depth] = call

            def leave(_: nn.Module, inputs: Any, output: Any, depth: int = depth) -> None:
                self._calls.pop(depth, None)

            handles.append(ancestor.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(ancestor.register_forward_hook(leave, always_call=True))

        def check(_: nn.Module, inputs: Any, output: Any) -> None:
            if not self.reached:
                raise InputError(
                    f"site: expected a module that the forward pass reaches, found {site!r}, which it does not"
                )

        if module is not model:
            handles.append(model.register_forward_hook(check))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _path(model: nn.Module, module: nn.Module) -> list[nn.Module]:
    """Modules from the model down to the one around `module`."""
    path = next(name for name, each in model.named_modules(remove_duplicate=False) if each is module)
    parts = path.split(".") if path else []
    return [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]


def _told(signature: inspect.Signature, inputs: Any, named: Mapping[str, Any]) -> _Call | None:
    """What the arguments of a call tell; None where it takes no tokens, or two sequences of them."""
    try:
        bound = signature.bind_partial(*inputs, **named).arguments
    except TypeError:
        return None  # the module itself says what is wrong
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    # whose mask and cache are those of one of the two; the stack inside is told its own
    if "decoder_input_ids" in signature.parameters:
        return None
    ids, embedded = bound.get("input_ids"), bound.get("inputs_embeds")
    if isinstance(ids, Tensor):
        shape = ids.reshape(-1, ids.shape[-1]).shape
    elif isinstance(embedded, Tensor):
        shape = embedded.shape[:2]
    else:
        return None
    positions, mask = bound.get("position_ids"), bound.get("attention_mask")
    if isinstance(positions, Tensor) and positions.ndim == 3:
        positions = positions[0]  # of several axes for images, the first is that of the text
    tokens = ids if isinstance(ids, Tensor) else embedded
    assert isinstance(tokens, Tensor)
    return _Call(
        windows=int(shape[0]),
        length=int(shape[1]),
        past=_most([_past(bound.get(name)) for name in _CACHES]),
        positions=positions if isinstance(positions, Tensor) else None,
        mask=mask if isinstance(mask, Tensor) and mask.ndim == 2 else None,
        device=tokens.device,
    )


def _most(pasts: Sequence[int | None]) -> int | None:
    counted = max((past for past in pasts if past is not None), default=0)
    return None if counted == 0 and None in pasts else counted


def _past(cache: Any) -> int | None:
    """Tokens that a cache holds; None for some that it does not count."""
    if cache is None:
        return 0
    if isinstance(cache, Mapping):
        return int(cache.get("slen", 0))
    if hasattr(cache, "get_seq_length"):
        try:
            return int(cache.get_seq_length())
        except ValueError:  # states of linear attention alone, which have no length
            return None if cache.has_previous_state() else 0
    seen = getattr(cache, "seqlen_offset", None)
    return None if seen is None else int(seen)


def _after_padding(mask: Tensor, past: int | None, windows: int, length: int) -> Tensor:
    """Tokens that are no padding and have one before them, by a mask over these tokens or all so far."""
    before = mask.shape[1] - length
    if past is None:
        past = max(before, 1)
    real = mask != 0
    if past > 0 and before == 0:
        after = real  # a mask of these tokens alone, all of which come after others
    elif before >= past:
        after = (real & (real.cumsum(1) > 1))[:, past : past + length]
    else:
        raise InputError(
            f"skip_first: expected False where positions cannot be known, found True and an attention mask of shape "
            f"{tuple(mask.shape)} for {windows} x {length} tokens after {past}"
        )
    return after.expand(windows, length)
