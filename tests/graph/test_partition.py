import random
import sys

import anndata
import numpy as np
import pytest
import scanpy as sc
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score

from scdance._checks import InputError, MissingPackageError
from scdance.graph import by_size, choose_k, fuzzy, kmeans, knn, leiden, louvain, mixture
from scdance.graph._partition import _taken


def blobs(k, n=150, d=10, seed=0):
    """k unequal groups of n cells on average."""
    sizes = np.random.default_rng(seed).integers(n // 2, 3 * n // 2, size=k)
    x, y = make_blobs(sizes, d, center_box=(-10, 10), random_state=seed)
    return x.astype(np.float32), y


@pytest.fixture
def x():
    return blobs(5)[0]


@pytest.fixture
def a(x):
    return fuzzy(knn(x, 14))


def test_by_size_puts_the_largest_first_and_ties_by_appearance():
    codes, order = by_size(np.array([7, 2, 2, 9, 9, 9, 4]))
    np.testing.assert_array_equal(codes, [2, 1, 1, 0, 0, 0, 3])
    np.testing.assert_array_equal(order, [9, 2, 7, 4])
    assert codes.dtype == np.int32


@pytest.mark.parametrize("seed", [0, 7])
def test_leiden_is_the_partition_of_scanpy(a, seed):
    adata = anndata.AnnData(np.zeros((a.shape[0], 1), dtype=np.float32), obsp={"connectivities": a})
    adata.obsp["distances"] = a
    adata.uns["neighbors"] = {
        "connectivities_key": "connectivities",
        "distances_key": "distances",
        "params": {},
    }
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed, resolution=3)
    ours = leiden(a, resolution=3, random_state=seed)
    assert adjusted_rand_score(adata.obs["leiden"], ours) == 1


@pytest.mark.parametrize("find", [leiden, louvain])
def test_communities_find_planted_groups_and_come_by_size(find):
    x, y = blobs(4, n=60)
    codes = find(fuzzy(knn(x, 14)), resolution=0.3)
    assert adjusted_rand_score(y, codes) == 1
    assert codes.dtype == np.int32
    assert (np.diff(np.bincount(codes)) <= 0).all()


@pytest.mark.parametrize("find", [leiden, louvain])
def test_communities_repeat_and_leave_the_global_random_state(a, find):
    import igraph

    state = random.getstate()
    first = find(a, resolution=2, random_state=3)
    assert random.getstate() == state
    np.testing.assert_array_equal(find(a, resolution=2, random_state=3), first)
    random.seed(1)
    one = igraph.Graph.Erdos_Renyi(20, 0.3).get_edgelist()
    random.seed(1)
    assert igraph.Graph.Erdos_Renyi(20, 0.3).get_edgelist() == one  # igraph listens to `random` again
    random.setstate(state)


def test_igraph_gets_its_generator_back_after_an_error(a, monkeypatch):
    import igraph

    given = []
    monkeypatch.setattr(igraph, "set_random_number_generator", given.append)
    with pytest.raises(TypeError):
        leiden(a, resolution="high")
    assert given[-1] is random
    assert len(given) == 2


def test_missing_igraph_is_a_sentence_with_the_pip_line(a, monkeypatch):
    monkeypatch.setitem(sys.modules, "igraph", None)
    with pytest.raises(MissingPackageError, match=r"Leiden clustering needs .* pip install 'scdance\[leiden\]'"):
        leiden(a)


def test_kmeans_equals_sklearn_with_clusters_by_size(x):
    codes, centers = kmeans(x, 5)
    expected = KMeans(5, n_init=20, random_state=0).fit(x)
    assert adjusted_rand_score(expected.labels_, codes) == 1
    assert (np.diff(np.bincount(codes)) <= 0).all()
    np.testing.assert_allclose(centers, [x[codes == c].mean(axis=0) for c in range(5)], atol=1e-4)
    assert (codes.dtype, centers.dtype) == (np.int32, np.float32)


def test_mixture_probabilities_fit_codes_and_means(x):
    codes, means, proba = mixture(x, 5, random_state=1)
    np.testing.assert_array_equal(proba.argmax(axis=1), codes)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(means, [x[codes == c].mean(axis=0) for c in range(5)], atol=0.05)
    assert (np.diff(np.bincount(codes)) <= 0).all()


@pytest.mark.parametrize("find", [kmeans, mixture])
@pytest.mark.parametrize("k", [0, 751])
def test_impossible_numbers_of_clusters_are_refused(find, k):
    with pytest.raises(InputError, match="between 1 and 750"):
        find(np.zeros((750, 2)), k)


@pytest.mark.parametrize("k", [4, 8, 16])
@pytest.mark.parametrize("how", ["leiden", "stability"])
def test_choose_k_finds_the_planted_number(k, how):
    x, y = blobs(k, n=60)
    choice = choose_k(x, how=how)
    assert abs(choice.k - k) <= 1
    assert adjusted_rand_score(y, choice.labels) > 0.9


def test_choose_k_scgnn_is_a_share_of_the_louvain_clusters():
    x, _ = blobs(10, n=40)
    choice = choose_k(x, how="scgnn", resolution=0.5)
    assert choice.table["n_communities"][0] == 10
    assert choice.k == 8
    assert choice.labels.max() + 1 == 8


def test_choose_k_gives_cells_of_tiny_clusters_to_the_nearest_centre():
    x, _ = blobs(3, n=80)
    far = x[:5] * 100  # five outliers of their own
    choice = choose_k(np.vstack([x, far]), n_neighbors=6, resolution=0.1)
    assert np.bincount(choice.labels).min() >= 10
    assert len(choice.labels) == len(x) + 5


def test_choose_k_tables_have_columns_of_equal_length(x):
    for how, length in (("leiden", 1), ("stability", 10), ("scgnn", 1)):
        choice = choose_k(x, how=how)
        assert {len(column) for column in choice.table.values()} == {length}
        assert choice.k == choice.labels.max() + 1


@pytest.mark.parametrize(
    ("n_clusters", "stability", "taken"),
    [
        # the most clusters, and of these the first within 5 % of the best
        (np.repeat([1, 4, 6, 6, 7], 2), [1, 1, 0.5, 0.4, 0.3, 0.7, 0.68, 0.1, 0.2, 0.2], 5),
        (np.array([2, 3, 4]), [0.9, 0.86, 0.85], 1),
        (np.array([1, 1]), [1, 1], 0),
    ],
)
def test_the_most_clusters_that_are_nearly_as_stable_as_the_best_are_taken(n_clusters, stability, taken):
    assert _taken(n_clusters, np.array(stability, dtype=float)) == taken


def test_choose_k_names_the_ways_it_knows(x):
    with pytest.raises(InputError, match="leiden, stability, scgnn"):
        choose_k(x, how="gap")


def test_clusters_without_a_cell_come_last():
    codes, order = by_size(np.array([3, 1, 1]), 5)
    assert codes.tolist() == [1, 0, 0]
    assert order.tolist() == [1, 3, 0, 2, 4]
