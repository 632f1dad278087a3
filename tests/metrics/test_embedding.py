"""Scores of a space against scikit-learn called by hand."""

import doctest

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from scdance import metrics
from scdance._checks import InputError
from scdance.metrics import _clustering, _embedding

ALL = ("kmeans_ari", "kmeans_nmi", "asw", "dance_kmeans_ari", "dance_kmeans_nmi")
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(4, size=120)
X = (RNG.normal(size=(120, 3)) + 1.5 * RNG.normal(size=(4, 3))[TRUTH]).astype(np.float32)
PARTLY_KNOWN = np.where(TRUTH == 0, "", np.array(list("abcd"), dtype=object)[TRUTH])  # type 0 is not known


def clusters(x, k, n_init, seed):
    return KMeans(k, n_init=n_init, random_state=seed).fit_predict(x)


def test_kmeans_scores_are_those_of_scikit_learn_with_one_cluster_a_type():
    found = clusters(X, 4, 10, 0)
    assert metrics.kmeans_ari(TRUTH, X) == pytest.approx(adjusted_rand_score(TRUTH, found))
    assert metrics.kmeans_nmi(TRUTH, X) == pytest.approx(normalized_mutual_info_score(TRUTH, found))


def test_dance_scores_are_those_of_scikit_learn_with_ten_clusters():
    found = clusters(X, 10, 5, 200)
    largest = normalized_mutual_info_score(TRUTH, found, average_method="max")
    assert metrics.dance_kmeans_ari(TRUTH, X) == pytest.approx(adjusted_rand_score(TRUTH, found))
    assert metrics.dance_kmeans_nmi(TRUTH, X) == pytest.approx(largest)
    assert largest < normalized_mutual_info_score(TRUTH, found)


def test_asw_is_the_silhouette_brought_to_zero_to_one():
    assert metrics.asw(TRUTH, X) == pytest.approx((silhouette_score(X, TRUTH) + 1) / 2)


def test_asw_of_one_type_is_not_defined():
    assert np.isnan(metrics.asw(["T"] * 5, X[:5]))


def test_asw_of_many_cells_is_that_of_a_fixed_sample(monkeypatch):
    whole = metrics.asw(TRUTH, X)
    monkeypatch.setattr(_clustering, "MOST_CELLS", 90)
    sampled = metrics.asw(TRUTH, X)
    assert sampled == metrics.asw(TRUTH, X) != metrics.asw(TRUTH, X, random_state=1)
    assert sampled == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize("name", ALL)
def test_cells_without_truth_take_no_part(name):
    function, known = metrics.get(name).function, TRUTH != 0
    assert function(PARTLY_KNOWN, X) == function(TRUTH[known], X[known])


@pytest.mark.parametrize("name", ALL)
def test_names_of_the_types_and_units_of_the_space_do_not_matter(name):
    function = metrics.get(name).function
    named = pd.Categorical.from_codes(TRUTH, ["d", "c", "b", "a"])
    assert function(named, 8 * X) == pytest.approx(function(TRUTH, X))


@pytest.mark.parametrize("name", ALL)
def test_a_space_that_parts_the_types_scores_more_than_noise(name):
    function = metrics.get(name).function
    assert function(TRUTH, X) > function(TRUTH, RNG.normal(size=X.shape)) + 0.05


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_and_counted(name, hole):
    x = X.copy()
    x[[3, 7], 1] = hole
    with pytest.raises(InputError, match=r"finite numbers.*2 of 120 rows"):
        metrics.get(name).function(TRUTH, x)


@pytest.mark.parametrize("name", ALL)
def test_a_space_of_other_cells_is_refused(name):
    with pytest.raises(InputError, match="truth has 120 cells and embedding has 119"):
        metrics.get(name).function(TRUTH, X[1:])


@pytest.mark.parametrize("name", ALL)
def test_a_space_without_known_truth_is_refused(name):
    with pytest.raises(InputError, match="truth of all 120 cells is missing"):
        metrics.get(name).function([""] * 120, X)


def test_fewer_cells_than_the_ten_clusters_of_dance_are_refused():
    with pytest.raises(InputError, match="10 clusters asked of 9 cells"):
        metrics.dance_kmeans_ari(TRUTH[:9], X[:9])


def test_the_examples_run_as_printed():
    assert doctest.testmod(_embedding).failed == 0
