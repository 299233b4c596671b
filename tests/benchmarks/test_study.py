"""The evidence study on a tiny grid: it resumes, runs nothing twice, records failures; its page follows the records."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import load_file, save_file

import sae_torch as st
from benchmarks.study import measures, report
from benchmarks.study.__main__ import FILE, main
from benchmarks.study.cell import Cell, Setting
from benchmarks.study.equal_l0 import at_equal_l0
from benchmarks.study.findings import Findings
from benchmarks.study.grid import MAIN, PLAN, Block, Plan
from benchmarks.study.ledger import FAILED, FINISHED, Records, tried
from benchmarks.study.measures import lacking
from benchmarks.study.methods import (
    BATCH_TOP_K,
    FLOORS,
    LET_GO,
    METHODS,
    MUTUAL,
    MUTUAL_THEN_FEATURE,
    PEERS,
    SPARSIFY,
    TOKEN,
)
from benchmarks.study.peers import _folded
from benchmarks.study.request import Request
from benchmarks.study.run import Study
from benchmarks.study.sources import Scale, Sources
from benchmarks.study.synthetic import Truth, against_truth
from benchmarks.study.training import WEIGHTS, train
from benchmarks.study.verdicts import Status, bar, verdicts
from sae_torch.activations import Activations
from sae_torch.evaluation import measure

TINY = Setting("synthetic", k=4, n_features=48)
SCALE = Scale(train_tokens=4096, judged_tokens=1024, batch=256, truth=Truth(24, 48, 4.0, beta=3.0))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring on matrices as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Counted:
    """Trains in this process, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, folder: Path, python: Path) -> None:
        self.asked.append(Request.read(folder).cell.name)
        train(folder)


def study(folder: Path, plan: Plan, train: Any, peers: Path | None = None) -> Study:
    records = Records(folder / "study.jsonl")
    return Study(plan, records, Sources(SCALE, folder), folder / "weights", peers, train=train)


def test_a_tiny_grid_runs_resumes_and_runs_nothing_twice(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (FLOORS, TOKEN)),), rates=(5e-3, 1e-2), seeds=(0, 1), most_rates=2)
    trained = Counted()
    assert study(tmp_path, plan, trained)(most=3) == 3
    before = (tmp_path / "study.jsonl").read_text()
    # another process goes on from the file
    assert study(tmp_path, plan, trained)() == 5
    assert study(tmp_path, plan, trained)() == 0
    assert len(trained.asked) == len(set(trained.asked)) == 8
    after = (tmp_path / "study.jsonl").read_text()
    assert after.startswith(before)
    for line in map(json.loads, after.splitlines()):
        assert line["status"] == FINISHED
        assert not lacking(Cell(**line["cell"]), line["figures"])
        assert {"versions", "processor"} <= set(line["machine"])
        assert line["training"]["config"]["learning_rate"] == line["cell"]["learning_rate"]
        assert line["figures"]["l0_at_k"] == pytest.approx(4, rel=0.01)
    findings = Findings(plan, Records(tmp_path / "study.jsonl"))
    runs = findings.of(TINY, FLOORS)
    assert runs is not None
    assert runs.complete
    errors = {
        cell.learning_rate: findings.records.figure(cell, "nmse_at_k")
        for cell in findings.records.cells()
        if cell.split == "dev" and cell.method == FLOORS
    }
    assert runs.learning_rate == min(errors, key=lambda rate: errors[rate])


def test_a_run_that_another_process_is_at_work_on_is_left_to_it(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (MUTUAL,)),), rates=(4e-3, 8e-3), seeds=(0,), most_rates=2)
    counted = Counted()
    running = study(tmp_path, plan, counted)
    first, second = plan.pending(running.records)
    with tried(running.weights / f"{first.folder}.claim") as mine:
        assert mine
        assert running() == 1
        assert counted.asked == [second.name]
    assert running(most=1) == 1
    assert counted.asked[1] == first.name


def test_a_measure_that_is_added_later_is_taken_of_kept_weights(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (TOKEN,)),), rates=(5e-3, 1e-2), seeds=(0,), most_rates=2)
    trained = Counted()
    study(tmp_path, plan, trained)()
    file = tmp_path / "study.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    whole = dict(lines[-1]["figures"])
    lines[-1]["figures"] = {name: value for name, value in whole.items() if name not in ("spectrum", "zipf")}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = study(tmp_path, plan, trained)
    assert again() == 1
    assert len(trained.asked) == 3
    assert again.records.figures(Cell(**lines[-1]["cell"])) == whole
    assert again() == 0


def test_a_failed_run_is_recorded_named_and_not_tried_again(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (TOKEN,)),), rates=(5e-3, 1e-2), seeds=(0,), most_rates=2)
    trained = Counted()

    def fails(folder: Path, python: Path) -> None:
        if Request.read(folder).cell.learning_rate == 1e-2:
            raise FloatingPointError("the loss is nan at step 3")
        trained(folder, python)

    run = study(tmp_path, plan, fails)
    assert run() == 3
    assert run() == 0
    (failed,) = [cell for cell in run.records.cells() if run.records.status(cell) == FAILED]
    assert run.records.line(failed)["error"] == "FloatingPointError: the loss is nan at step 3"
    # the search goes by what did not fail
    assert {cell.learning_rate for cell in run.records.cells() if cell.split == "test"} == {5e-3}
    assert f"Failed runs: {failed.name}." in report.parts(run.records, plan)["progress.md"]


def test_weights_that_are_not_finite_are_a_failed_run(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (TOKEN,)),), rates=(5e-3,), seeds=(0,), most_rates=1)

    def spoils(folder: Path, python: Path) -> None:
        train(folder)
        tensors = load_file(folder / WEIGHTS)
        tensors["b_enc"][3] = torch.nan
        save_file(tensors, folder / WEIGHTS)

    run = study(tmp_path, plan, spoils)
    assert run() == 1
    (cell,) = run.records.cells()
    assert run.records.line(cell)["error"] == "the weights are not finite after training"
    assert list((tmp_path / "weights").iterdir()) == []


def test_an_error_of_a_measure_ends_the_study_and_the_weights_are_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan((Block(TINY, (TOKEN,)),), rates=(5e-3,), seeds=(0,), most_rates=1)
    trained = Counted()

    def broken(judged: Any) -> dict[str, Any]:
        raise RuntimeError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(measures, "MEASURES", (measures.Measure(broken, ("nmse",), ("dev", "test")),))
        with pytest.raises(RuntimeError, match="no memory"):
            study(tmp_path, plan, trained)()
    run = study(tmp_path, plan, trained)
    assert run() == 2
    assert len(trained.asked) == 2
    assert {run.records.status(cell) for cell in run.records.cells()} == {FINISHED}


def test_a_training_process_that_ends_badly_is_recorded_with_its_last_words(tmp_path: Path) -> None:
    """This environment has no peers, so their training fails as a process; without a peers' Python it is left out."""
    plan = Plan((Block(TINY, (SPARSIFY,)),), rates=(5e-3, 1e-2), seeds=(0,), most_rates=2)
    assert study(tmp_path, plan, Counted())() == 0
    from benchmarks.study.run import in_a_process

    missing = tmp_path / "python"
    missing.write_text("#!/bin/sh\necho 'No module named sparsify' >&2\nexit 1\n")
    missing.chmod(0o755)
    run = study(tmp_path, plan, in_a_process, peers=missing)
    assert run(most=1) == 1
    (cell,) = run.records.cells()
    assert run.records.status(cell) == FAILED
    assert run.records.line(cell)["error"] == "No module named sparsify"


def test_records_refuse_what_is_there_and_say_where_a_line_is_broken(tmp_path: Path) -> None:
    records = Records(tmp_path / "study.jsonl")
    cell = Cell.of(TINY, method=TOKEN, auxiliary="none", learning_rate=1e-3, split="dev", seed=0)
    line = {"status": FINISHED, "figures": {"nmse": 0.5}}
    records.append(cell, line)
    with pytest.raises(ValueError, match="recorded already"):
        records.append(cell, line)
    records.append(cell, {"status": FINISHED, "figures": {"l0": 4.0}})
    assert Records(records.file).figures(cell) == {"nmse": 0.5, "l0": 4.0}
    assert math.isnan(records.figure(cell, "unknown"))
    # what a writer that was killed leaves behind is not the file
    (tmp_path / ".study.jsonl.part").write_text('{"cell": {"sou')
    assert len(Records(records.file)) == 1
    records.file.write_text(records.file.read_text() + '{"cell": {"sou\n')
    with pytest.raises(ValueError, match=r"study\.jsonl, line 3: not a record"):
        Records(records.file)


def invented(plan: Plan, records: Records, figures: Any, most: int = 200) -> None:
    """Record what a plan asks for with made-up figures."""
    for _ in range(most):
        cell = next(plan.pending(records), None)
        if cell is None:
            return
        training = {"tokens_per_second": 1000, "versions": {"torch": "0"}}
        machine = {"processor": "none", "cores": 1}
        records.append(
            cell,
            {
                "status": FINISHED,
                "figures": figures(cell),
                "training": training,
                "machine": machine,
                "finished": "2000-01-01T00",
            },
        )
    raise AssertionError("the plan never ends")


@settings(max_examples=25)
@given(optimum=some.floats(1e-4, 1.0), most=some.integers(3, 8))
def test_the_search_finds_the_best_rate_on_its_ladder_and_ends(
    tmp_path_factory: pytest.TempPathFactory, optimum: float, most: int
) -> None:
    plan = Plan((Block(TINY, (TOKEN,)),), rates=(4e-3, 8e-3, 2e-3), seeds=(0,), most_rates=most)
    records = Records(tmp_path_factory.mktemp("search") / "study.jsonl")
    invented(plan, records, lambda cell: {"nmse_at_k": abs(math.log(cell.learning_rate / optimum)), "silent": 0})
    tried = sorted(cell.learning_rate for cell in records.cells() if cell.split == "dev")
    chosen = {cell.learning_rate for cell in records.cells() if cell.split == "test"}
    assert 3 <= len(tried) <= most
    best = min(tried, key=lambda rate: abs(math.log(rate / optimum)))
    assert chosen == {best}
    # an end of the ladder is the answer only where the search had to stop
    assert best not in (tried[0], tried[-1]) or len(tried) == most


def test_seeds_take_turns_and_a_width_follows_from_runs(tmp_path: Path) -> None:
    blocks = (Block(TINY, (FLOORS, TOKEN)), Block(TINY, (FLOORS,), as_wide_as=TOKEN))
    plan = Plan(blocks, rates=(1e-3, 2e-3), most_rates=2)
    records = Records(tmp_path / "study.jsonl")
    invented(plan, records, lambda cell: {"nmse_at_k": cell.learning_rate, "silent": 8 * (cell.method == TOKEN)})
    tests = [cell for cell in records.cells() if cell.split == "test"]
    assert [(cell.method, cell.seed) for cell in tests[:6]] == [
        (method, seed) for seed in (0, 1, 2) for method in (FLOORS, TOKEN)
    ]
    assert [cell.n_features for cell in tests[6:]] == [40, 40, 40]
    assert "| floors | 40 |" in report.parts(records, plan)["width_matched.md"]


def test_a_block_may_run_fewer_seeds(tmp_path: Path) -> None:
    blocks = (Block(TINY, (TOKEN,)), Block(TINY, (TOKEN,), "zipf", seeds=1))
    plan = Plan(blocks, rates=(1e-3, 2e-3), most_rates=2)
    records = Records(tmp_path / "study.jsonl")
    invented(plan, records, lambda cell: {"nmse_at_k": cell.learning_rate, "silent": 0})
    ran = [(cell.auxiliary, cell.seed) for cell in records.cells() if cell.split == "test"]
    assert ran == [("none", 0), ("none", 1), ("none", 2), ("zipf", 0)]
    runs = Findings(plan, records).of(TINY, TOKEN, "zipf")
    assert runs is not None
    assert runs.complete
    assert runs.planned == 1


def test_a_rate_may_come_from_another_setting(tmp_path: Path) -> None:
    """Then nothing is searched, and the runs wait for the other setting's search."""
    other = replace(TINY, k=TINY.k + 1)
    plan = Plan((Block(other, (TOKEN,), rates_of=TINY), Block(TINY, (TOKEN,))), rates=(1e-3, 2e-3), most_rates=2)
    records = Records(tmp_path / "study.jsonl")
    assert {(cell.setting, cell.split) for cell in plan.pending(records)} == {(TINY, "dev")}
    invented(plan, records, lambda cell: {"nmse_at_k": cell.learning_rate, "silent": 0})
    ran = list(records.cells())
    assert {cell.split for cell in ran if cell.setting == other} == {"test"}
    assert {cell.learning_rate for cell in ran if cell.split == "test"} == {1e-3}


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.1])
@pytest.mark.parametrize("silent", [0, 3])
@pytest.mark.parametrize("by_itself", [False, True])
def test_the_verdicts_follow_the_numbers(tmp_path: Path, gain: float, silent: int, by_itself: bool) -> None:
    """Floors beat the peers in every seed and without a dead feature, or the bar is not met; the same for claims."""
    blocks = [Block(MAIN, (FLOORS, BATCH_TOP_K, SPARSIFY, MUTUAL, TOKEN, MUTUAL_THEN_FEATURE))]
    plan = Plan(tuple(blocks), rates=(1e-3, 2e-3), most_rates=2)
    records = Records(tmp_path / "study.jsonl")
    assert bar(Findings(plan, records), MAIN, FLOORS).status == Status.NOT_RUN

    def figures(cell: Cell) -> dict[str, Any]:
        ours = cell.method in (FLOORS, MUTUAL, MUTUAL_THEN_FEATURE)
        error = (0.2 + 0.001 * cell.seed) * (gain if ours else 1.0)
        silences = silent if ours else 5
        return {
            "nmse_at_k": error,
            "nmse": error,
            "l0": 32.0,
            "l0_spread": 9.0,
            "difficulty_rank_correlation": 0.5,
            "difficulty_error": [0.1, 0.3],
            # under token choice's allocation no better than token choice
            "nmse_equal_tokens": 0.2 + 0.001 * cell.seed,
            # whether its dictionary gains from one threshold by itself
            "nmse_one_price": error * (0.99 if by_itself else 1.01),
            "silent": silences,
            "under_used": 1,
        }

    invented(plan, records, figures)
    findings = Findings(plan, records)
    met = bar(findings, MAIN, FLOORS)
    assert (met.status == Status.CONFIRMED) == (gain < 1 and silent == 0)
    assert f"{100 * (gain - 1):+.1f} %" in met.because
    by_claim = {verdict.claim: verdict for verdict in verdicts(findings)}
    better = by_claim["Better reconstruction at equal sparsity."]
    assert better.status == (Status.CONFIRMED if gain < 1 else Status.NOT_CONFIRMED)
    assert by_claim["Fewer dead features, in the best case none."].status == Status.CONFIRMED
    adaptive = by_claim["The better reconstruction is a result of the adaptive computation."]
    needed = Status.CONFIRMED if by_itself else Status.PARTLY
    assert adaptive.status == (needed if gain < 1 else Status.NOT_CONFIRMED)
    unequal = next(verdict for claim, verdict in by_claim.items() if claim.startswith("Some tokens are harder"))
    assert unequal.status == Status.CONFIRMED
    assert "3.0 to 3.0 times" in unequal.because
    assert by_claim["Accurate extraction of features."].status == Status.NOT_RUN
    assert not any("Provisional" in verdict.because for verdict in by_claim.values())


def test_a_peer_with_its_auxiliary_loss_counts_too(tmp_path: Path) -> None:
    blocks = (Block(MAIN, (FLOORS, BATCH_TOP_K, SPARSIFY)), Block(MAIN, (BATCH_TOP_K, SPARSIFY), "k"))
    plan = Plan(blocks, rates=(1e-3, 2e-3), most_rates=2)
    records = Records(tmp_path / "study.jsonl")

    def figures(cell: Cell) -> dict[str, Any]:
        better = cell.method == SPARSIFY and cell.auxiliary == "k"
        return {"nmse_at_k": 0.1 if better else 0.2 if cell.method == FLOORS else 0.3, "silent": 0}

    invented(plan, records, figures)
    verdict = bar(Findings(plan, records), MAIN, FLOORS)
    assert verdict.status == Status.NOT_CONFIRMED
    assert "best peer, sparsify TopK, aux k" in verdict.because
    # as long as one of them is missing, nothing is said
    without = Plan((*blocks[:1], Block(MAIN, (BATCH_TOP_K,), "zipf"), blocks[1]), rates=plan.rates, most_rates=2)
    assert bar(Findings(without, records), MAIN, FLOORS).status == Status.NOT_RUN


@settings(max_examples=25)
@given(k=some.integers(1, 12), shift=some.floats(-0.5, 0.5), seed=some.integers(0, 99))
def test_equal_l0_is_exactly_k(k: int, shift: float, seed: int) -> None:
    activations = Activations((SCALE.truth.shard(300, seed),), 300)
    sae = st.SparseAutoencoder(24, 48, st.MutualChoice(k), seed=seed)
    st.calibrate(sae, [activations.tensor(torch.float32)])
    sae.choice.tracker.restart(sae.choice.tracker.theta + shift)
    moved, added = at_equal_l0(sae.eval(), activations)
    found = measure(moved, activations)
    positive = int((sae.scores(activations.tensor(torch.float32)) > 0).sum())
    assert int(found.counts.sum()) == pytest.approx(min(k * 300, positive), abs=1)
    if 0 < k * 300 < positive:
        assert added == pytest.approx(-shift if sae.choice.tracker.theta > 0 else added, abs=1e-3)


def test_an_allocation_is_of_the_same_dictionary(tmp_path: Path) -> None:
    plan = Plan((Block(TINY, (MUTUAL, TOKEN)),), rates=(5e-3,), seeds=(0,), most_rates=1)
    running = study(tmp_path, plan, Counted())
    running()
    mutual, token = (
        running.records.figures(cell)
        for method in (MUTUAL, TOKEN)
        for cell in running.records.cells()
        if cell.method == method and cell.split == "test"
    )
    assert token["nmse_equal_tokens"] == pytest.approx(token["nmse_at_k"])
    assert mutual["nmse_one_price"] == pytest.approx(mutual["nmse_at_k"])
    assert mutual["nmse_equal_tokens"] != pytest.approx(mutual["nmse_at_k"])


def test_the_truth_is_found_by_itself_and_not_by_chance() -> None:
    truth = SCALE.truth
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    found = against_truth(truth, 3.0 * truth.directions[order], truth.densities[order])
    assert found["matched_cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found["recovered"] == found["recovered_rare"] == 1.0
    assert found["frequency_error"] == pytest.approx(0.0, abs=1e-6)
    doubled = against_truth(truth, truth.directions[order], 2 * truth.densities[order])
    assert doubled["frequency_error"] == pytest.approx(1.0, abs=1e-6)
    # two copies of one feature count once, and another is missed
    copied = truth.directions[order].clone()
    copied[0] = copied[1]
    assert against_truth(truth, copied, truth.densities[order])["recovered"] == pytest.approx(47 / 48)
    random = torch.randn(48, 24, generator=torch.Generator().manual_seed(2))
    assert against_truth(truth, random, truth.densities)["recovered"] < 0.2


def test_the_truth_fires_as_often_as_it_says() -> None:
    truth = Truth(16, 32, 3.0, beta=2.0, noise=0.0)
    x = truth.shard(20_000, seed=3).activations.float()
    mean = x.mean(dim=0)
    # the second moment is that of independent features with these densities and values from 1/2 to 3/2
    p = truth.densities.float()
    expected = (truth.directions.T * (p * (13 / 12) - p**2)) @ truth.directions
    centred = x - mean
    assert torch.allclose(centred.T @ centred / len(x), expected, atol=0.02)


def test_a_dictionary_never_starts_at_the_truth() -> None:
    directions = Truth().directions
    for seed in PLAN.seeds:
        start = st.SparseAutoencoder(256, 2048, st.TokenChoice(1), seed=seed).W_dec.detach()
        assert float((start * directions).sum(dim=1).abs().max()) < 0.5


def test_a_peer_in_other_units_is_the_same_function() -> None:
    cell = Cell.of(TINY, method=BATCH_TOP_K, auxiliary="none", learning_rate=1e-3, split="dev", seed=0)
    generator = torch.Generator().manual_seed(0)
    W_enc, W_dec = (torch.randn(shape, generator=generator) for shape in ((24, 48), (48, 24)))
    W_dec = torch.nn.functional.normalize(W_dec, dim=1)
    b_enc, b_dec, x = (torch.randn(shape, generator=generator) for shape in ((48,), (24,), (50, 24)))
    scale, threshold = 0.25, 0.8
    inner = (x * scale - b_dec) @ W_enc + b_enc
    expected = (torch.where(inner > threshold, inner, 0.0) @ W_dec + b_dec) / scale
    sae = _folded(Request(cell, "", 0, 0), W_enc, b_enc, W_dec, b_dec, scale, threshold).eval()
    assert torch.allclose(sae(x).x_hat, expected, atol=1e-4)


def test_the_status_says_what_is_missing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["study", "--status"])
    main()
    said = capsys.readouterr().out
    records = Records(FILE)
    missing = list(PLAN.pending(records))
    assert f"{len(records)} runs recorded" in said
    assert f"{len(missing)} more are known to be missing" in said
    assert all(cell.name in said for cell in missing[:3])


def test_the_plan_holds_what_the_issue_asks_for() -> None:
    ran = {(block.setting, method, block.auxiliary) for block in PLAN.blocks for method in block.methods}
    assert {method for setting, method, auxiliary in ran if (setting, auxiliary) == (MAIN, "none")} == set(METHODS)
    usual = {name for name, method in METHODS.items() if method.tokens == 1} - {LET_GO}  # which lost without one
    for auxiliary in ("k", "zipf"):
        with_it = {method for setting, method, with_aux in ran if (setting, with_aux) == (MAIN, auxiliary)}
        assert with_it == (usual if auxiliary == "k" else usual - set(PEERS))
    assert {setting.k for setting, _, _ in ran} >= {16, 32, 64}
    assert len(PLAN.seeds) >= 3
    assert {setting.source for setting, _, _ in ran} >= {"hidden_states[11]", "hidden_states[6]", "synthetic"}


@pytest.mark.slow
def test_the_page_is_what_the_committed_records_give(tmp_path: Path) -> None:
    for name, text in report.parts(Records(FILE)).items():
        committed = (report.FOLDER / name).read_text(encoding="utf-8")
        assert committed == text, "run make study-report"
    page = (report.FOLDER.parents[2] / "evidence.md").read_text(encoding="utf-8")
    unused = [name for name in report.parts(Records(FILE)) if f"tables/evidence/{name}" not in page]
    assert not unused
    written = list(report.write(Records(FILE), folder=tmp_path))
    assert len(written) == len(report.parts(Records(FILE)))
    assert not list(report.write(Records(FILE), folder=tmp_path))
