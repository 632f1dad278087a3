import numpy as np
import pytest
import scipy.sparse as sp

from scdance._checks import InputError
from scdance.graph import _genes, correlations, gene_graph
from scdance.pp import OnDisk


@pytest.fixture
def x(monkeypatch):
    monkeypatch.setattr(_genes, "CELLS", 17)  # several blocks both ways
    monkeypatch.setattr(_genes, "GENES", 7)
    rng = np.random.default_rng(0)
    module = rng.gamma(1.0, size=(90, 3)) @ rng.gamma(1.0, size=(3, 25))
    x = np.log1p(rng.poisson(module)).astype(np.float32)
    x[:, 3] += 30  # the variance is a small part of the mean square
    x[:, 5], x[:, 11] = 0, 0.1
    return sp.csr_matrix(x)


def test_correlations_are_those_of_numpy_and_0_of_genes_that_do_not_vary(x):
    found = correlations(x)
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.corrcoef(x.toarray().astype(np.float64), rowvar=False))
    expected[[5, 11]], expected[:, [5, 11]] = 0, 0  # of 0.1, which is rounded, numpy finds a variance
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32
    varies = np.ones(25)
    varies[[5, 11]] = 0
    np.testing.assert_array_equal(np.diag(found), varies)


def test_correlations_with_some_genes_are_columns_in_their_order(x):
    some = np.array([20, 2, 9, 13, 1, 0, 24, 7, 8])
    np.testing.assert_allclose(correlations(x, some), correlations(x)[:, some], atol=1e-6)


def test_rows_on_disk_give_the_same_and_the_input_stays(x):
    before = x.copy()
    np.testing.assert_array_equal(correlations(OnDisk(x.toarray())), correlations(x))
    assert abs(x - before).nnz == 0


def test_permuted_genes_permute_the_graph_and_cells_do_not_matter(x):
    rng = np.random.default_rng(1)
    genes, cells = rng.permutation(25), rng.permutation(90)
    a = gene_graph(x)
    assert abs(gene_graph(x[cells][:, genes].tocsr()) - a[genes][:, genes]).nnz == 0


def test_the_graph_links_what_correlates_both_ways_and_nothing_to_itself(x):
    a = gene_graph(x, threshold=0.2)
    expected = np.abs(correlations(x)) >= 0.2
    np.fill_diagonal(expected, False)
    np.testing.assert_array_equal(a.toarray(), expected)
    assert abs(a - a.T).nnz == 0
    assert (a.data == 1).all()
    assert a.nnz > gene_graph(x, threshold=0.6).nnz > 0


def test_opposite_genes_are_linked():
    x = sp.csr_matrix(np.array([[0.0, 3.0], [1.0, 2.0], [2.0, 1.0], [3.0, 0.0]]))
    np.testing.assert_allclose(correlations(x)[0, 1], -1)
    assert gene_graph(x, threshold=0.9)[0, 1] == 1


@pytest.mark.parametrize("threshold", [0, -0.3, 1.5])
def test_a_threshold_that_is_no_correlation_is_refused(x, threshold):
    with pytest.raises(InputError, match="above 0 and at most 1"):
        gene_graph(x, threshold=threshold)
