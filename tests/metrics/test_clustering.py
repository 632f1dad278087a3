from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest

from scdance import metrics
from scdance._checks import InputError
from scdance.metrics import _clustering

PAIRED = ("ari", "nmi", "ami", "accuracy_matched")
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(3, size=60)
LABELS = np.where(RNG.random(60) < 0.7, TRUTH, RNG.integers(3, size=60))


def ari_by_pairs(truth, labels):
    same = [(truth[i] == truth[j], labels[i] == labels[j]) for i, j in combinations(range(len(truth)), 2)]
    both = sum(a and b for a, b in same)
    one, other = sum(a for a, _ in same), sum(b for _, b in same)
    chance = one * other / len(same)
    return (both - chance) / ((one + other) / 2 - chance)


def nmi_by_hand(truth, labels):
    joint = np.array([[np.mean((truth == t) & (labels == c)) for c in set(labels)] for t in set(truth)])
    p, q = joint.sum(axis=1), joint.sum(axis=0)
    information = np.sum(joint[joint > 0] * np.log((joint / np.outer(p, q))[joint > 0]))
    return information / ((-np.sum(p * np.log(p)) - np.sum(q * np.log(q))) / 2)


def test_ari_counts_pairs():
    assert metrics.ari(TRUTH, LABELS) == pytest.approx(ari_by_pairs(TRUTH, LABELS))


def test_nmi_is_information_over_the_mean_entropy():
    assert metrics.nmi(TRUTH, LABELS) == pytest.approx(nmi_by_hand(TRUTH, LABELS))


def test_matched_accuracy_is_the_best_over_all_matches():
    best = max(np.mean(np.array(match)[LABELS] == TRUTH) for match in permutations(range(3)))
    assert metrics.accuracy_matched(TRUTH, LABELS) == pytest.approx(best)


def test_matched_accuracy_is_not_defined_for_another_number_of_clusters():
    assert np.isnan(metrics.accuracy_matched([1, 1, 2], [0, 1, 2]))


@pytest.mark.parametrize("name", PAIRED)
def test_the_same_partition_under_other_names_scores_one(name):
    assert metrics.get(name).function(TRUTH, [f"cluster {2 - c}" for c in TRUTH]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["ari", "ami"])
def test_shuffled_labels_score_zero_on_average(name):
    scores = [metrics.get(name).function(TRUTH, RNG.permutation(LABELS)) for _ in range(100)]
    assert np.mean(scores) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("missing", [np.nan, None, ""])
def test_cells_without_truth_are_left_out(name, missing):
    function = metrics.get(name).function
    truth = np.array([*[f"t{t}" for t in TRUTH], missing, missing], dtype=object)
    assert function(truth, [*LABELS, 0, 7]) == function(TRUTH, LABELS)


@pytest.mark.parametrize("name", PAIRED)
def test_a_cell_without_a_cluster_is_in_one_of_its_own_kind(name):
    function = metrics.get(name).function
    holed = LABELS.astype(float)
    holed[:5] = np.nan
    assert function(TRUTH, holed) == pytest.approx(function(TRUTH, np.where(np.isnan(holed), 99, holed)), nan_ok=True)


def test_leaving_the_wrong_cells_without_a_cluster_does_not_pay():
    wrong = LABELS != TRUTH
    without = pd.Categorical(np.where(wrong, None, LABELS.astype(str).astype(object)))
    assert metrics.ari(TRUTH[~wrong], LABELS[~wrong]) == 1
    assert metrics.ari(TRUTH, without) < 0.9


def test_categories_strings_and_numbers_are_the_same_to_a_score():
    as_text = LABELS.astype(str)
    frame = pd.DataFrame({"truth": TRUTH, "labels": pd.Categorical(as_text, categories=["9", "2", "1", "0"])})
    assert metrics.ari(frame["truth"], frame["labels"]) == metrics.ari(list(TRUTH), as_text)


def test_no_known_truth_is_refused():
    with pytest.raises(InputError, match="truth of all 3 cells is missing"):
        metrics.ari([np.nan, None, ""], [0, 1, 2])


@pytest.mark.parametrize("name", PAIRED)
def test_different_lengths_are_refused(name):
    with pytest.raises(InputError, match="truth has 3 cells and labels has 2"):
        metrics.get(name).function([0, 1, 1], [0, 1])


def test_series_of_other_cells_are_refused():
    truth = pd.Series(["a", "b", "b"], index=["x", "y", "z"])
    with pytest.raises(InputError, match="another order"):
        metrics.ari(truth, truth.iloc[::-1])
    assert metrics.ari(truth, truth.iloc[::-1].reindex(truth.index)) == 1
    assert metrics.ari(truth, pd.Series([0, 1, 1])) == 1


def test_labels_that_are_no_vector_are_refused():
    with pytest.raises(InputError, match=r"one value per cell.*\(2, 2\)"):
        metrics.ari([[0, 1], [1, 0]], [0, 1])


def test_silhouette_compares_own_with_next_cluster():
    x = RNG.normal(size=(40, 3)) + np.repeat([0, 1, 3, 5], 10)[:, None]
    labels = np.repeat(np.arange(4), 10)
    widths = []
    for i in range(40):
        far = np.linalg.norm(x - x[i], axis=1)
        own = far[labels == labels[i]].sum() / 9
        following = min(far[labels == c].mean() for c in range(4) if c != labels[i])
        widths.append((following - own) / max(own, following))
    assert metrics.silhouette(x, labels) == pytest.approx(np.mean(widths))


def test_silhouette_of_many_cells_is_that_of_a_fixed_sample(monkeypatch):
    x, labels = RNG.normal(size=(600, 2)) + TRUTH[:1], RNG.integers(3, size=600)
    whole = metrics.silhouette(x, labels)
    monkeypatch.setattr(_clustering, "MOST_CELLS", 300)
    sampled = metrics.silhouette(x, labels)
    assert sampled == metrics.silhouette(x, labels) != metrics.silhouette(x, labels, random_state=1)
    assert sampled == pytest.approx(whole, abs=0.05)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_silhouette_of_one_cluster_or_of_single_cells_is_not_defined(labels):
    assert np.isnan(metrics.silhouette(np.eye(3), labels))


def test_silhouette_refuses_a_space_with_holes():
    with pytest.raises(InputError, match="finite"):
        metrics.silhouette([[0.0, np.nan], [1.0, 1.0]], [0, 1])
