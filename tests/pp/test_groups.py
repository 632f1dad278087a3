"""Sums over groups against numpy, and the genes that tell groups apart against scikit-learn."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.feature_selection import f_classif

from scdance import pp
from scdance.pp import _groups, canonical, group_moments, mean_and_sd, telling_genes


@pytest.fixture
def cells():
    """Counts of 200 cells in four groups, where some genes differ; 20 cells are in no group."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 4, 200)
    mean = rng.gamma(1, 1, (5, 60))
    return canonical(rng.poisson(mean[codes] * rng.random((200, 1)) * 2)), codes


def test_moments_are_those_of_numpy(cells):
    x, codes = cells
    found, dense = group_moments(x, codes, 4), x.toarray().astype(float)
    for code in range(4):
        mine = dense[codes == code]
        assert found.n[code] == len(mine)
        np.testing.assert_allclose(found.total[code], mine.sum(axis=0))
        np.testing.assert_allclose(found.square[code], (mine**2).sum(axis=0))
        np.testing.assert_array_equal(found.filled[code], (mine != 0).sum(axis=0))
        np.testing.assert_allclose(found.mean[code], mine.mean(axis=0))


def test_cells_of_no_group_take_no_part(cells):
    x, codes = cells
    inside = codes >= 0
    for one, other in zip(group_moments(x, codes, 4), group_moments(x[inside], codes[inside], 4), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_group_without_cells_has_sums_and_means_of_0(cells):
    x, codes = cells
    found = group_moments(x, codes, 6)
    assert found.n.tolist()[4:] == [0, 0]
    assert not np.any(found.mean[4:]) and np.isfinite(found.mean).all()


def test_blocks_do_not_matter(cells, monkeypatch):
    x, codes = cells
    whole = group_moments(x, codes, 4)
    monkeypatch.setattr(_groups, "blocks", lambda rows: pp.blocks(rows, 7))
    for one, other in zip(whole, group_moments(x, codes, 4), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_values_are_left_as_they_were(cells):
    x, codes = cells
    before = x.copy()
    group_moments(x, codes, 4)
    group_moments(x.astype(np.float64), codes, 4)
    assert (x != before).nnz == 0


def test_long_sums_of_float32_are_exact():
    x = sp.csr_matrix(np.full((5000, 1), 4097.0, dtype=np.float32))
    assert group_moments(x, np.zeros(5000, dtype=int), 1).square[0, 0] == 5000 * 4097.0**2


@pytest.mark.parametrize("n_top", [1, 5, 20, 59])
def test_the_genes_are_those_with_the_largest_f_of_scikit_learn(cells, n_top):
    x, codes = cells
    inside = codes >= 0
    f = f_classif(x[inside].toarray().astype(float), codes[inside])[0]
    found = telling_genes(group_moments(x, codes, 4), n_top)
    np.testing.assert_array_equal(found, np.sort(np.argsort(-f)[:n_top]))


def test_a_gene_that_the_groups_explain_wholly_comes_first():
    x = np.array([[1.0, 5, 1], [1, 4, 2], [2, 1, 1], [2, 1, 3]])
    assert telling_genes(group_moments(canonical(x), np.array([0, 0, 1, 1]), 2), 1).tolist() == [0]


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 9.21, 1e4])
def test_constant_genes_are_never_chosen(cells, value):
    x, codes = cells
    dense = x.toarray()
    dense[:, [3, 17]] = value
    for n_top in (None, 60):
        found = telling_genes(group_moments(canonical(dense), codes, 4), n_top)
        assert found.tolist() == [gene for gene in range(60) if gene not in (3, 17)]


def test_a_gene_in_a_single_cell_varies():
    x = np.zeros((2000, 2))
    x[0, 1] = 1
    assert telling_genes(group_moments(canonical(x), np.arange(2000) % 2, 2), None).tolist() == [1]


def test_without_a_gene_that_varies_none_is_chosen():
    assert len(telling_genes(group_moments(canonical(np.ones((4, 3))), np.array([0, 0, 1, 1]), 2), 2)) == 0


def test_mean_and_deviation_over_all_cells_are_those_of_numpy(cells):
    dense = cells[0].toarray().astype(float)
    dense[:, 4] = 9.21
    mean, sd = mean_and_sd(canonical(dense))
    np.testing.assert_allclose(mean, dense.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(np.delete(sd, 4), np.delete(dense.std(axis=0), 4), rtol=1e-6)
    assert sd[4] == 0


def test_a_gene_in_one_of_many_cells_has_a_deviation():
    x = sp.csr_matrix(([1.0], ([7], [0])), shape=(100_000, 1), dtype=np.float32)
    assert mean_and_sd(x)[1][0] == pytest.approx(np.sqrt(1e-5 * (1 - 1e-5)))
