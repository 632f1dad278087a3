import sys

import numpy as np
import pytest
import scanpy as sc
from scipy.optimize import brentq
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

import scdance.graph._cells as cells
from scdance._checks import InputError
from scdance._settings import settings
from scdance.graph import fuzzy, knn, leiden


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def test_knn_equals_the_distance_matrix(x):
    d = knn(x, 7)
    full = cdist(x, x)
    np.fill_diagonal(full, np.inf)
    expected = np.sort(full, axis=1)[:, :7]
    np.testing.assert_allclose(np.sort(d.data.reshape(200, 7), axis=1), expected, rtol=1e-5)
    rows = np.repeat(np.arange(200), 7)
    np.testing.assert_allclose(d.data, full[rows, d.indices], rtol=1e-5)


def test_knn_equals_sklearn_with_the_same_stored_pairs(x):
    expected = NearestNeighbors(n_neighbors=5).fit(x).kneighbors_graph(mode="distance")
    assert abs(knn(x, 5) - expected).max() < 1e-5


def test_knn_is_a_csr_with_k_ascending_columns_and_no_diagonal(x):
    d = knn(x, 7)
    assert isinstance(d, csr_matrix)
    assert (d.dtype, d.indices.dtype, d.indptr.dtype) == (np.float32, np.int32, np.int32)
    assert (np.diff(d.indptr) == 7).all()
    assert (np.diff(d.indices.reshape(200, 7), axis=1) > 0).all()
    assert not d.diagonal().any()


def test_knn_of_fewer_points_than_neighbours_links_all():
    assert knn(np.eye(4), 15).nnz == 12
    assert knn(np.ones((1, 3)), 15).nnz == 0


def test_knn_stores_duplicates_at_distance_zero_and_never_the_cell_itself():
    x = np.full((30, 4), 0.1, dtype=np.float32)
    x[20:] = np.random.default_rng(0).normal(size=(10, 4))
    d = knn(x, 5)
    assert (np.diff(d.indptr) == 5).all()
    rows = np.repeat(np.arange(30), 5)
    assert (d.indices != rows).all()
    assert (d.data[rows < 20] == 0).all()


def test_permuting_cells_permutes_the_graph(x):
    order = np.random.default_rng(1).permutation(200)
    assert abs(knn(x, 7)[order][:, order] - knn(x[order], 7)).max() < 1e-6


def test_knn_needs_a_neighbour(x):
    with pytest.raises(InputError, match="at least one"):
        knn(x, 0)


def test_approximate_search_keeps_the_form_and_the_threads_of_torch(x, monkeypatch):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()

    class Descent:  # stands for pynndescent, whose compilation takes longer than this test may
        def __init__(self, x, n_neighbors, random_state):
            torch.set_num_threads(before + 1)
            distances, found = NearestNeighbors(n_neighbors=n_neighbors).fit(x).kneighbors(x)
            found[3], distances[3] = -1, np.inf  # what it says of points that it gave up
            self.neighbor_graph = found, distances

    monkeypatch.setitem(sys.modules, "pynndescent", type(sys)("pynndescent"))
    monkeypatch.setattr(sys.modules["pynndescent"], "NNDescent", Descent, raising=False)
    exact = knn(x, 7)
    monkeypatch.setattr(cells, "EXACT_UP_TO", 100)
    assert abs(knn(x, 7) - exact).max() < 1e-5
    assert torch.get_num_threads() == before


def umap_weights(d):
    """The published equations, cell by cell: Σ exp(−(d − ρ)/σ) = log2(k + 1), then a ∪ b."""
    n = d.shape[0]
    a = np.zeros((n, n))
    for i in range(n):
        columns, values = d[i].indices, d[i].data.astype(float)
        excess = np.maximum(values - values[values > 0].min(), 0)
        target = np.log2(len(values) + 1)
        sigma = brentq(lambda s, e=excess, t=target: np.exp(-e / s).sum() - t, 1e-9, 1e6, xtol=1e-12)
        a[i, columns] = np.exp(-excess / sigma)
    return a + a.T - a * a.T


@pytest.mark.parametrize("k", [4, 14])
def test_fuzzy_solves_the_equations_of_umap(x, k):
    d = knn(x, k)
    np.testing.assert_allclose(fuzzy(d).toarray(), umap_weights(d), atol=1e-5)


def test_fuzzy_takes_the_nearest_cell_that_is_no_duplicate_as_offset(x):
    d = knn(np.vstack([x, x[:1], x[:1]]), 9)
    np.testing.assert_allclose(fuzzy(d).toarray(), umap_weights(d), atol=1e-5)


def test_fuzzy_bounds_the_scale_of_cells_with_many_duplicates(x):
    weights = fuzzy(knn(np.vstack([x] + [x[:1]] * 30), 9))  # 30 neighbours at 0: no scale solves the equation
    assert np.isfinite(weights.data).all()
    np.testing.assert_allclose(weights[205].data.max(), 1)


@pytest.mark.real
@pytest.mark.parametrize("name", ["worm_neuron", "10X_PBMC_top2000", "mouse_bladder_top2000"])
def test_neighbours_and_leiden_are_those_of_scanpy_on_real_data(name):
    adata = sc.read_h5ad(settings.data_dir / "clustering" / f"{name}.h5ad")
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, 50)
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X_pca", transformer="sklearn")
    weights = fuzzy(knn(adata.obsm["X_pca"], 14))
    assert abs(weights - adata.obsp["connectivities"]).max() < 1e-4
    for seed in range(3):
        sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        assert adjusted_rand_score(adata.obs["leiden"], leiden(weights, random_state=seed)) >= 0.95


def test_fuzzy_is_symmetric_without_diagonal_and_zeros(x):
    a = fuzzy(knn(x, 10))
    assert (a.dtype, a.indices.dtype) == (np.float32, np.int32)
    assert abs(a - a.T).max() == 0
    assert not a.diagonal().any()
    assert 0 < a.data.min() <= a.data.max() <= 1
    assert a.has_sorted_indices


def test_fuzzy_takes_rows_of_different_length_and_cells_without_neighbours():
    d = csr_matrix(np.array([[0, 1, 2, 0], [1, 0, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]], dtype=np.float32))
    a = fuzzy(d)
    assert np.isfinite(a.data).all()
    np.testing.assert_allclose(a[0, 1], 1)
    assert a[3].nnz == 0
