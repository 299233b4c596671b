"""Cross-entropy of the language model with activations replaced at one site."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sae_torch.activations.language_model import LanguageModel
from sae_torch.activations.layout import token_rows, with_token_rows
from sae_torch.activations.model_call import uncompiled
from sae_torch.activations.numbering import blocks
from sae_torch.activations.sites import (
    hidden_state,
    hook_at,
    outputs_at,
    resolve_site,
    with_hidden_state,
)
from sae_torch.errors import InputError
from sae_torch.parallel.ranked import workers_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Replacement = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ModelLoss:
    """Cross-entropy in nats per token.

    Parameters
    ----------
    clean : float
        Cross-entropy with the model's own activations.
    zero, mean : float
        Cross-entropy with every activation at the site replaced by zeros, by the mean activation.
    spliced : mapping of str to float
        Cross-entropy with each named replacement.
    n_tokens : int
        Predicted tokens.
    kl : mapping of str to float
        Mean divergence of the predictions from the clean ones, in nats, for ``"zero"``, ``"mean"`` and
        ``"spliced NAME"``.

    Examples
    --------
    >>> from sae_torch.evaluation import ModelLoss
    >>> loss = ModelLoss(clean=3.0, zero=11.0, mean=8.0, spliced={"mine": 4.0}, n_tokens=1000)
    >>> loss.recovered("mine", "zero"), loss.recovered("mine", "mean")
    (0.875, 0.8)
    """

    clean: float
    zero: float
    mean: float
    spliced: Mapping[str, float]
    n_tokens: int
    kl: Mapping[str, float] = field(default_factory=dict)

    def recovered(self, name: str, baseline: str = "zero") -> float:
        """Loss recovered, ``(baseline - spliced) / (baseline - clean)``.

        Parameters
        ----------
        name : str
            Name of the replacement.
        baseline : {"zero", "mean"}
            The ablation.
        """
        against: float = {"zero": self.zero, "mean": self.mean}[baseline]
        return (against - self.spliced[name]) / (against - self.clean)

    def kl_recovered(self, name: str, baseline: str = "zero") -> float:
        """Divergence recovered, ``1 - KL(spliced) / KL(baseline)``; parameters as of `recovered`."""
        return 1.0 - self.kl[f"spliced {name}"] / self.kl[baseline]


def model_loss(
    language_model: LanguageModel,
    site: str,
    windows: Tensor,
    mean: Tensor,
    replacements: Mapping[str, Replacement],
    *,
    windows_per_batch: int = 8,
    progress: str | None = None,
    mesh: DeviceMesh | None = None,
    source: str | None = None,
) -> ModelLoss:
    """Cross-entropy clean, ablated, and with each replacement, on the same windows.

    ``CE = -mean log p(token_t | tokens before t)`` over the tokens predicted from positions 1 on, and
    ``KL = mean sum_v p_clean(v) log(p_clean(v) / p(v))`` over the same positions

    Position 0 keeps its activation in every case, and the token predicted from it is left out: autoencoders
    here never see it. Where the site is the output of a block, the blocks before it run once per window and the others
    once per case; elsewhere the whole model runs once per case.

    Parameters
    ----------
    language_model : LanguageModel
        The model, a causal one.
    site : str
        ``"hidden_states[n]"`` or the path of a module.
    windows : (windows, length) integer tensor
        Token ids, at least 3 in a window.
    mean : (d_model,) float tensor
        What replaces activations in mean ablation.
    replacements : mapping of str to callable
        By name, a function from ``(tokens, d_model)`` float32 activations to as many others: those at the site, or with
        a `source` those there.
    windows_per_batch : int
        Windows in one forward pass.
    progress : str, optional
        Label of a progress bar; None shows none.
    mesh : torch.distributed.DeviceMesh, optional
        Processes of `st.parallel.mesh` that share the windows; all pass the same.
    source : str, optional
        Site before `site` that the replacements read, as transcoders do.

    Returns
    -------
    ModelLoss

    Raises
    ------
    InputError
        If the model predicts no next token, or the windows hold fewer than 3 tokens, so that nothing is predicted from
        position 1 on.
    """
    from tqdm import tqdm

    if not language_model.is_causal:
        raise InputError(
            f"language_model: expected a causal language model, found {language_model.name!r}, a "
            f"{type(language_model.model).__name__}, which predicts no next token"
        )
    if windows.ndim != 2 or windows.shape[0] == 0 or windows.shape[1] < 3:
        raise InputError(f"windows: expected shape (windows, length) with length >= 3, found {tuple(windows.shape)}")
    continued = resumed_at if _resumable(language_model.model, site) else forced_at
    cases: dict[str, Replacement | None] = {
        "clean": None,
        "zero": torch.zeros_like,
        "mean": lambda x: mean.to(x).expand_as(x),
        # prefixed, since a replacement may itself be called "clean"
        **{f"spliced {name}": replacement for name, replacement in replacements.items()},
    }
    predicted = windows.shape[0] * (windows.shape[1] - 2)
    total, world = predicted * len(cases), workers_of(mesh)
    with tqdm(total=total, desc=progress, unit=" tokens", unit_scale=True, disable=progress is None) as bar:

        def measure(batch: Tensor) -> Tensor:
            measured = []
            with torch.inference_mode(), uncompiled():
                for of_case in _sums(language_model, site, source, batch, cases, continued):
                    measured.append(of_case)
                    bar.update(min(world.count * batch.shape[0] * (batch.shape[1] - 2), total - bar.n))
            return torch.stack(measured)

        # a window's numbers are added in the order of the windows, whoever has measured them
        parts = world.divided([partial(measure, batch) for batch in torch.split(windows, windows_per_batch)])
        bar.update(total - bar.n)
    totals = torch.cat(parts, dim=1).cumsum(dim=1)[:, -1].tolist()
    sums, divergences = ({name: of[part] for name, of in zip(cases, totals, strict=True)} for part in (0, 1))
    means = {name: value / predicted for name, value in sums.items()}
    return ModelLoss(
        clean=means["clean"],
        zero=means["zero"],
        mean=means["mean"],
        spliced={name: means[f"spliced {name}"] for name in replacements},
        n_tokens=predicted,
        kl={name: value / predicted for name, value in divergences.items() if name != "clean"},
    )


def _sums(
    language_model: LanguageModel,
    site: str,
    source: str | None,
    batch: Tensor,
    cases: Mapping[str, Replacement | None],
    continued: Callable[[nn.Module, str, Any], contextlib.AbstractContextManager[None]],
) -> Iterator[Tensor]:
    """For each case, the first of which is the clean one, the sums of every window, (windows, 2) float64."""
    token_ids = batch.long().to(language_model.device)
    output, given = outputs_at(language_model.model, (site, source or site), token_ids)
    hidden, read = hidden_state(output), hidden_state(given)
    clean = torch.zeros(0)
    for name, replacement in cases.items():
        reads = read if name.startswith("spliced ") else hidden
        state = hidden if replacement is None else _replaced(hidden, reads, replacement, token_ids)
        with continued(language_model.model, site, with_hidden_state(output, state)):
            logits = language_model.model(input_ids=token_ids, use_cache=False).logits
        logits = logits[:, 1:-1]
        clean = logits if replacement is None else clean
        sums = torch.zeros(len(batch), 2, dtype=torch.float64)
        for number, (row, of_clean, targets) in enumerate(zip(logits, clean, token_ids[:, 2:], strict=True)):
            # a window at a time, since float32 logits of a whole batch would be large
            log_p = row.float().log_softmax(-1)
            sums[number, 0] = float(nn.functional.nll_loss(log_p, targets, reduction="sum"))
            if replacement is not None:
                log_clean = of_clean.float().log_softmax(-1)
                sums[number, 1] = float(nn.functional.kl_div(log_p, log_clean, reduction="sum", log_target=True))
        yield sums


def _resumable(model: nn.Module, site: str) -> bool:
    """Whether the site is the output of a block, so that the model can start there."""
    target = resolve_site(model, site)
    try:
        return target in list(blocks(model))
    except InputError:  # blocks that cannot be told from other lists
        return False


def _replaced(hidden: Tensor, read: Tensor, replacement: Replacement, token_ids: Tensor) -> Tensor:
    """The activations but for position 0, by what a replacement makes of others there."""
    rows, given = (token_rows(each, *token_ids.shape) for each in (hidden, read))
    rest = rows[:, 1:]
    new = replacement(given[:, 1:].reshape(-1, given.shape[-1]).float()).to(hidden.dtype).view(rest.shape)
    return with_token_rows(hidden, torch.cat([rows[:, :1], new], dim=1))


@contextlib.contextmanager
def forced_at(model: nn.Module, site: str, output: Any) -> Iterator[None]:
    """Let a site hold a given output while the context lasts; everything before it runs in vain."""
    handle = hook_at(model, site, lambda *_: output)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def resumed_at(model: nn.Module, site: str, output: Any) -> Iterator[None]:
    """Let the model start at a site with a given output there, while the context lasts.

    The blocks up to the site are passed over. Everything around the blocks (masks, rotary embeddings, final norm, head)
    stays the model's own code.

    Parameters
    ----------
    model : torch.nn.Module
        A transformers model.
    site : str
        The output of a block.
    output : tensor or tuple
        What that block shall return, of the kind it returns itself.

    Raises
    ------
    InputError
        If the site is not the output of a block.
    """
    target, layers = resolve_site(model, site), list(blocks(model))
    if target not in layers:
        raise InputError(f"site: expected the output of a block, since the model is resumed there, found {site!r}")
    skipped = layers[: layers.index(target) + 1]

    def passed_over(*args: Any, **kwargs: Any) -> Any:
        return output

    for block in skipped:
        # an instance attribute hides the method, while the model still finds its block and its attributes
        block.forward = passed_over
    try:
        yield
    finally:
        for block in skipped:
            del block.forward
