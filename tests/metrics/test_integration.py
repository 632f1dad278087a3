"""Scores of merged batches against formulas by hand, scikit-learn, scipy and stored values of scib-metrics."""

import doctest

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.stats import chisquare, norm

import scdance as sd
from scdance import metrics
from scdance._checks import InputError
from scdance.metrics import _clustering, _integration

RNG = np.random.default_rng(0)
TYPES, BATCHES = RNG.integers(4, size=240), RNG.integers(3, size=240)
X = RNG.normal(size=(240, 3)) + 2 * RNG.normal(size=(4, 3))[TYPES] + 0.7 * RNG.normal(size=(3, 3))[BATCHES]
TRUTH, BATCH = np.array(list("abcd"))[TYPES], np.array(["one", "two", "three"])[BATCHES]
ORDER = RNG.permutation(240)
APART = 50.0 * np.eye(4)[TYPES] + RNG.normal(size=(240, 4))  # types in clumps, batches mixed

ALL = {
    "subsampled_ari": lambda truth, x, batch, **given: metrics.subsampled_ari(truth, x, **given),
    "batch_ari": metrics.batch_ari,
    "kbet": metrics.kbet,
    "ilisi": lambda truth, x, batch, **given: metrics.ilisi(x, batch, **given),
    "clisi": lambda truth, x, batch, **given: metrics.clisi(truth, x, **given),
    "a_distance": lambda truth, x, batch, **given: metrics.a_distance(x, batch, **given),
}
WITH_TRUTH = ("subsampled_ari", "batch_ari", "kbet", "clisi")
WITH_BATCH = ("batch_ari", "kbet", "ilisi", "a_distance")


@pytest.fixture
def rng():
    return np.random.default_rng(1)


# Clusters of samples


def test_clumps_that_are_types_are_found_in_every_sample_and_noise_is_chance(rng):
    assert metrics.subsampled_ari(TRUTH, APART) == 1
    assert metrics.subsampled_ari(TRUTH, rng.normal(size=(240, 3))) == pytest.approx(0, abs=0.05)


def test_samples_of_all_cells_are_clustered_as_the_cells_are(monkeypatch):
    near = APART - 46 * np.eye(4)[TYPES]  # clusters are clear, but some cells are nearer to another
    assert 0.8 < metrics.kmeans_ari(TRUTH, near) < 1
    monkeypatch.setattr(_integration, "SAMPLED", 1.0)
    assert metrics.subsampled_ari(TRUTH, near) == pytest.approx(metrics.kmeans_ari(TRUTH, near), abs=0.02)


def test_samples_are_those_of_the_seed():
    found = metrics.subsampled_ari(TRUTH, X)
    assert found == metrics.subsampled_ari(TRUTH, X) != metrics.subsampled_ari(TRUTH, X, random_state=1)


def test_both_scores_of_clusters_look_at_the_same_clusters(rng):
    one, other = rng.integers(2, size=(2, 240))
    x = rng.normal(size=(240, 2)) + 2 * other[:, None]
    assert metrics.batch_ari(one, x, other) == pytest.approx(1 - metrics.subsampled_ari(other, x))


def test_batch_ari_is_1_where_batches_are_mixed_and_0_where_they_are_the_clusters():
    assert metrics.batch_ari(TRUTH, APART, BATCH) == pytest.approx(1, abs=0.02)
    assert metrics.batch_ari(BATCHES, APART, TRUTH) < 0.3  # four types in three clusters
    assert metrics.batch_ari(TYPES % 2, 50.0 * np.eye(2)[BATCHES % 2], BATCHES % 2) == 0


def test_types_of_one_batch_do_not_count_as_batches_that_are_apart():
    lone = np.where(TRUTH == "a", "lone", BATCH)  # a clump of its own
    assert metrics.batch_ari(TRUTH, APART, lone) == pytest.approx(1, abs=0.02)


def test_batch_ari_is_not_defined_unless_batches_share_a_type():
    for batch in (None, ["one"] * 240, TRUTH, [None] * 240):
        assert np.isnan(metrics.batch_ari(TRUTH, X, batch))


# k-BET


def acceptance(x, batches):
    """Acceptance of one type, cell by cell and size by size."""
    near = np.linalg.norm(x[:, None] - x, axis=-1).argsort(axis=1)
    share = np.bincount(batches) / len(x)
    sizes = [round(len(x) * part) for part in (0.05, 0.1, 0.15, 0.2, 0.25)]
    counts = {size: [np.bincount(batches[each[:size]], minlength=len(share)) for each in near] for size in sizes}
    return np.mean([[chisquare(each, size * share).pvalue >= 0.05 for each in counts[size]] for size in sizes])


def test_kbet_is_the_share_of_chi_square_tests_that_accept(rng):
    batches = rng.integers(3, size=100)
    x = rng.normal(size=(100, 3)) + 0.8 * rng.normal(size=(3, 3))[batches]
    found = metrics.kbet(["T"] * 100, x, batches)
    assert 0.1 < found < 0.9
    assert found == pytest.approx(acceptance(x, batches), abs=1e-12)


def test_kbet_is_that_of_scib_metrics():
    # mean of `kbet(...)[0]` of scib-metrics 0.5.10 on the nearest 5, 10, 15, 20, 25 of 100 cells, themselves included
    assert metrics.kbet(["T"] * 100, X[:100], BATCH[:100]) == pytest.approx(0.868, abs=1e-12)


def test_nearly_all_neighbourhoods_of_random_batches_are_accepted(rng):
    found = [metrics.kbet(["T"] * 200, rng.normal(size=(200, 3)), rng.random(200) < p) for p in [0.5, 0.8] * 10]
    assert 0.94 < np.mean(found) < 0.99


def test_no_neighbourhood_of_batches_that_are_apart_is_accepted(rng):
    types, batch = np.repeat(["T", "B"], 120), np.tile([0, 1], 120)
    assert metrics.kbet(types, 50 * batch[:, None] + rng.normal(size=(240, 2)), batch) == 0


def test_kbet_is_the_mean_over_types_of_which_small_ones_and_those_of_one_batch_are_skipped(rng):
    x, batch = rng.normal(size=(119, 2)), np.arange(119) % 2
    x[60:100, 0] += 20 * batch[60:100]
    types = np.repeat(["mixed", "apart", "few"], [60, 40, 19])
    both = metrics.kbet(types, x, batch)
    assert both == pytest.approx(metrics.kbet(types[:60], x[:60], batch[:60]) / 2)
    assert np.isnan(metrics.kbet(types[100:], x[100:], batch[100:]))
    assert metrics.kbet(types[60:80], x[60:80], batch[60:80]) < 0.1  # 20 cells are enough
    batch[60:100] = 0
    assert metrics.kbet(types, x, batch) == pytest.approx(2 * both)


def test_batches_of_fewer_than_five_cells_of_a_type_are_left_out_of_it(rng):
    x, batch = rng.normal(size=(90, 2)), np.repeat(["one", "two", "rare"], [40, 46, 4])
    assert metrics.kbet(["T"] * 90, x, batch) == metrics.kbet(["T"] * 86, x[:86], batch[:86])
    assert np.isnan(metrics.kbet(["T"] * 50, x[40:], batch[40:]))


def test_kbet_of_many_cells_is_that_of_a_fixed_sample(monkeypatch):
    whole, one_type = metrics.kbet(["T"] * 240, X, BATCH), ["T"] * 240
    monkeypatch.setattr(_integration, "MOST_OF_A_TYPE", 150)
    sampled = metrics.kbet(one_type, X, BATCH)
    assert sampled == metrics.kbet(one_type, X, BATCH) != metrics.kbet(one_type, X, BATCH, random_state=1)
    assert sampled == pytest.approx(whole, abs=0.2)


def test_cells_at_one_place_are_not_compared_in_the_order_of_the_file():
    same, batch = np.zeros((200, 2)), np.repeat(["one", "two"], 100)
    assert metrics.kbet(["T"] * 200, same, batch) > 0.5
    assert metrics.ilisi(same, batch) > 0.9
    assert metrics.clisi(batch, same) < 0.1


# Local inverse Simpson index


def simpson(x, codes, k, perplexity):
    """Index of each cell, one after the other, with the precision of its weights found by Brent's method."""
    distances, found = np.sqrt(((x[:, None] - x) ** 2).sum(axis=-1)), []
    for i, row in enumerate(distances):
        near = np.array([j for j in row.argsort() if j != i][:k])

        def weights(beta, of=row[near]):
            p = np.exp(-beta * (of - of.min()))
            return p / p.sum()

        def excess(beta):
            p = weights(beta)
            return -(p * np.log(np.where(p > 0, p, 1))).sum() - np.log(perplexity)

        share = np.bincount(codes[near], weights(brentq(excess, 1e-9, 1e6)))
        found.append(1 / (share**2).sum())
    return np.array(found)


def test_lisi_is_that_of_a_slow_formula():
    assert metrics.ilisi(X, BATCH) == pytest.approx((np.median(simpson(X, BATCHES, 90, 30)) - 1) / 2, abs=1e-6)
    assert metrics.clisi(TRUTH, X) == pytest.approx((4 - np.median(simpson(X, TYPES, 90, 30))) / 3, abs=1e-6)


def test_fewer_cells_have_fewer_neighbours():
    few = slice(40)
    expected = np.median(simpson(X[few], BATCHES[few], 39, 13))
    assert metrics.ilisi(X[few], BATCH[few]) == pytest.approx((expected - 1) / 2, abs=1e-6)
    assert metrics.ilisi([[0.0], [1.0]], ["a", "b"]) == 0
    assert metrics.clisi(["a", "b"], [[0.0], [1.0]]) == 1


def test_lisi_is_that_of_scib_metrics():
    # `ilisi_knn` and `clisi_knn` of scib-metrics 0.5.10, perplexity=30, on the distances of 90 neighbours
    assert metrics.ilisi(X, BATCH) == pytest.approx(0.815446, abs=1e-6)
    assert metrics.clisi(TRUTH, X) == pytest.approx(0.950282, abs=1e-6)


def test_weights_have_the_perplexity_that_is_asked_whatever_the_unit(rng):
    for distances in (rng.random((20, 90)), rng.gamma(0.3, size=(20, 90)), 100 + rng.random((20, 90))):
        for unit in (1e-6, 1, 1e6):
            p = _integration._weights(unit * distances)
            np.testing.assert_allclose(p.sum(axis=1), 1)
            entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
            np.testing.assert_allclose(np.exp(entropy), 30, rtol=1e-6)


def test_neighbours_at_the_place_of_the_nearest_share_the_weight_evenly():
    distances = np.repeat([[0.0, 1.0]], [50, 40], axis=1)
    np.testing.assert_allclose(_integration._weights(distances), distances == 0, atol=1e-12, rtol=49)
    np.testing.assert_allclose(_integration._weights(distances)[0, :50], 1 / 50)
    np.testing.assert_allclose(_integration._weights(np.zeros((2, 90))), 1 / 90)


def test_ilisi_of_batches_of_different_sizes_is_that_of_their_shares(rng):
    batch = rng.random(3000) < 0.2
    index = 1 / (0.2**2 + 0.8**2)
    assert metrics.ilisi(rng.normal(size=(3000, 2)), batch) == pytest.approx(index - 1, abs=0.05)


def test_lisi_of_clumps_is_0_of_batches_and_1_of_types():
    assert metrics.ilisi(100.0 * np.eye(3)[BATCHES], BATCH) == pytest.approx(0, abs=1e-6)
    assert metrics.clisi(TRUTH, APART) == pytest.approx(1, abs=1e-6)


# Distance by a classifier


@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_a_distance_is_that_of_two_normal_distributions_whatever_their_sizes(share, shift, rng):
    is_one = rng.random(4000) < share
    x = rng.normal(size=(4000, 2))
    x[is_one, 0] += shift
    expected = 2 * (1 - 2 * norm.cdf(-shift / 2))  # the best border lies half-way
    assert metrics.a_distance(x, is_one) == pytest.approx(expected, abs=0.1)


def test_a_distance_of_batches_that_are_apart_is_2():
    assert metrics.a_distance(100.0 * np.eye(3)[BATCHES], BATCH) == 2


def test_a_distance_of_more_batches_is_the_mean_of_each_against_the_others():
    each = [metrics.a_distance(X, name == BATCH) for name in np.unique(BATCH)]
    assert metrics.a_distance(X, BATCH) == pytest.approx(np.mean(each), abs=0.05)
    rare = np.where(np.arange(240) < 4, "rare", "one")
    assert np.isnan(metrics.a_distance(X, rare))


def test_a_distance_does_not_depend_on_the_unit_of_a_dimension():
    assert metrics.a_distance(X * [1, 1e3, 1e-3] + 5, BATCH) == pytest.approx(metrics.a_distance(X, BATCH), abs=1e-6)


def test_a_distance_of_many_cells_is_that_of_a_fixed_sample(monkeypatch):
    whole = metrics.a_distance(X, BATCH)
    monkeypatch.setattr(_clustering, "MOST_CELLS", 120)
    sampled = metrics.a_distance(X, BATCH)
    assert sampled == metrics.a_distance(X, BATCH) != metrics.a_distance(X, BATCH, random_state=1)
    assert sampled == pytest.approx(whole, abs=0.4)


# Distance to a reference


@pytest.mark.parametrize(("n", "n_ref"), [(2000, 2000), (3600, 400)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_distance_to_a_reference_is_that_of_two_normal_distributions(n, n_ref, shift, rng):
    x, ref = rng.normal(size=(n, 2)), rng.normal([shift, 0], size=(n_ref, 2))
    expected = 2 * (2 * norm.cdf(shift / 2) - 1)  # 2 (1 − 2 ε), ε = Φ(−shift / 2)
    assert metrics.a_distance_to_ref(x, ref) == pytest.approx(expected, abs=0.1)


def test_distance_to_a_reference_is_that_of_nearest_means_on_cells_held_out(rng):
    x, ref = rng.normal(size=(1000, 3)), rng.normal([0.8, -0.8, 0.4], size=(1000, 3))
    wrong = []
    for part in range(5):  # of spheres of one size, the nearer mean is the best there is
        held = np.arange(1000) % 5 == part
        means = x[~held].mean(axis=0), ref[~held].mean(axis=0)
        for side, own in ((x, 0), (ref, 1)):
            far = [np.linalg.norm(side[held] - mean, axis=1) for mean in means]
            wrong.append(np.mean(far[own] > far[1 - own]))
    assert metrics.a_distance_to_ref(x, ref) == pytest.approx(2 * (1 - 2 * np.mean(wrong)), abs=0.05)


def test_sides_that_are_centred_by_themselves_are_not_told_apart_by_a_line(rng):
    x, ref = rng.normal(size=(500, 2)), 4 * rng.normal(size=(500, 2))
    assert metrics.a_distance_to_ref(x - x.mean(axis=0), ref - ref.mean(axis=0)) < 0.2


def test_without_a_reference_or_with_too_few_cells_there_is_no_distance():
    assert np.isnan(metrics.a_distance_to_ref(X))
    assert np.isnan(metrics.a_distance_to_ref(X, X[:4]))


def test_a_reference_in_another_space_is_refused():
    with pytest.raises(InputError, match="cells have 3 dimensions and their reference 2"):
        metrics.a_distance_to_ref(X, X[:, :2])
    with pytest.raises(InputError, match=r"finite numbers.*1 of 240 rows"):
        metrics.a_distance_to_ref(X, np.where(np.arange(240)[:, None] == 5, np.nan, X))


# All of them


@pytest.mark.parametrize("name", WITH_BATCH)
def test_a_score_of_batches_is_not_defined_for_one(name):
    for batch in (None, ["one"] * 240, [None] * 240):
        assert np.isnan(ALL[name](TRUTH, X, batch))


def test_clisi_of_one_type_is_not_defined():
    assert np.isnan(metrics.clisi(["T"] * 240, X))


@pytest.mark.parametrize("name", ALL)
def test_the_order_of_the_cells_matters_no_more_than_the_seed(name):
    turned = ALL[name](TRUTH[ORDER], X[ORDER], BATCH[ORDER])
    assert turned == pytest.approx(ALL[name](TRUTH, X, BATCH), abs=1e-5 if "lisi" in name or name == "kbet" else 0.2)


@pytest.mark.parametrize("name", ALL)
def test_names_and_the_unit_of_the_space_do_not_matter(name):
    named = pd.Categorical.from_codes(TYPES, ["d", "c", "b", "a"]), pd.Series(BATCH).replace("one", "zero")
    assert ALL[name](named[0], 8 * X, named[1]) == pytest.approx(ALL[name](TRUTH, X, BATCH), abs=1e-5)


@pytest.mark.parametrize("name", WITH_TRUTH)
@pytest.mark.parametrize("hole", ["", None, np.nan])
def test_cells_without_truth_take_no_part(name, hole):
    known = TRUTH != "b"
    holes = np.where(known, TRUTH.astype(object), hole)
    assert ALL[name](holes, X, BATCH) == ALL[name](TRUTH[known], X[known], BATCH[known])


@pytest.mark.parametrize("name", WITH_BATCH)
@pytest.mark.parametrize("hole", ["", None, np.nan])
def test_cells_without_a_batch_take_no_part(name, hole):
    known = BATCH != "two"
    holes = np.where(known, BATCH.astype(object), hole)
    assert ALL[name](TRUTH, X, holes) == ALL[name](TRUTH[known], X[known], BATCH[known])


@pytest.mark.parametrize("name", ALL)
def test_a_space_that_is_not_finite_is_refused(name):
    x = X.copy()
    x[[3, 7], 1] = np.nan
    with pytest.raises(InputError, match=r"finite numbers.*2 of 240 rows"):
        ALL[name](TRUTH, x, BATCH)


@pytest.mark.parametrize("name", WITH_TRUTH)
def test_a_truth_of_other_cells_or_of_none_is_refused(name):
    with pytest.raises(InputError, match="truth has 239 cells and embedding has 240"):
        ALL[name](TRUTH[1:], X, BATCH)
    with pytest.raises(InputError, match="truth of all 240 cells is missing"):
        ALL[name]([""] * 240, X, BATCH)


@pytest.mark.parametrize("name", WITH_BATCH)
def test_batches_of_other_cells_are_refused(name):
    with pytest.raises(InputError, match="batch has 239 cells and embedding has 240"):
        ALL[name](TRUTH, X, BATCH[1:])


def test_a_result_is_scored_without_a_truth_where_none_is_compared():
    mdata = sd.datasets.toy_pairs(60)
    mdata.obsm["X_mine"], mdata.obs["batch"] = X[:60].astype(np.float32), BATCH[:60]
    found = metrics.score(mdata, "joint_embed", key="mine", metrics=["ilisi", "a_distance"], batch_key="batch")
    assert found.loc["mine", "ilisi"] == pytest.approx(metrics.ilisi(X[:60], BATCH[:60]), abs=1e-5)
    bare = metrics.score(mdata, "joint_embed", key="mine", metrics=["ilisi", "a_distance"])
    assert bare.loc["mine"].isna().all()


def test_the_examples_run_as_printed():
    assert doctest.testmod(_integration).failed == 0
