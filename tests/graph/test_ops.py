import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import svds

from scdance._checks import InputError
from scdance.graph import bipartite, knn, normalize, self_loops, symmetric


@pytest.fixture
def a():
    d = knn(np.random.default_rng(0).normal(size=(60, 4)), 5)
    d.data[:] = np.random.default_rng(1).uniform(0.1, 2, d.nnz)
    return d


@pytest.fixture
def counts():
    return sp.random(30, 20, density=0.3, format="csr", random_state=0, dtype=np.float32)


def test_symmetric_takes_the_larger_or_the_mean_weight(a):
    dense = a.toarray()
    np.testing.assert_array_equal(symmetric(a).toarray(), np.maximum(dense, dense.T))
    np.testing.assert_allclose(symmetric(a, how="mean").toarray(), (dense + dense.T) / 2, rtol=1e-6)
    assert (np.diff(symmetric(a).indptr) >= 5).all()


def test_self_loops_set_the_diagonal_once(a):
    looped = self_loops(a)
    np.testing.assert_array_equal(looped.toarray(), a.toarray() + np.eye(60))
    assert abs(self_loops(looped) - looped).nnz == 0


def test_symmetric_normalisation_has_spectral_radius_at_most_one(a):
    s = normalize(self_loops(symmetric(a)))
    eigenvalues = np.linalg.eigvalsh(s.toarray())
    assert np.abs(eigenvalues).max() <= 1 + 1e-6
    assert abs(s - s.T).max() < 1e-7


def test_symmetric_normalisation_is_the_laplacian_of_networkx(a):
    a = symmetric(a)
    expected = np.eye(60) - nx.normalized_laplacian_matrix(nx.from_scipy_sparse_array(a)).toarray()
    np.testing.assert_allclose(normalize(a).toarray(), expected, atol=1e-6)


def test_rectangular_normalisation_has_no_singular_value_above_one(counts):
    assert svds(normalize(counts).astype(float), k=1, return_singular_vectors=False)[0] <= 1 + 1e-6


def test_row_normalisation_sums_to_one_and_keeps_empty_rows(a):
    a = a.tolil()
    a[3] = 0
    sums = normalize(a, how="row").sum(axis=1).A1
    np.testing.assert_allclose(np.delete(sums, 3), 1, rtol=1e-6)
    assert sums[3] == 0


@pytest.mark.parametrize("operation", [symmetric, self_loops, normalize])
def test_operations_give_clean_float32_and_leave_their_input(a, operation):
    a.data[::7] = 0
    before = a.copy()
    for given in (a, sp.csc_array(a)):
        result = operation(given)
        assert isinstance(result, sp.csr_matrix)
        assert (result.dtype, result.indices.dtype) == (np.float32, np.int32)
        assert result.data.all()
        assert result.has_sorted_indices
    assert abs(a - before).nnz == 0
    assert len(a.data) == len(before.data)


def test_permuting_the_nodes_permutes_the_matrix(a):
    order = np.random.default_rng(2).permutation(60)
    for operation in (symmetric, self_loops, normalize):
        assert abs(operation(a)[order][:, order] - operation(a[order][:, order])).max() < 1e-6


def test_unknown_ways_are_refused(a):
    with pytest.raises(InputError, match="sym, row"):
        normalize(a, how="column")
    with pytest.raises(InputError, match="max, mean"):
        symmetric(a, how="min")


def test_bipartite_weights_equal_a_loop_over_edges(counts):
    into_cells, into_genes = bipartite(counts)
    dense = counts.toarray()
    for matrix, weights in ((into_cells, dense), (into_genes, dense.T)):
        expected = np.zeros_like(weights)
        for v in range(len(weights)):
            for u in range(weights.shape[1]):
                if weights[v, u]:
                    expected[v, u] = np.count_nonzero(weights[v]) * weights[v, u] / weights[v].sum()
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=1e-5)


def test_weights_into_a_node_sum_to_its_degree(counts):
    counts = sp.csr_matrix(np.where(np.arange(30)[:, None] == 4, 0, counts.toarray()))
    for matrix in bipartite(counts):
        np.testing.assert_allclose(matrix.sum(axis=1).A1, np.diff(matrix.indptr), rtol=1e-5)
        assert matrix.data.all()
    assert bipartite(counts)[0][4].nnz == 0  # a cell without edges stays without


def test_without_norm_the_weights_stay(counts):
    into_cells, into_genes = bipartite(counts, norm=False)
    assert abs(into_cells - counts).nnz == 0
    assert abs(into_genes - counts.T).nnz == 0


def test_bipartite_refuses_scaled_values(counts):
    counts.data[0] = -1
    with pytest.raises(InputError, match="must not be negative"):
        bipartite(counts)
