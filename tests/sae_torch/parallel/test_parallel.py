"""Several real processes against one: the same matches, losses and weights."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sae_torch as st
from sae_torch.choices.activation_token import ActivationTokenChoice
from sae_torch.cli import main
from sae_torch.parallel.world import ALONE
from sae_torch.training.run import Run
from sae_torch.training.run_config import (
    CheckpointOptions,
    ParallelOptions,
    ReaderOptions,
    RunConfig,
    SaeOptions,
    SweepOptions,
)
from tests.sae_torch.parallel.processes import Processes
from tests.sae_torch.parallel.runs import CHOICES, D_MODEL, FEATURES, Case, batches, compare, train

TYPES = ("bool", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    processes = Processes(2)
    yield processes
    processes.close()


def drawn(rank: int, case: int, kind: str) -> np.ndarray[Any, Any]:
    """A vector of any bits, often empty."""
    rng = np.random.default_rng([rank, case])
    size = int(rng.integers(0, 40)) * int(rng.integers(0, 2))
    if kind == "bool":
        return rng.integers(0, 2, size).astype(bool)
    return rng.integers(0, 256, size * np.dtype(kind).itemsize, dtype=np.uint8).view(kind)


def gather_drawn(rank: int) -> list[list[bytes]]:
    ranks = st.parallel.ranks()
    found = []
    for case in range(40):
        parts = ranks.gather(drawn(rank, case, TYPES[case % len(TYPES)]))
        assert all(part.dtype == TYPES[case % len(TYPES)] for part in parts)
        found.append([part.tobytes() for part in parts])
    return found


def test_gathered_vectors_are_those_of_all_ranks_bit_for_bit(two: Processes) -> None:
    expected = [[drawn(rank, case, TYPES[case % len(TYPES)]).tobytes() for rank in range(2)] for case in range(40)]
    assert two.run(gather_drawn) == [expected, expected]


def sum_drawn(rank: int) -> list[bytes]:
    ranks = st.parallel.ranks()
    assert (ranks.index, ranks.count) == (rank, 2)
    rng = np.random.default_rng(rank)
    whole = ranks.sum(rng.integers(-(2**62), 2**62, (3, 50)))
    real = ranks.sum(rng.normal(size=1000) * 10.0 ** rng.integers(-300, 300, 1000))
    assert ranks.sum(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(st.InputError, match="values: expected int64 or float64, found float32"):
        ranks.sum(np.zeros(1, np.float32))
    return [whole.tobytes(), real.tobytes()]


def test_sums_are_exact_and_the_same_on_every_rank(two: Processes) -> None:
    one, other = two.run(sum_drawn)
    assert one == other
    rngs = [np.random.default_rng(rank) for rank in range(2)]
    assert one[0] == (sum(rng.integers(-(2**62), 2**62, (3, 50)) for rng in rngs)).tobytes()
    assert one[1] == (sum(rng.normal(size=1000) * 10.0 ** rng.integers(-300, 300, 1000) for rng in rngs)).tobytes()


def meshes_of(rank: int) -> list[Any]:
    with pytest.raises(st.InputError, match=r"found 2 x 2 = 4 with WORLD_SIZE = 2"):
        st.parallel.mesh(data=2, features=2)
    shapes = [(2, 1), (1, 2)]
    grids = [st.parallel.mesh(data=data, features=features) for data, features in shapes]
    assert [tuple(grid.shape) for grid in grids] == shapes
    return [(grid["data"].get_local_rank(), grid["features"].get_local_rank()) for grid in grids]


def test_a_mesh_has_data_and_features(two: Processes) -> None:
    assert two.run(meshes_of) == [[(0, 0), (0, 0)], [(1, 0), (0, 1)]]


def test_a_mesh_of_one_process_needs_no_process_group() -> None:
    assert tuple(st.parallel.mesh().shape) == (1, 1)
    assert not torch.distributed.is_initialized()
    with pytest.raises(st.InputError, match="data: expected a positive number of processes, found 0"):
        st.parallel.mesh(data=0)
    with pytest.raises(st.InputError, match=r"found 2 x 1 = 2 with WORLD_SIZE = 1"):
        st.parallel.mesh(data=2)


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    """The command line in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sae_torch"]
    return subprocess.run([*launch, *map(str, words)], capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_the_command_line_trains_in_two_processes_as_in_one(tmp_path: Path) -> None:
    """One log, one folder, the same steps; the same command goes on, and more processes are another environment."""
    np.save(tmp_path / "x.npy", torch.cat(batches(40, torch.float32)).numpy())

    def words(out: str, *more: object) -> list[object]:
        kept = ["--checkpoints.every", 20, "--checkpoints.keep-finished"]
        sae = ["--sae.choice", "feature", "--sae.n-features", 61, "--sae.k", 4, *kept]
        read = ["--activations", tmp_path / "x.npy", "--reader.batch-size", 130]
        return ["train", "--out", tmp_path / out, *read, *sae, "--metrics.every", 1, *more]

    assert main([str(word) for word in words("one")]) == 0
    ended = torchrun(*words("two", "--parallel.data", 2))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("two/feature-k4") == 1
    assert ended.stderr.count("calibrating feature-k4") == 1
    texts = [(tmp_path / out / "metrics.jsonl").read_text().splitlines() for out in ("one", "two")]
    logs = [[json.loads(line) for line in lines] for lines in texts]
    assert [line["step"] for line in logs[1]] == [line["step"] for line in logs[0]]
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["tokens"] == one["tokens"]
    one, two = (st.load(tmp_path / out / "feature-k4").state_dict() for out in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)
    again = torchrun(*words("two", "--parallel.data", 2))
    assert "finished already" in again.stderr
    for newest in ("finished", "step-000000036"):
        shutil.rmtree(tmp_path / "two" / "checkpoints" / newest)
    weights = (tmp_path / "two" / "feature-k4" / "sae_weights.safetensors").read_bytes()
    assert main([str(word) for word in words("two")]) == 2  # in another number of processes
    ended = torchrun(*words("two", "--parallel.data", 2))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "two" / "feature-k4" / "sae_weights.safetensors").read_bytes() == weights
    ended = torchrun(*words("cut", "--parallel.features", 2))
    assert ended.returncode == 0, ended.stderr
    cut = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in cut] == pytest.approx([line["loss"] for line in logs[0]], rel=1e-5)
    refused = torchrun(*words("three", "--parallel.data", 3))
    assert refused.stderr.count("sae-torch: mesh: expected data x features to be the number of processes") == 1


FAST = [Case(choice, features=features) for features in (1, 2) for choice in CHOICES]
FAST += [Case("mutual", options="k", features=1), Case("feature", options="every", features=2)]
FAST += [Case("feature", options="k", feature_chunk=17, features=2)]
FAST += [Case("mutual", features=1, pairs=True), Case("feature", options="every", features=2, pairs=True)]


@pytest.mark.parametrize("case", FAST, ids=str)
def test_two_processes_train_as_one(two: Processes, case: Case) -> None:
    """Each with tokens, or with features, of its own: the same matches, losses within 1e-5 and weights within 1e-4."""
    compare(case, two.run(train, 2, case))


class Own(st.Choice):
    """Says nothing of parts."""

    def limits(self, tokens: int, advance: bool = False) -> dict[str, Any]:
        return {"budget": self.total(tokens)}


def text_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except (st.InputError, ZeroDivisionError, FloatingPointError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def broken(rank: int) -> list[str]:
    mesh = st.parallel.mesh(data=2)

    def fit(own: Iterable[torch.Tensor], seed: int = 0, config: st.TrainConfig | None = None, steps: int = 3) -> str:
        sae = st.SparseAutoencoder(4, 12, st.MutualChoice(2), seed=seed, mesh=mesh)
        return text_of(lambda: st.Trainer(sae, config or st.TrainConfig(progress=False)).fit(own, steps))

    good = [torch.ones(5 + rank, 4) * (1 + torch.arange(4)) + step for step in range(3)]
    bad = [*good[:2], good[2] * (1.0 if rank == 0 else torch.nan)]
    failing = (x / torch.tensor(1.0) if rank or step < 2 else 1 // 0 for step, x in enumerate(good))
    return [
        fit(good),
        fit(bad),
        fit(bad[2:] * 3),
        fit(failing),
        fit(good[: 3 - rank]),
        fit(good, steps=3 - rank),
        fit(good, seed=rank),
        fit(good, config=st.TrainConfig(progress=False, clip=1.0 + rank)),
        text_of(lambda: st.SparseAutoencoder(4, 12, Own(2), mesh=mesh)),
        fit(good),
    ]


def test_what_one_process_raises_all_raise(two: Processes) -> None:
    one, other = two.run(broken)
    assert one == other
    assert one == [
        "no error",
        "InputError: batches: batch 2 holds NaN or infinite activations",
        "InputError: batches: batch 0 holds NaN or infinite activations",
        "ZeroDivisionError: integer division or modulo by zero",
        "InputError: batches: ended after 2 of 3 steps",
        "InputError: steps: expected the same on every rank, found 3, 2",
        "InputError: sae: expected the same on every rank, found another on rank 1 than on rank 0",
        "InputError: config: expected the same on every rank, found another on rank 1 than on rank 0",
        "InputError: choice: expected one with supports_parts = True on several processes, found Own(k=2)",
        "no error",
    ]


def test_without_other_processes_a_mesh_changes_nothing() -> None:
    alone = st.SparseAutoencoder(4, 12, st.MutualChoice(2), mesh=st.parallel.mesh())
    assert alone.world is ALONE
    with pytest.raises(
        st.InputError, match=r"mesh: expected one of st.parallel.mesh\(data=..., features=...\), found 3"
    ):
        st.SparseAutoencoder(4, 12, st.MutualChoice(2), mesh=3)  # type: ignore[arg-type]


def checkpointed(rank: int) -> tuple[list[int], list[torch.Tensor]]:
    """The state of a training whose first tokens all lie on the first rank, and rows that others lack."""
    sae = st.SparseAutoencoder(4, 12, st.MutualChoice(2), mesh=st.parallel.mesh(data=2))
    trainer = st.Trainer(sae, st.TrainConfig(progress=False))
    x = torch.randn(600, 4, generator=torch.Generator().manual_seed(rank))
    trainer.begin([x], 2, 2400)
    state = trainer.state_dict()["first_sight"]
    rows, sizes = sae.world.all_tokens(x[: 0 if rank else 3].bfloat16())
    one, more = sae.world.all_tokens(torch.from_numpy(np.zeros(0 if rank else 3)))
    return [*state["shares"], *sizes, *more, len(one)], [state["reference"], rows]


def test_a_process_may_have_no_token_of_those_that_are_kept(two: Processes) -> None:
    first = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    for shares, (reference, rows) in two.run(checkpointed):
        assert shares == [512, 0, 3, 0, 3, 0, 3]
        assert torch.equal(reference, first[:512])
        assert torch.equal(rows, first[:3].bfloat16())


def copies(rank: int) -> list[bool]:
    sae = st.SparseAutoencoder(4, 12, st.MutualChoice(2), mesh=st.parallel.mesh(data=2))
    kept = pickle.loads(pickle.dumps(sae))
    return [copy.deepcopy(sae).choice.world is sae.world, kept.world is ALONE, kept.choice.tracker.world is ALONE]


def test_a_copy_stays_with_its_processes_and_a_pickle_is_on_its_own(two: Processes) -> None:
    assert two.run(copies) == [[True] * 3] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("count", "features"), [(2, 1), (2, 2), (3, 1), (3, 3), (4, 2), (8, 1), (8, 2)])
def test_many_steps_of_many_processes_are_those_of_one(count: int, features: int) -> None:
    """Losses of 50 steps within 1e-5, weights and thresholds within 1e-4."""
    cases = [Case("mutual", 50), Case("floors", 50, options="every")]
    if count == 2:  # more processes than cores take long
        cases += [Case(choice, 50) for choice in CHOICES if choice != "mutual"]
        cases += [Case("mutual", 50, options="k"), Case("mutual", 50, score_dtype="auto")]
        cases += [Case(choice, 50, feature_chunk=17) for choice in ("token", "mutual", "feature")]
    processes = Processes(count)
    try:
        for case in cases:
            case = dataclasses.replace(case, features=features)
            compare(case, processes.run(train, count, case))
    finally:
        processes.close()


def save_and_load(rank: int, choice: str, folder: str) -> list[torch.Tensor]:
    """Save from one mesh, load into the other, save again."""
    meshes = [st.parallel.mesh(data, 2 // data) for data in (2, 1)]
    x = batches(1, torch.float32)[0]
    sae = st.SparseAutoencoder(D_MODEL, FEATURES, CHOICES[choice](), mesh=meshes[0])
    st.Trainer(sae, st.TrainConfig(progress=False)).fit([x[rank::2]] * 3)
    found = []
    for number, mesh in enumerate([*meshes, None]):
        place = Path(folder, str(number))
        assert (st.save(sae, place) / "cfg.json").is_file()
        sae = st.load(place, mesh=mesh)
        found.append(sae(x).x_hat.detach())
    return found


@pytest.mark.filterwarnings("ignore:.*limits per token")
@pytest.mark.parametrize("choice", ["token", "feature", "two-sided"])
def test_any_mesh_reads_what_another_wrote(two: Processes, choice: str, tmp_path: Path) -> None:
    one, other = two.run(save_and_load, choice, str(tmp_path))
    x = batches(1, torch.float32)[0]
    x_hat = st.load(tmp_path / "2")(x).x_hat
    for found in (*one, *other):
        torch.testing.assert_close(found, x_hat, rtol=1e-5, atol=1e-5)
    names = sorted(path.name for path in (tmp_path / "0").iterdir())
    for number in ("1", "2"):
        assert sorted(path.name for path in (tmp_path / number).iterdir()) == names
        for name in names:
            if name == "cfg.json":  # how quotas were fitted is not taken up
                continue
            assert (tmp_path / number / name).read_bytes() == (tmp_path / "0" / name).read_bytes(), name


def read_and_save(rank: int, folder: str) -> list[torch.Tensor]:
    """Read a top k of activations on both meshes, and save it from each."""
    x, found = batches(1, torch.float32)[0], []
    for data in (2, 1):
        sae = st.load(Path(folder, "published"), mesh=st.parallel.mesh(data, 2 // data))
        st.save(sae, Path(folder, str(data)))
        found.append(sae(x[: 60 + 30 * rank] if data == 2 else x).x_hat.detach())
    sae.choice = st.TokenChoice(4)  # to train on with
    codes = sae.train()(x).codes
    found.append(torch.tensor(sae.world.sum(len(codes))))
    return found


def test_a_top_k_that_leaves_decoder_norms_out_is_read_on_any_mesh(two: Processes, tmp_path: Path) -> None:
    sae = st.SparseAutoencoder(D_MODEL, FEATURES, st.TokenChoice(4))
    st.save(sae, tmp_path / "published")
    weights = load_file(tmp_path / "published" / "sae_weights.safetensors")
    norms = torch.logspace(-1, 1, FEATURES)[:, None]
    save_file(weights | {"W_dec": weights["W_dec"] * norms}, tmp_path / "published" / "sae_weights.safetensors")
    settings = json.loads((tmp_path / "published" / "cfg.json").read_text())
    settings["rescale_acts_by_decoder_norm"] = False
    (tmp_path / "published" / "cfg.json").write_text(json.dumps(settings))
    alone = st.load(tmp_path / "published")
    assert isinstance(alone.choice, ActivationTokenChoice)
    x_hat = alone(batches(1, torch.float32)[0]).x_hat
    for rank, (*found, matches) in enumerate(two.run(read_and_save, str(tmp_path))):
        assert matches == 4 * 120
        for each, expected in zip(found, (x_hat[: 60 + 30 * rank], x_hat), strict=True):
            torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
    for data in ("1", "2"):
        again = st.load(tmp_path / data)
        assert isinstance(again.choice, ActivationTokenChoice)
        torch.testing.assert_close(again(batches(1, torch.float32)[0]).x_hat, x_hat, rtol=1e-5, atol=1e-5)


def run_config(folder: Path, out: str, data: int, features: int) -> RunConfig:
    """A run of several autoencoders on few activations, with a checkpoint in the middle."""
    return RunConfig(
        out=folder / out,
        activations=folder / "x.npy",
        reader=ReaderOptions(batch_size=130),
        sae=SaeOptions(choice="feature", n_features=61, k=4),
        sweep=SweepOptions(choice=("feature", "token")),
        checkpoints=CheckpointOptions(every=6, keep=3, keep_finished=True),
        parallel=ParallelOptions(data=data, features=features),
    )


def execute(rank: int, folder: str, out: str, data: int, features: int, allow_inexact: bool = False) -> str:
    config = run_config(Path(folder), out, data, features)
    return text_of(lambda: Run(config, allow_inexact=allow_inexact, quiet=True).execute())


def weights_of(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/sae_weights.safetensors"))}


def forget_after(folder: Path, step: int) -> None:
    """Leave a run as one that was killed after that step."""
    for checkpoint in (folder / "checkpoints").iterdir():
        if checkpoint.name > f"step-{step:09d}" or checkpoint.name == "finished":
            shutil.rmtree(checkpoint)


def test_checkpoints_of_a_cut_dictionary_are_read_by_any_number_of_processes(two: Processes, tmp_path: Path) -> None:
    """The same processes go on to the same bits; others go on where they are allowed to."""
    np.save(tmp_path / "x.npy", torch.cat(batches(13, torch.float32)).numpy())
    place = str(tmp_path)
    assert two.run(execute, place, "cut", 1, 2) == ["no error"] * 2
    assert execute(0, place, "one", 1, 1) == "no error"
    whole = weights_of(tmp_path / "cut")
    assert sorted(whole) == ["feature-k4", "token-k4"]
    for name in whole:
        one, cut = (st.load(tmp_path / out / name).state_dict() for out in ("one", "cut"))
        for key, value in one.items():
            torch.testing.assert_close(cut[key], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=key)
    newest = tmp_path / "cut" / "checkpoints" / "step-000000006"
    assert sorted(path.name for path in (newest / "rows").iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    for out in ("cut", "one"):
        forget_after(tmp_path / out, 6)
    for out, data, features in (("cut", 1, 2), ("cut", 1, 1), ("cut", 2, 1), ("one", 1, 2)):
        copied = f"{out}-{data}-{features}"
        shutil.copytree(tmp_path / out, tmp_path / copied)

        def run(*words: Any, alone: bool = data * features == 1) -> set[str]:
            return {execute(0, *words)} if alone else set(two.run(execute, *words))

        same = (out, features) == ("cut", 2)
        if not same:
            (refused,) = run(place, copied, data, features)
            assert re.search(r"was written in another environment \(processes .* there, .* here\)", refused), refused
        assert run(place, copied, data, features, not same) == {"no error"}
        assert (weights_of(tmp_path / copied) == whole) == same
        for name in whole:
            here, there = (st.load(tmp_path / folder / name).state_dict() for folder in (copied, "one"))
            for key, value in there.items():
                torch.testing.assert_close(here[key], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=key)


def test_a_damaged_part_of_a_checkpoint_is_named_by_all(two: Processes, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.cat(batches(13, torch.float32)).numpy())
    assert two.run(execute, str(tmp_path), "cut", 1, 2) == ["no error"] * 2
    forget_after(tmp_path / "cut", 6)
    rows = tmp_path / "cut" / "checkpoints" / "step-000000006" / "rows"
    content = bytearray((rows / "__1_0.distcp").read_bytes())
    for name, damage, message in (
        ("__1_0.distcp", bytes([*content[:500], content[500] ^ 1, *content[501:]]), "does not match its digest"),
        ("__1_0.distcp", None, "No such file"),
    ):
        (rows / name).unlink()
        if damage is not None:
            (rows / name).write_bytes(damage)
        one, other = two.run(execute, str(tmp_path), "cut", 1, 2)
        assert one == other
        assert "step-000000006 is damaged" in one
        assert message in one
        assert "the same command goes on from the one before" in one


def execute_with_little_space(rank: int, folder: str, kind: str) -> str:
    """Rank 1 alone: a disk that is full from the start, or that fills while a checkpoint is written."""
    if rank == 0:
        return execute(rank, folder, kind, 1, 2)
    if kind == "full":
        usage = shutil.disk_usage(folder)._replace(free=1000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage)
            return execute(rank, folder, kind, 1, 2)

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        return execute(rank, folder, kind, 1, 2)


def test_a_disk_that_fills_on_one_process_ends_all_with_its_number(two: Processes, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", torch.cat(batches(13, torch.float32)).numpy())
    one, other = two.run(execute_with_little_space, str(tmp_path), "full")
    assert one == other
    assert re.fullmatch(r"InputError: \S+ has 0.00 GB left on rank 1, expected .* for 3 checkpoints .*", one)
    assert not (tmp_path / "full" / "checkpoints").exists()
    one, other = two.run(execute_with_little_space, str(tmp_path), "small")
    assert one == other
    assert one == "OSError: [Errno 28] No space left on device (rank 1)"
    assert not list((tmp_path / "small" / "checkpoints").iterdir())  # nothing half written stays
    assert two.run(execute, str(tmp_path), "small", 1, 2) == ["no error"] * 2
