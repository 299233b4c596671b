"""The pages of all features against what a dense computation says of each."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import sae_torch as st
from sae_torch.activations import Activations, LanguageModel
from sae_torch.errors import InputError
from sae_torch.evaluation import evaluate, logit_lens, measure, write_dashboard, write_report
from sae_torch.evaluation.dashboard import BlockFile
from sae_torch.evaluation.dashboard.firings import firings
from sae_torch.sparse_coder import SparseCoder

from ..plain import PlainAutoencoder, make_activations

D_MODEL, FEATURES, ROWS = 16, 150, 4 * 90


class Plain(PlainAutoencoder):
    """With the width that a dashboard asks for, and rows that never fire."""

    n_features = FEATURES

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        dense = super().dense(x)
        dense[:, ::10] = 0
        return dense


@pytest.fixture(scope="module")
def sae() -> SparseCoder:
    return cast(SparseCoder, Plain(D_MODEL, FEATURES, threshold=3.0))


@pytest.fixture(scope="module")
def activations() -> Activations:
    return make_activations(30, 60, d_model=D_MODEL)


@pytest.fixture(scope="module")
def file(sae: SparseCoder, activations: Activations, tiny_language_model: LanguageModel, tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("dashboard") / "all.zip"
    write_dashboard(path, sae, measure(sae, activations), activations, tiny_language_model)
    return path


def test_every_feature_has_what_a_dense_computation_gives(
    file: Path, sae: Any, activations: Activations, tiny_language_model: LanguageModel
) -> None:
    blocks = BlockFile(file)
    dense = sae.dense(activations.tensor(torch.float32)).detach()
    index, labels, text = (blocks.get(name) for name in ("index", "labels", "text"))
    records = [record for i in range(3) for record in blocks.get(f"features-{i}")]
    assert index["counts"] == (dense > 0).sum(0).tolist()
    assert (index["n_features"], index["n_tokens"], index["shown_tokens"], index["length"]) == (FEATURES, ROWS, ROWS, 5)
    assert len(records) == len(labels["words"]) == len(labels["tops"]) == FEATURES
    lens = logit_lens(tiny_language_model, sae.W_dec, range(FEATURES), 10)
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    for feature, record in enumerate(records):
        column = dense[:, feature]
        assert record["fires"] == sum(record["histogram"]) == index["counts"][feature]
        assert index["largest"][feature] == pytest.approx(float(column.max()), rel=1e-3)
        assert tuple(word for word, _ in record["promotes"]) == lens[feature][0]
        assert tuple(word for word, _ in record["suppresses"]) == lens[feature][1]
        for (closer, cosine), (further, less) in itertools.pairwise(record["nearest"]):
            assert cosine >= less
            assert feature not in (closer, further)
            assert cosine == pytest.approx(float(rows[feature] @ rows[closer]), abs=1e-3)
        for _, window, at, shades in record["examples"]:
            # every token of the window on which the feature fires, and no other
            values = column[4 * window : 4 * window + 4]
            assert shades[::2] == [1 + i for i in range(4) if values[i] > 0]
            assert shades[1::2] == pytest.approx(values[values > 0].tolist(), rel=1e-3)
            assert at in shades[::2]
        tops = [5 * window + at for group, window, at, _ in record["examples"] if group == 0]
        assert labels["tops"][feature] == tops
        if tops:
            assert column[(tops[0] // 5) * 4 + tops[0] % 5 - 1] == column.max()
            assert labels["words"][feature].split(" · ")[0] == text["windows"][tops[0] // 5][tops[0] % 5].strip()
    assert sum(not record["examples"] for record in records) >= FEATURES // 10  # dead ones have pages too
    assert text["documents"][7] == [[0, "only"]]


def test_every_token_knows_its_strongest_features(file: Path, sae: Any, activations: Activations) -> None:
    dense = sae.dense(activations.tensor(torch.float32)).detach()
    blocks = BlockFile(file)
    windows = blocks.get("tokens-0") + blocks.get("tokens-1")
    assert len(windows) == 90
    for window, tokens in enumerate(windows):
        assert tokens[0] == []  # dropped in the harvest
        for position in range(1, 5):
            row = dense[4 * window + position - 1]
            strongest = sorted(row.nonzero()[:, 0].tolist(), key=lambda j: (-float(row[j]), j))[:5]
            assert tokens[position][::2] == strongest


def test_equal_runs_give_equal_files_and_few_tokens_are_enough(
    file: Path, sae: SparseCoder, activations: Activations, tiny_language_model: LanguageModel, tmp_path: Path
) -> None:
    quality = measure(sae, activations)
    write_dashboard(tmp_path / "again.zip", sae, quality, activations, tiny_language_model)
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()
    write_dashboard(tmp_path / "some.zip", sae, quality, activations, tiny_language_model, tokens=50)
    index = BlockFile(tmp_path / "some.zip").get("index")
    assert index["shown_tokens"] == 50
    assert index["counts"] == quality.counts.tolist()
    assert len(BlockFile(tmp_path / "some.zip").get("text")["windows"]) == 13


def test_firings_are_sorted_by_feature_and_row(sae: Any, activations: Activations) -> None:
    dense = sae.dense(activations.tensor(torch.float32)).detach()
    with firings(sae, activations, ROWS) as found:
        for feature in range(FEATURES):
            rows, values = found.of(feature)
            assert rows.tolist() == dense[:, feature].nonzero()[:, 0].tolist()
            assert values.tolist() == dense[rows.tolist(), feature].tolist()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.zip").write_text("no pages")
    with pytest.raises(
        InputError, match=r"other\.zip: expected feature pages of `sae-torch evaluate`, found something"
    ):
        BlockFile(tmp_path / "other.zip")


def test_a_dictionary_of_one_feature_has_its_page(tiny_language_model: LanguageModel, tmp_path: Path) -> None:
    activations = make_activations(6, 9, d_model=D_MODEL)
    sae = st.SparseAutoencoder(D_MODEL, 1, choice=st.TokenChoice(k=1))
    path = tmp_path / "one.zip"
    evaluation = evaluate(
        "one", sae, activations, tiny_language_model, batch_sizes=(), null_tokens=0, contexts=2, dashboard=path
    )
    assert evaluation.dashboard == path
    blocks = BlockFile(path)
    (record,) = blocks.get("features-0")
    assert record["nearest"] == []
    assert record["fires"] == blocks.get("index")["counts"][0]
    out = tmp_path / "report.html"
    write_report(out, [evaluation], {})
    assert "one" in out.read_text(encoding="utf-8")
