"""A run: several autoencoders on one stream of activations, from a configuration to saved weights."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

import allocation as al
from sae_torch.activations import (
    Stream,
)
from sae_torch.config_file import to_plain, toml
from sae_torch.devices import described_device
from sae_torch.environment import difference, environment, package_versions
from sae_torch.errors import InputError, InterruptedRunError, LostProcessError
from sae_torch.interop.saelens import metadata_of, save
from sae_torch.parallel.mesh import joined
from sae_torch.parallel.ranked import world_of
from sae_torch.parallel.world import ALONE, World
from sae_torch.training.checkpoint import FINISHED, Checkpoints, read_manifest, read_state
from sae_torch.training.determinism import deterministic, random_state, restore_random
from sae_torch.training.ending import calibrated_end
from sae_torch.training.host_memory import Sizes, require_memory
from sae_torch.training.interruption import Interruption
from sae_torch.training.log import StepRecord, shown
from sae_torch.training.memory import fit_to_gpu
from sae_torch.training.metrics import Sink, open_sinks, require_services
from sae_torch.training.resolved import resolved, used
from sae_torch.training.run_config import RunConfig
from sae_torch.training.run_folder import RunFolder
from sae_torch.training.streams import open_stream, source_of
from sae_torch.training.to_device import to_device
from sae_torch.training.trainer import PROBE_TOKENS, Trainer

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

# Fewer steps than this are said: warm-up and decay are most of them.
FEW_STEPS = 100


class Run:
    """One run in one folder; the same call again goes on where it stopped.

    ::

        out/config.toml  out/metrics.jsonl  out/checkpoints/step-...  out/<choice>-k<k>.../cfg.json

    On the CPU a run that was killed and went on gives the same bits as one that was not: weights, thresholds, ledger,
    optimiser. That needs the same versions, CPU and number of threads, which every checkpoint records.

    Parameters
    ----------
    config : RunConfig
    allow_inexact : bool
        Go on although versions, threads or CPU differ from those of the checkpoint.

    Examples
    --------
    >>> import pathlib, tempfile, numpy as np
    >>> from sae_torch.training.run import Run
    >>> from sae_torch.training.run_config import ReaderOptions, RunConfig, SaeOptions
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = pathlib.Path(folder)
    ...     np.save(place / "x.npy", np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32))
    ...     config = RunConfig(out=place / "run", activations=place / "x.npy", reader=ReaderOptions(batch_size=200),
    ...                        sae=SaeOptions(choice="mutual", n_features=32, k=4))
    ...     [path.name for path in Run(config, quiet=True).execute()]
    ['mutual-k4']
    """

    def __init__(self, config: RunConfig, allow_inexact: bool = False, quiet: bool = False) -> None:
        self.config = config = resolved(config)
        self.allow_inexact = allow_inexact
        self.quiet = quiet
        self.checkpoints = Checkpoints(
            config.out / "checkpoints", config.checkpoints.keep, keep_finished=config.checkpoints.keep_finished
        )
        self.folder = RunFolder(config)
        self.interruption = Interruption()
        self.stage = "starting"
        self.has_trained = False
        self.mesh: DeviceMesh | None = None
        self.world: World = ALONE

    def execute(self) -> list[Path]:
        """Train, calibrate and save every autoencoder; the folders they are in.

        Raises
        ------
        InputError
            If something given cannot be used; nothing is overwritten.
        InterruptedRunError
            After Ctrl-C or SIGTERM; the last step is in a checkpoint.
        FloatingPointError
            If a loss is not finite or diverges; the text has the step, the batch and the last good checkpoint, as it
            has where a batch holds NaN (InputError) or the limits of a choice cannot hold (InfeasibleError).
        OSError
            If the disk is full or cannot be written.
        """
        require_services(self.config.metrics)
        parallel = self.config.parallel
        self.mesh = joined(parallel.data, parallel.features)
        self.world = world_of(self.mesh, parallel.features)
        self.checkpoints = replace(self.checkpoints, world=self.world)
        self.interruption.several = self.world.count > 1
        self.quiet = self.quiet or not self.world.leads
        for name, value in {**package_versions(), "config": toml(self.config)}.items():
            self.world.require_alike(name, [value].__iter__)
        self._say_devices()
        self.world.once(self.folder.require_ours)  # first, so that a folder of something else stays as it is
        self.config.out.mkdir(parents=True, exist_ok=True)
        with self.interruption.watching(), contextlib.ExitStack() as held, deterministic(self.config.device):
            is_new = self.folder.is_new
            self.world.once(lambda: self.folder.occupy(held, self.checkpoints))
            try:
                with self._leaving_free(is_new):
                    return self._execute()
            except KeyboardInterrupt:
                raise InterruptedRunError(f"while {self.stage}", code=0) from None
            except LostProcessError:  # another has stopped already, as it was asked to
                if not self.interruption.requested:
                    raise
                raise InterruptedRunError(f"while {self.stage}", code=0) from None

    @contextlib.contextmanager
    def _leaving_free(self, is_new: bool) -> Iterator[None]:
        """A run that fails before its first step leaves its new folder to the corrected command."""
        try:
            yield
        except InterruptedRunError:
            raise
        except Exception:
            if is_new and not self.has_trained and self.world.leads:
                self.folder.leave_free(self.checkpoints)
            raise

    def _execute(self) -> list[Path]:
        names = list(self.config.autoencoders())
        places = [self.config.out / name for name in names]
        newest = self.checkpoints.newest()
        if newest is not None and newest.name == FINISHED:
            self._say(f"finished already: {', '.join(map(str, places))}")
            return places
        self.stage = "harvesting"
        reader = open_stream(self.config, self.shows_progress, self.mesh)
        self.world.require_alike("activations", lambda: sorted(source_of(reader).items()))
        self.world.agreed(lambda: self._require_memory(reader), lambda _: 0)
        trainers = self._trainers(reader)
        self.world.agreed(lambda: self._require_space(trainers), lambda _: 0)
        for name, chunk in fit_to_gpu(trainers, self.config.reader.batch_size).items():
            self._say(f"{name}: the scores of a batch do not fit {self.config.device}, so {chunk} features at a time")
        self.stage = "training"
        first = 0 if newest is None else self._resume(newest, reader, trainers)
        self._train(first, newest is not None, reader, trainers)
        self.stage = "calibrating"
        self._finish(reader, trainers)
        return places

    def _trainers(self, reader: Stream) -> dict[str, Trainer]:
        d_in, d_out = reader.d_in, reader.d_model - reader.d_in
        return {
            name: Trainer(options.coder(d_in, d_out, self.config.device, self.mesh), train)
            for name, (options, train) in self.config.autoencoders().items()
        }

    def _require_memory(self, reader: Stream) -> None:
        """Refuse what cannot fit before it is made."""
        d_in = reader.d_in
        d_out = (reader.d_model - d_in) or d_in
        sizes = [
            Sizes(options.n_features, d_in, d_out, options.feature_chunk, options.score_dtype in ("auto", "bfloat16"))
            for options, _ in self.config.autoencoders().values()
        ]
        parallel = self.config.parallel
        require_memory(sizes, self.config.reader.batch_size, self.config.device, parallel.data, parallel.features)

    def _require_space(self, trainers: dict[str, Trainer]) -> None:
        """Weights and two moments of each, one checkpoint more than are kept, and what is saved at the end."""
        weights = sum(p.numel() * p.element_size() for t in trainers.values() for p in t.sae.parameters())
        keep = self.config.checkpoints.keep
        needed = 3 * weights * (keep + 1 - min(keep, self.checkpoints.count)) + weights
        free = shutil.disk_usage(self.config.out).free
        if needed > free:
            where = "" if self.world.count == 1 else f" on rank {self.world.index}"
            raise InputError(
                f"{self.config.out} has {free / 1e9:.2f} GB left{where}, expected {needed / 1e9:.2f} GB for "
                f"{self.config.checkpoints.keep} checkpoints (checkpoints.keep) and the autoencoders"
            )

    def _resume(self, newest: Path, reader: Stream, trainers: dict[str, Trainer]) -> int:
        """Go on from a checkpoint; the steps that are done."""
        manifest = read_manifest(newest)
        other = difference(manifest["activations"], source_of(reader))
        if other:
            raise InputError(f"{newest} was trained on other activations ({other}); choose another --out")
        changed = difference(manifest["environment"], self._environment)
        if changed and not self.allow_inexact:
            raise InputError(
                f"{newest} was written in another environment ({changed}), so the result would not be the same to the "
                "last bit; restore it, or go on with --allow-inexact"
            )
        state = read_state(newest, self.world)
        for name, trainer in trainers.items():
            saved = state["trainers"][name]
            if saved["steps"] != len(reader):
                raise InputError(
                    f"{newest} is of a run of {saved['steps']} steps, the activations now give {len(reader)}; restore "
                    "them or choose another --out"
                )
            trainer.load_state_dict(saved, len(reader) * reader.batch_size)
        restore_random(state["random"])
        self._say(f"going on from {newest}")
        return int(state["step"])

    def _begin(self, batches: Iterator[Tensor], reader: Stream, trainers: dict[str, Trainer]) -> Iterator[Tensor]:
        """Begin with the first batches, which come again as the first steps."""
        first = list(itertools.islice(batches, -(-PROBE_TOKENS // reader.batch_size)))
        for trainer in trainers.values():
            for step, x in enumerate(first):
                with self._naming(step, reader):
                    trainer.checked(x, step)
            trainer.begin([self.world.share(x) for x in first], len(reader), len(reader) * reader.batch_size)
        if len(reader) < FEW_STEPS:
            passes = self.config.reader.passes * -(-FEW_STEPS // len(reader))
            again = "" if self.config.live else f", or --reader.passes {passes} shows the same ones again"
            self._say(f"only {len(reader)} steps of {reader.batch_size} tokens: more tokens make more{again}")
        return itertools.chain(first, batches)

    def _train(self, first: int, resumed: bool, reader: Stream, trainers: dict[str, Trainer]) -> None:
        """Train from step `first` on. A resumed run may stand at step 0, too; any other begins its trainers there."""
        from tqdm import tqdm

        step = first
        sinks: list[Sink] = []
        self.world.once(
            lambda: sinks.extend(open_sinks(self.config.metrics, self.config.out, first, to_plain(self.config)))
        )
        started = time.perf_counter()
        try:
            with (
                contextlib.closing(reader.from_step(step)) as read,
                tqdm(
                    total=len(reader), initial=step, desc="train", unit=" steps", disable=not self.shows_progress
                ) as bar,
                self.interruption.deferred(),
            ):
                batches = read if resumed else self._begin(read, reader, trainers)
                self.world.once(lambda: self.folder.add_used(used(self.config, trainers, reader.batch_size)))
                for x in batches:
                    # not every process has heard of it yet
                    if self.world.sum(int(self.interruption.requested)):
                        self.interruption.requested = True
                        break
                    x = to_device(x, self.config.device)
                    records = {}
                    for name, trainer in trainers.items():
                        with self._naming(step, reader, f"{name}: ", trainer):
                            records[name] = trainer.step(self.world.share(x))
                            self.has_trained = True
                    step += 1
                    bar.update()
                    if step % self.config.metrics.every == 0 or step == len(reader):
                        self._check_losses(step, reader, trainers)
                        speed = (step - first) * reader.batch_size / (time.perf_counter() - started)
                        texts: list[dict[str, str]] = []
                        for name, record in records.items():
                            values = _numbers(record, trainers[name], x) | {"tokens_per_second": round(speed)}
                            texts.append(shown(values))
                            for sink in sinks:
                                sink.write(step, name, values)
                        bar.set_postfix({key: " ".join(each[key] for each in texts) for key in texts[0]})
                    if step % self.config.checkpoints.every == 0 or step == len(reader):
                        self._check_losses(step, reader, trainers)
                        self._write(step, reader, _states(trainers))
                if self.interruption.requested and step < len(reader):
                    checkpoint = self._write(step, reader, _states(trainers))
                    raise InterruptedRunError(f"after step {step}, kept in {checkpoint}", code=0)
        finally:
            for sink in sinks:
                sink.close()

    @contextlib.contextmanager
    def _naming(self, step: int, reader: Stream, name: str = "", trainer: Trainer | None = None) -> Iterator[None]:
        """Add to what went wrong where the batch comes from and what is left to go on from."""
        try:
            yield
        except (FloatingPointError, InputError, al.InfeasibleError) as error:
            newest = self.checkpoints.newest()
            if trainer is not None and trainer.failed_step is not None:  # a GPU's are seen later
                step = trainer.failed_step
            raise type(error)(
                f"{name}{error}; {reader.origin(step)}; last good checkpoint: {newest or 'none yet'}"
            ) from error

    def _check_losses(self, step: int, reader: Stream, trainers: dict[str, Trainer]) -> None:
        """Read what a GPU has measured since the last reading."""
        for name, trainer in trainers.items():
            with self._naming(step, reader, f"{name}: ", trainer):
                trainer.check_losses()

    def _write(self, step: int, reader: Stream, states: dict[str, Any], finished: bool = False) -> Path:
        state = {"step": step, "trainers": states, "random": random_state()}
        facts = {"environment": self._environment, "activations": source_of(reader)}
        return self.checkpoints.write(step, state, facts, finished)

    @property
    def _environment(self) -> dict[str, str]:
        """What must be the same for the same bits; the number of processes too."""
        several = {} if self.mesh is None else {"processes": self.config.parallel.text}
        return environment(self.config.device) | several

    def _finish(self, reader: Stream, trainers: dict[str, Trainer]) -> None:
        """Calibrate on the last inputs, which are read again, and save; then nothing is left to do."""
        states = _states(trainers)
        for name, trainer in trainers.items():
            self._say(f"calibrating {name}")
            calibrated_end(trainer, lambda step: self.world.share(reader.batch(step)), reader.batch_size)
            save(trainer.sae.eval(), self.config.out / name, metadata_of(reader.header))
            states[name]["sae"] = trainer.sae.state_dict()
        self._write(len(reader), reader, states, finished=True)
        self._say(f"saved {', '.join(str(self.config.out / name) for name in trainers)}")

    def _say_devices(self) -> None:
        device, model = self.config.device, self.config.harvest.device
        other = "" if self.config.activations is not None or model == device else f", language model {model}"
        self._say(f"device: {described_device(device)}{other}")

    @property
    def shows_progress(self) -> bool:
        """Whether bars are drawn."""
        return self.config.train.progress and not self.quiet

    def _say(self, text: str) -> None:
        if not self.quiet:
            from tqdm import tqdm

            tqdm.write(text, file=sys.stderr)  # a bar that is there makes room
            sys.stderr.flush()


def _states(trainers: dict[str, Trainer]) -> dict[str, Any]:
    return {name: trainer.state_dict() for name, trainer in trainers.items()}


def _numbers(record: StepRecord, trainer: Trainer, x: Tensor) -> dict[str, float]:
    """What is logged of a step."""
    values = record.values()
    return values | {"k": trainer.sae.choice.k} | trainer.measured(values["reconstruction"], x)
