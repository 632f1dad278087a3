"""Scores of the cell cycle against scanpy's, and what they do not depend on."""

import doctest

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

from scdance import pp
from scdance._checks import InputError
from scdance.pp import _cell_cycle
from scdance.pp._cell_cycle import G2M_GENES, S_GENES

CYCLING = (*S_GENES[:20], *G2M_GENES[:30])
NAMES = np.array(sorted([*CYCLING, *(f"GENE{i:04d}" for i in range(1500))]))


@pytest.fixture(scope="module")
def x():
    rng = np.random.default_rng(0)
    means = rng.gamma(0.5, 1.0, len(NAMES)) * rng.lognormal(0, 0.3, (80, 1))
    in_s, in_g2m = np.isin(NAMES, S_GENES), np.isin(NAMES, G2M_GENES)
    means[:20, in_s] *= 4
    means[20:40, in_g2m] *= 4
    counts = rng.poisson(means)
    return sp.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32))


def test_there_are_43_genes_of_s_and_54_of_g2m():
    assert (len(set(S_GENES)), len(set(G2M_GENES))) == (43, 54)
    assert not set(S_GENES) & set(G2M_GENES)


def test_scores_are_those_of_scanpy_on_genes_in_the_order_of_their_names(x):
    adata = anndata.AnnData(x, var=pd.DataFrame(index=NAMES))
    sc.tl.score_genes_cell_cycle(adata, s_genes=list(S_GENES), g2m_genes=list(G2M_GENES))
    found = pp.cell_cycle_scores(x, NAMES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, adata.obs[["S_score", "G2M_score"]], atol=1e-6)


def test_cells_in_a_phase_score_higher_in_it(x):
    s, g2m = pp.cell_cycle_scores(x, NAMES).T
    assert s[:20].min() > s[20:].max()
    assert g2m[20:40].min() > g2m[40:].max()


def test_neither_the_order_of_the_genes_nor_their_case_nor_the_storage_matters(x):
    order = np.random.default_rng(1).permutation(len(NAMES))
    mouse = [name.capitalize() for name in NAMES[order]]
    expected = pp.cell_cycle_scores(x, NAMES)
    np.testing.assert_allclose(pp.cell_cycle_scores(x[:, order], mouse), expected, atol=1e-6)
    np.testing.assert_allclose(pp.cell_cycle_scores(x.toarray(), NAMES), expected, atol=1e-6)


def test_genes_of_one_mean_are_no_matter_of_the_order_of_the_cells():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(0.1, (60, len(NAMES)))).astype(np.float32)
    order, x = np.random.default_rng(1).permutation(60), counts.log1p()
    np.testing.assert_allclose(pp.cell_cycle_scores(x[order], NAMES), pp.cell_cycle_scores(x, NAMES)[order], atol=1e-6)


def test_each_cell_is_scored_with_its_row(x):
    order = np.random.default_rng(1).permutation(x.shape[0])
    np.testing.assert_allclose(pp.cell_cycle_scores(x[order], NAMES), pp.cell_cycle_scores(x, NAMES)[order], atol=1e-6)


def test_the_global_random_state_and_the_matrix_stay_as_they_were(x):
    before, data = np.random.get_state()[1].copy(), x.data.copy()  # noqa: NPY002, only looked at
    pp.cell_cycle_scores(x, NAMES)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(x.data, data)


@pytest.mark.parametrize("phase", [S_GENES, G2M_GENES])
def test_fewer_than_five_genes_of_a_phase_give_none(x, phase):
    there = np.flatnonzero(np.isin(NAMES, phase))
    assert pp.cell_cycle_scores(np.delete(x.toarray(), there[5:], axis=1), np.delete(NAMES, there[5:])) is not None
    assert pp.cell_cycle_scores(np.delete(x.toarray(), there[4:], axis=1), np.delete(NAMES, there[4:])) is None


def test_names_that_are_not_one_per_gene_are_refused(x):
    with pytest.raises(InputError, match="x has 1550 genes, but there are 1549 names"):
        pp.cell_cycle_scores(x, NAMES[1:])


def test_the_example_runs_as_printed():
    assert doctest.testmod(_cell_cycle).failed == 0
