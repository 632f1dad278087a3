import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from scdance._checks import InputError
from scdance.graph import fuzzy, kmeans, knn, leiden, louvain, tied_mixture, with_n_clusters


@pytest.fixture
def layers():
    """Three long layers, close together: k-means cuts them across."""
    rng = np.random.default_rng(0)
    codes = np.repeat([0, 1, 2], [200, 150, 100])
    return rng.normal(size=(450, 3)) * [9, 1, 0.3] + np.outer(codes, [0, 0, 2.5]), codes


def test_a_shared_covariance_finds_long_layers_that_k_means_cuts(layers):
    x, codes = layers
    labels, means, proba = tied_mixture(x, 3)
    assert adjusted_rand_score(codes, labels) > 0.95
    assert adjusted_rand_score(codes, kmeans(x, 3)[0]) < 0.5
    assert means.shape == (3, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(proba.argmax(axis=1), labels)
    assert (np.diff(np.bincount(labels)) <= 0).all()


def test_its_likelihood_is_no_lower_than_that_of_scikit_learns_own_starts(layers):
    x, _ = layers
    _, means, proba = tied_mixture(x, 3)
    off = x - means[proba.argmax(axis=1)]
    fitted = GaussianMixture(3, covariance_type="tied", n_init=5, random_state=0).fit(x)
    refit = GaussianMixture(3, covariance_type="tied", means_init=means, random_state=0).fit(x)
    assert refit.lower_bound_ >= fitted.lower_bound_ - 1e-3
    assert np.linalg.det(off.T @ off) > 0


def test_many_points_are_sampled_for_the_tree(layers):
    x, codes = layers
    many = np.vstack([x] * 4) + np.random.default_rng(1).normal(0, 0.01, (1800, 3))
    assert adjusted_rand_score(np.tile(codes, 4), tied_mixture(many, 3)[0]) > 0.95


def test_equal_seeds_give_equal_mixtures_and_constant_points_do_not_break_it(layers):
    x, _ = layers
    np.testing.assert_array_equal(tied_mixture(x, 4, random_state=3)[2], tied_mixture(x, 4, random_state=3)[2])
    flat = np.column_stack([x, np.zeros(len(x))])
    assert np.isfinite(tied_mixture(flat, 3)[2]).all()
    with pytest.raises(InputError, match="500 clusters"):
        tied_mixture(x, 500)


@pytest.mark.parametrize("partition", [leiden, louvain])
@pytest.mark.parametrize("k", [2, 5, 9])
def test_a_resolution_is_found_for_a_number_of_communities(partition, k):
    x = np.random.default_rng(0).normal(size=(300, 2))
    labels, resolution = with_n_clusters(partition, fuzzy(knn(x)), k)
    assert labels.max() + 1 == k
    np.testing.assert_array_equal(labels, partition(fuzzy(knn(x)), resolution=resolution))


def test_where_no_resolution_gives_the_number_the_nearest_one_is_taken():
    apart = fuzzy(knn(np.repeat([0.0, 100.0, 200.0], 5)[:, None] + np.arange(15)[:, None] % 5 * 0.1, k=3))
    assert with_n_clusters(leiden, apart, 2)[0].max() + 1 == 3
