"""Scores of predicted genes against formulas by hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy.stats import pearsonr

import scdance as sd
from scdance import metrics
from scdance._checks import InputError, MissingKeyError

TASK = "predict_genes"


@pytest.fixture
def tables() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.poisson(1.0, (40, 6)).astype(float)
    return truth, truth * rng.uniform(0.5, 1.5, 6) + rng.normal(0, 1, truth.shape)


def test_scores_are_means_over_the_genes(tables):
    truth, said = tables
    each = list(zip(truth.T, said.T, strict=True))
    assert metrics.gene_pearson(truth, said) == pytest.approx(np.mean([pearsonr(t, s).statistic for t, s in each]))
    cosine = [t @ s / np.linalg.norm(t) / np.linalg.norm(s) for t, s in each]
    assert metrics.gene_cosine(truth, said) == pytest.approx(np.mean(cosine))
    assert metrics.gene_rmse(truth, said) == pytest.approx(np.mean([np.sqrt(np.mean((t - s) ** 2)) for t, s in each]))


def test_a_constant_gene_counts_with_a_correlation_of_0(tables):
    truth, said = tables
    flat = said.astype(np.float32)
    flat[:, 2] = 0.1  # whose sums do not cancel to the last digit
    others = [pearsonr(t, s).statistic for i, (t, s) in enumerate(zip(truth.T, said.T, strict=True)) if i != 2]
    assert metrics.gene_pearson(truth, flat) == pytest.approx(sum(others) / 6, abs=1e-6)
    assert metrics.gene_pearson(flat, truth) == pytest.approx(sum(others) / 6, abs=1e-6)
    assert metrics.gene_pearson(truth, np.full_like(truth, 0.3)) == 0
    assert metrics.gene_cosine(truth, np.zeros_like(truth)) == 0


def test_tables_of_two_shapes_are_refused(tables):
    truth, said = tables
    for score in (metrics.gene_pearson, metrics.gene_cosine, metrics.gene_rmse):
        with pytest.raises(InputError, match="the prediction"):
            score(truth, said[:, 1:])


@pytest.fixture
def run() -> tuple[ad.AnnData, ad.AnnData, list[str]]:
    adata, ref = sd.datasets.toy_panel(120, 100, 80)
    genes = list(adata.var_names[:15])
    sd.tl.predict_genes(adata, ref, genes=genes, key_added="mine")
    return adata, ref, genes


def in_unit(adata: ad.AnnData, ref: ad.AnnData, genes: list[str]) -> np.ndarray:
    """Measured genes in the unit of the reference, by the genes that both sides have."""
    common = [name for name in adata.var_names if name not in genes]
    share = ref[:, common].X.sum() / ref.X.sum()
    depth = adata[:, common].X.sum(axis=1).A1
    return np.log1p(1e4 * share * adata[:, genes].X.toarray() / depth[:, None])


def test_the_truth_is_brought_to_the_unit_of_the_reference(run):
    adata, ref, genes = run
    truth, said = in_unit(adata, ref, genes), adata.obsm["mine"]
    found = metrics.score(adata, TASK, key="mine").loc["mine"]
    for name in ("gene_pearson", "gene_cosine", "gene_rmse"):
        assert found[name] == pytest.approx(metrics.get(name).function(truth, said), abs=1e-5)


def test_what_was_measured_may_stand_elsewhere_in_another_order(run):
    adata, _, genes = run
    own = metrics.score(adata, TASK, key="mine")
    apart = adata[::-1, genes[::-1]].copy()
    rest = adata[:, [name for name in adata.var_names if name not in genes]].copy()
    np.testing.assert_allclose(metrics.score(rest, TASK, key="mine", truth=apart), own, rtol=1e-6)
    half = metrics.score_genes(rest, key="mine", truth=apart[:, genes[:4]])
    assert sorted(half.index) == sorted(genes[:4])
    with pytest.raises(InputError, match=r"The object has 0 of the 15 predicted genes \(.*truth="):
        metrics.score(rest, TASK, key="mine")
    with pytest.raises(MissingKeyError, match=r"No 'other' in `adata\.obsm`"):
        metrics.score(adata, TASK, key="other")
    adata.obsm["theirs"] = adata.obsm["mine"]
    with pytest.raises(InputError, match="'theirs' does not say which genes"):
        metrics.score(adata, TASK, key="theirs")


def test_each_gene_has_a_row_and_a_bin(run):
    adata, ref, genes = run
    table = metrics.score_genes(adata, key="mine")
    assert sorted(table.index) == sorted(genes)
    np.testing.assert_allclose(table.loc[genes, "sparsity"], 1 - (adata[:, genes].X.toarray() > 0).mean(axis=0))
    assert list(table["bin"].cat.categories) == ["0–75% zeros", "75–90% zeros", "90–95% zeros", "95–100% zeros"]
    truth = in_unit(adata, ref, genes)
    r = [pearsonr(truth[:, i], adata.obsm["mine"][:, i]).statistic for i in range(15)]
    np.testing.assert_allclose(table.loc[genes, "pearson"], r, atol=1e-5)
    means = metrics.score(adata, TASK, key="mine").iloc[0].to_numpy()
    np.testing.assert_allclose(table[["pearson", "cosine", "rmse"]].mean(), means)


@pytest.mark.filterwarnings("ignore:1 of 120 cells have no counts")
def test_a_cell_without_counts_takes_no_part_in_scores():
    adata, ref = sd.datasets.toy_panel(120, 100, 80)
    genes = list(adata.var_names[:15])
    x = adata.X.toarray()
    x[3, 15:] = 0
    adata.X = x
    sd.tl.predict_genes(adata, ref, genes=genes)
    rest = adata[np.arange(120) != 3].copy()
    np.testing.assert_allclose(metrics.score(adata, TASK, key="knn"), metrics.score(rest, TASK, key="knn"), rtol=1e-6)
    np.testing.assert_allclose(adata.obsm["knn"][3], rest.obsm["knn"].mean(axis=0), rtol=1e-4)
