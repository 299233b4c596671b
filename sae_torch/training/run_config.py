"""A whole run as nested dataclasses of plain values: what is read, what is trained, what is kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_torch.activations.config import HarvestOptions
from sae_torch.autoencoder import SparseAutoencoder
from sae_torch.choices.balanced import BalancedChoice
from sae_torch.choices.choice import Choice
from sae_torch.choices.feature import FeatureChoice
from sae_torch.choices.mutual import MutualChoice
from sae_torch.choices.own import own_choice
from sae_torch.choices.token import TokenChoice
from sae_torch.devices import AUTO, resolved_device
from sae_torch.errors import InputError
from sae_torch.losses import require_prefixes
from sae_torch.sparse_coder import SparseCoder
from sae_torch.training.config import TrainConfig
from sae_torch.transcoder import Transcoder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

CHOICES = ("token", "mutual", "feature", "balanced")
# The floors of balanced choice without other limits, as a share of the mean use of a feature, k / n_features. In the
# evidence study an eighth left a feature dead here and there, and a quarter costs no reconstruction.
FLOOR = 1 / 4


@dataclass(frozen=True)
class ReaderOptions:
    """How activations become batches."""

    batch_size: int = 2048
    """Tokens per step."""
    passes: int = 1
    """How often every token is seen."""
    seed: int = 0
    """Seed of the order of the tokens."""
    pool_tokens: int = 1 << 21
    """Tokens that are shuffled with one another; at most 131072 in live mode, where they are held in memory."""
    prefetch: int = 2
    """Batches read ahead by a thread."""


@dataclass(frozen=True)
class SaeOptions:
    """One autoencoder."""

    kind: Literal["autoencoder", "transcoder"] = "autoencoder"
    """What is learned: activations from themselves, or those of another site from them (harvest.target)."""
    skip: bool = False
    """Transcoder: a linear map from the input to the output beside the features."""
    choice: str = "balanced"
    """Who chooses the features of a token: "token", "mutual", "feature", "balanced" (mutual choice with a least use of
    every feature), or "module:Class", a choice of your own that Python can import."""
    choice_options: dict[str, int | float | str] = field(default_factory=dict)
    """A choice of your own: what its class is called with besides k, as names and values."""
    n_features: int = 4608
    """Features."""
    k: float = 32.0
    """Budget: mean number of features per token."""
    seed: int = 0
    """Seed of the weights."""
    quotas: Literal["zipf", "uniform"] = "zipf"
    """Quotas of feature choice."""
    switch: float = 0.85
    """Share of the steps after which feature choice fits its quotas; until then it is mutual choice."""
    token_caps: int | None = None
    """Balanced choice: most features of a token."""
    token_floors: int | None = None
    """Balanced choice: least features of a token."""
    feature_caps: float | None = None
    """Balanced choice: largest share of the tokens of a feature."""
    feature_floors: float | None = None
    """Balanced choice: least share of the tokens of a feature; a quarter of the mean share if no limit is given."""
    floors_in_eval: bool = True
    """Balanced choice: whether floors of features count for the thresholds of eval mode, one for each feature. Without,
    one for all: a little less error, and some features may not fire."""
    score_dtype: Literal["auto", "float32", "bfloat16"] | None = None
    """Type of the dense product: auto takes the faster one; on a CPU its error decides nothing. None: as it comes."""
    feature_chunk: int | None = None
    """Encode and select this many features at a time; by default all, or on a CUDA device as many as fit."""

    def __post_init__(self) -> None:
        if ":" not in self.choice:
            if self.choice not in CHOICES:
                expected = ", ".join(CHOICES)
                raise InputError(f"choice: expected {expected} or module:Class, found {self.choice!r}")
            if self.choice_options:
                raise InputError(f"choice_options: expected a choice of your own, module:Class, found {self.choice}")
        if self.skip and self.kind != "transcoder":
            raise InputError(f"skip: expected it with kind transcoder, found kind {self.kind}")
        limits = ("token_caps", "token_floors", "feature_caps", "feature_floors")
        given = [name for name in limits if getattr(self, name) is not None]
        given += [] if self.floors_in_eval else ["floors_in_eval"]
        if given and self.choice != "balanced":
            raise InputError(f"{given[0]}: only balanced choice takes it, found choice {self.choice}")
        if self.n_features < 1:
            raise InputError(f"n_features: expected at least 1, found {self.n_features}")
        if self.feature_chunk is not None and self.feature_chunk < 1:
            raise InputError(f"feature_chunk: expected at least 1, found {self.feature_chunk}")
        if not 0 < self.k <= self.n_features:
            raise InputError(f"k: expected more than 0 and at most the {self.n_features} features, found {self.k:g}")

    def coder(self, d_in: int, d_out: int, device: str, mesh: DeviceMesh | None = None) -> SparseCoder:
        """The autoencoder or transcoder as it begins."""
        types = {"float32": torch.float32, "bfloat16": torch.bfloat16}
        given: dict[str, Any] = {
            "n_features": self.n_features,
            "choice": self.new_choice(),
            "device": device,
            "seed": self.seed,
            "score_dtype": types.get(self.score_dtype, self.score_dtype),  # type: ignore[arg-type]
            "feature_chunk": self.feature_chunk,
            "mesh": mesh,
        }
        if self.kind == "transcoder":
            return Transcoder(d_in, d_out, skip=self.skip, **given)
        return SparseAutoencoder(d_in, **given)

    def new_choice(self) -> Choice:
        """Its choice as it begins.

        Raises
        ------
        InputError
            If there is no such choice, or it does not take these settings.
        """
        if ":" in self.choice:
            return own_choice(self.choice, self.k, self.choice_options)
        if self.choice == "token":
            return TokenChoice(self.k)  # type: ignore[arg-type]  # it says itself that k must be whole
        if self.choice == "mutual":
            return MutualChoice(self.k)
        if self.choice == "feature":
            return FeatureChoice(self.k, quotas=self.quotas, switch=self.switch)
        limits = (self.token_caps, self.token_floors, self.feature_caps, self.feature_floors)
        if all(limit is None for limit in limits):
            limits = (None, None, None, FLOOR * self.k / self.n_features)
        return BalancedChoice(self.k, *limits, floors_in_eval=self.floors_in_eval)


@dataclass(frozen=True)
class SweepOptions:
    """Several values in place of one: every combination is trained, on the same stream of activations."""

    choice: tuple[str, ...] = ()
    """Choices."""
    n_features: tuple[int, ...] = ()
    """Numbers of features."""
    k: tuple[float, ...] = ()
    """Budgets."""
    seed: tuple[int, ...] = ()
    """Seeds of the weights."""
    switch: tuple[float, ...] = ()
    """Switches of feature choice."""
    learning_rate: tuple[float, ...] = ()
    """Peak learning rates."""
    auxiliary: tuple[Literal["auto", "zipf", "k", "none"], ...] = ()
    """Auxiliary losses."""


@dataclass(frozen=True)
class CheckpointOptions:
    """What is kept to go on from."""

    every: int = 500
    """Steps between checkpoints; one more is written at the end, and when the run is interrupted."""
    keep: int = 2
    """How many of the newest are kept."""
    keep_finished: bool = False
    """Keep them beside the last one when the run is finished, too."""

    def __post_init__(self) -> None:
        for name in ("every", "keep"):
            if getattr(self, name) < 1:
                raise InputError(f"checkpoints.{name}: expected at least 1, found {getattr(self, name)}")


@dataclass(frozen=True)
class MetricsOptions:
    """Where numbers go besides metrics.jsonl; none of it changes the training."""

    every: int = 10
    """Steps between two records."""
    tensorboard: bool = False
    """Write event files for TensorBoard into the run's folder."""
    wandb: str | None = None
    """Weights & Biases project to log to."""
    trackio: str | None = None
    """trackio project to log to."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"metrics.every: expected at least 1, found {self.every}")


@dataclass(frozen=True)
class ParallelOptions:
    """How the processes that torchrun started share the work."""

    data: int = 1
    """Processes that share the tokens of every batch; the result does not depend on their number, but for rounding."""
    features: int = 1
    """Processes that share the dictionary: each holds a slice of the features and of the optimiser's state."""

    def __post_init__(self) -> None:
        for name in ("data", "features"):
            if getattr(self, name) < 1:
                raise InputError(f"parallel.{name}: expected at least 1, found {getattr(self, name)}")

    @property
    def text(self) -> str:
        """As a checkpoint records it."""
        return str(self.data) if self.features == 1 else f"{self.data} x {self.features}"


@dataclass(frozen=True)
class RunConfig:
    """Train autoencoders on one stream of activations."""

    out: Path = Path("runs/train")
    """Folder of the run: configuration, metrics, checkpoints, autoencoders."""
    activations: Path | None = None
    """Activations that lie on disk: shards, a SAELens cache, .npy; by default they are harvested as `harvest` says."""
    targets: Path | None = None
    """Of a transcoder, beside activations on disk: the targets, the same tokens in the same order."""
    column: str | None = None
    """Of a SAELens cache with several hooks: the one to train on."""
    live: bool = False
    """Harvest while training, without a disk; a resumed run then goes on with other batches than it would have."""
    device: str = AUTO
    """Where the autoencoders are trained; auto is the card where there is one, else the CPU."""
    harvest: HarvestOptions = field(default_factory=HarvestOptions)
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    sae: SaeOptions = field(default_factory=SaeOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    metrics: MetricsOptions = field(default_factory=MetricsOptions)
    parallel: ParallelOptions = field(default_factory=ParallelOptions)

    def __post_init__(self) -> None:
        if self.live and self.activations is not None:
            raise InputError(f"live: activations lie in {self.activations} already, expected one of the two")
        self._require_targets()
        if self.live and self.reader.passes > 1:
            raise InputError(
                f"reader.passes: expected 1 in live mode, which stores nothing, found {self.reader.passes}"
            )
        if self.reader.batch_size < self.parallel.data:
            raise InputError(
                f"reader.batch_size: expected a token for each of {self.parallel.data} processes, found "
                f"{self.reader.batch_size}"
            )
        if self.activations is None and self.harvest.tokens < self.reader.batch_size:
            raise InputError(
                f"harvest.tokens: expected at least one batch of {self.reader.batch_size} (reader.batch_size), found "
                f"{self.harvest.tokens}"
            )
        device = resolved_device(self.device)
        for sae, train in self.autoencoders().values():  # every combination is checked before anything runs
            choice = sae.new_choice()
            choice.build(sae.n_features)
            if sae.feature_chunk is not None and choice.limits(0) is None:
                raise InputError(
                    f"feature_chunk: {sae.choice} choice reads the whole matrix of scores, expected another"
                )
            if train.graph and not (choice.supports_graph and torch.device(device).type == "cuda"):
                found = f"{sae.choice} choice on {device}"
                raise InputError(f"graph: expected token or mutual choice on a CUDA device, found {found}")
            train.require_room(choice, sae.n_features)
            if train.prefixes is not None:
                require_prefixes(train.prefixes, sae.n_features)

    def _require_targets(self) -> None:
        """Targets for a transcoder, and for it alone."""
        named = "harvest.target" if self.activations is None else "targets"
        given, other = self.harvest.target, self.targets
        if self.activations is not None:
            given, other = other, given  # type: ignore[assignment]
        if other is not None:
            where = "activations that lie on disk" if self.activations is None else "activations that are harvested"
            raise InputError(
                f"{'targets' if self.activations is None else 'harvest.target'}: is for {where}, expected {named}"
            )
        if self.sae.kind == "transcoder" and given is None:
            raise InputError(f"{named}: expected what a transcoder computes, found nothing")
        if self.sae.kind != "transcoder" and given is not None:
            raise InputError(f"{named}: expected with sae.kind transcoder, found {given} with {self.sae.kind}")

    def autoencoders(self) -> dict[str, tuple[SaeOptions, TrainConfig]]:
        """Every combination of the sweep, by a name that says what it is."""
        swept = {option.name: getattr(self.sweep, option.name) for option in fields(self.sweep)}
        swept = {name: values for name, values in swept.items() if values}
        trained = {option.name for option in fields(TrainConfig)}
        combinations: dict[str, tuple[SaeOptions, TrainConfig]] = {}
        for values in itertools.product(*swept.values()):
            changes = dict(zip(swept, values, strict=True))
            sae = replace(self.sae, **{n: v for n, v in changes.items() if n not in trained})
            train = replace(self.train, **{n: v for n, v in changes.items() if n in trained})
            name = _slug({"choice": sae.choice, "k": sae.k} | changes)
            if name in combinations:
                raise InputError(f"sweep: {name} comes two times")
            combinations[name] = (sae, train)
        return combinations


def _slug(settings: dict[str, Any]) -> str:
    """``feature-k32``, and what else is swept."""
    rest = {name: value for name, value in settings.items() if name not in ("choice", "k")}
    choice = settings["choice"].rpartition(":")[2]
    parts = [v if isinstance(v, str) else f"{name.replace('_', '-')}-{v:g}" for name, v in rest.items()]
    return "-".join([choice, f"k{settings['k']:g}", *parts])
