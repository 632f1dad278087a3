"""Scores of annotation against scikit-learn and sums by hand."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    f1_score,
    recall_score,
    roc_auc_score,
)

from scdance import metrics
from scdance._checks import InputError

NAMES = np.array(["B", "T", "NK", "mono"])
LABEL_METRICS = [metrics.accuracy, metrics.macro_f1, metrics.balanced_accuracy]
PROBA_METRICS = [metrics.ece, metrics.brier]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def calls(rng):
    """Types of 300 cells, one of them rare, and labels that are right for two thirds."""
    truth = NAMES[rng.choice(4, 300, p=[0.5, 0.3, 0.18, 0.02])]
    return truth, np.where(rng.random(300) < 0.65, truth, NAMES[rng.integers(0, 4, 300)])


@pytest.fixture
def believed(rng):
    """Probabilities of 30,000 cells, and types that are drawn by just these."""
    values = rng.dirichlet(np.ones(4), 30_000)
    codes = (values.cumsum(axis=1) < rng.random((30_000, 1))).sum(axis=1).clip(max=3)
    return NAMES[codes], pd.DataFrame(values, columns=NAMES)


def table(values, names=("B", "T")):
    return pd.DataFrame(values, columns=list(names))


# Labels


def test_scores_of_labels_are_those_of_scikit_learn(calls):
    truth, labels = calls
    assert metrics.accuracy(truth, labels) == pytest.approx(accuracy_score(truth, labels))
    assert metrics.balanced_accuracy(truth, labels) == pytest.approx(balanced_accuracy_score(truth, labels))
    assert metrics.macro_f1(truth, labels) == pytest.approx(f1_score(truth, labels, average="macro"))


def test_recall_of_types_is_that_of_scikit_learn_and_its_mean_is_the_balanced_accuracy(calls):
    truth, labels = calls
    found = metrics.recall_of_types(truth, labels)
    assert list(found.index) == sorted(NAMES)
    np.testing.assert_allclose(found, recall_score(truth, labels, labels=found.index, average=None))
    assert found.mean() == metrics.balanced_accuracy(truth, labels)


def test_a_type_that_is_never_given_is_recalled_by_none_and_one_that_the_truth_lacks_is_no_row():
    found = metrics.recall_of_types(["T", "B", None, "T"], ["T", "mast", "B", "unknown"])
    assert found.to_dict() == {"B": 0, "T": 0.5}


def test_types_that_the_truth_lacks_are_not_averaged_over(calls):
    truth, labels = calls
    labels[:40] = "mast"
    own = f1_score(truth, labels, average="macro", labels=np.unique(truth))
    assert metrics.macro_f1(truth, labels) == pytest.approx(own)
    with pytest.warns(UserWarning, match="not in y_true"):
        expected = balanced_accuracy_score(truth, labels)
    assert metrics.balanced_accuracy(truth, labels) == pytest.approx(expected)


def test_the_kind_of_column_does_not_matter(calls):
    truth, labels = calls
    for metric in LABEL_METRICS:
        expected = metric(truth, labels)
        assert metric(pd.Categorical(truth), pd.Series(labels)) == expected
        assert (
            metric(pd.Series(truth, dtype="category"), pd.Categorical(labels, categories=["else", *NAMES])) == expected
        )
        assert metric(list(truth), pd.array(labels, dtype="string")) == expected


@pytest.mark.parametrize("metric", LABEL_METRICS)
@pytest.mark.parametrize("wrong", ["unknown", None, np.nan, ""])
def test_unknown_and_missing_labels_are_wrong(metric, wrong):
    truth = np.array(["T", "B"] * 4, dtype=object)
    labels = truth.copy()
    labels[:2] = wrong
    assert metric(truth, labels) == pytest.approx(metric(truth, np.where(np.arange(8) < 2, "x", truth)))
    assert metric(truth, labels) < 1
    assert metric(truth, pd.Categorical(labels)) == metric(truth, labels)


@pytest.mark.parametrize("missing", [None, np.nan, ""])
def test_cells_whose_truth_is_missing_are_left_out(missing):
    truth = np.array(["T", "T", "B", missing, missing], dtype=object)
    assert metrics.accuracy(truth, ["T", "B", "B", "T", "B"]) == pytest.approx(2 / 3)
    assert metrics.set_coverage(truth, ["T", "B", "B|T", "", "T"]) == pytest.approx(2 / 3)
    proba = table([[0, 1], [1, 0], [1, 0], [0.5, 0.5], [0.9, 0.1]])
    assert metrics.brier(truth, proba) == pytest.approx(2 / 3)
    assert metrics.ece(truth, proba) == pytest.approx(1 / 3)


def test_unknown_is_right_where_the_truth_says_the_same():
    assert metrics.accuracy(["unknown", "T"], ["unknown", "T"]) == 1


# Probabilities


def test_probabilities_by_which_types_are_drawn_are_calibrated(believed):
    assert metrics.ece(*believed) < 0.015


@pytest.mark.parametrize(("power", "least"), [(3, 0.1), (0.3, 0.1)])
def test_too_sure_and_too_modest_probabilities_are_not(believed, power, least):
    truth, proba = believed
    other = proba**power
    assert metrics.ece(truth, other.div(other.sum(axis=1), axis=0)) > least


def test_ece_is_the_mean_over_bins_of_equally_many_cells(believed):
    truth, proba = (part[:1500] for part in believed)
    best, right = proba.to_numpy().max(axis=1), NAMES[proba.to_numpy().argmax(axis=1)] == truth
    parts = np.array_split(np.argsort(best), 15)
    expected = np.mean([abs(right[part].mean() - best[part].mean()) for part in parts])
    assert metrics.ece(truth, proba) == pytest.approx(expected, abs=0.003)


def test_ece_does_not_depend_on_the_order_of_cells_with_the_same_probability(rng):
    truth = np.repeat(["T", "B"], [70, 30])
    proba = table([[0.3, 0.7]] * 100)
    assert metrics.ece(truth, proba) == pytest.approx(0, abs=1e-12)
    assert metrics.ece(rng.permutation(truth), proba) == pytest.approx(0, abs=1e-12)


def test_probability_1_for_the_wrong_type_is_the_worst():
    assert metrics.ece(["T"] * 5, table([[1, 0]] * 5)) == 1
    assert metrics.brier(["T"] * 5, table([[1, 0]] * 5)) == 2


def test_brier_of_two_types_is_twice_that_of_scikit_learn(rng):
    p, truth = rng.random(200), rng.integers(0, 2, 200)
    found = metrics.brier(np.array(["B", "T"])[truth], table(np.column_stack([1 - p, p])))
    assert found == pytest.approx(2 * brier_score_loss(truth, p))


def test_brier_of_a_type_without_a_column_adds_1():
    assert metrics.brier(["mast", "T"], table([[0.5, 0.5], [0, 1]])) == pytest.approx((0.5 + 1) / 2)


@pytest.mark.parametrize("metric", PROBA_METRICS)
def test_the_order_of_cells_and_columns_does_not_matter(believed, rng, metric):
    truth, proba = (part[:500] for part in believed)
    order = rng.permutation(500)
    assert metric(truth[order], proba.iloc[order, [2, 0, 3, 1]]) == pytest.approx(metric(truth, proba))


def test_types_with_a_slash_are_found_in_columns_that_cannot_hold_one():
    truth, proba = ["T/NK", "B"], table([[0.9, 0.1], [0.2, 0.8]], ["T|NK", "B"])
    assert metrics.brier(truth, proba) == metrics.brier(["T", "B"], proba.set_axis(["T", "B"], axis=1))
    assert metrics.ece(truth, proba) == metrics.ece(["T", "B"], proba.set_axis(["T", "B"], axis=1))
    assert metrics.novelty_auroc(["T/NK", "mast"], proba, [0, 1]) == 1


# Novelty


def test_novelty_is_scored_as_scikit_learn_does(rng):
    truth = np.where(rng.random(400) < 0.2, "mast", NAMES[rng.integers(0, 4, 400)])
    novelty = rng.integers(0, 30, 400) / 30 + (truth == "mast") * 0.2
    proba = pd.DataFrame(np.full((400, 4), 0.25), columns=NAMES)
    expected = roc_auc_score(truth == "mast", novelty)
    assert metrics.novelty_auroc(truth, proba, novelty) == pytest.approx(expected)


def test_novelty_without_new_or_without_known_cells_is_no_number():
    proba = table([[0.5, 0.5]] * 2)
    assert np.isnan(metrics.novelty_auroc(["B", "T"], proba, [0, 1]))
    assert np.isnan(metrics.novelty_auroc(["mast", "mast"], proba, [0, 1]))


# Sets


def test_a_set_holds_whole_names_only():
    assert metrics.set_coverage(["T", "CD4 T", "T"], ["CD4 T", "T|CD4 T|B", "B|T"]) == pytest.approx(2 / 3)


def test_a_cell_without_a_set_is_missed():
    assert metrics.set_coverage(["T", "B"], pd.Categorical(["T", None])) == 0.5


def test_sizes_are_counted():
    assert metrics.set_size(["B|T", "", "NK", "a|b|c"]) == pytest.approx(6 / 4)
    assert metrics.set_size(pd.Categorical(["B|T", None])) == 1


# Wrong calls


@pytest.mark.parametrize("metric", [*LABEL_METRICS, metrics.set_coverage])
def test_other_lengths_and_no_truth_are_refused(metric):
    with pytest.raises(InputError, match="truth has 2 cells and the result 3"):
        metric(["T", "B"], ["T", "B", "B"])
    with pytest.raises(InputError, match="missing for all cells"):
        metric([None, ""], ["T", "B"])


@pytest.mark.parametrize("metric", PROBA_METRICS)
def test_probabilities_of_other_cells_or_without_names_are_refused(metric):
    with pytest.raises(InputError, match="truth has 3 cells and the result 2"):
        metric(["T", "B", "B"], table([[1, 0], [0, 1]]))
    with pytest.raises(InputError, match="must be a DataFrame"):
        metric(["T", "B"], np.eye(2))


def test_novelty_that_is_missing_or_of_other_cells_is_refused():
    proba = table([[1, 0], [0, 1]])
    with pytest.raises(InputError, match="novelty of 1 cells is missing"):
        metrics.novelty_auroc(["T", "mast"], proba, [0.1, np.nan])
    with pytest.raises(InputError, match="truth has 2 cells and the result 3"):
        metrics.novelty_auroc(["T", "mast"], proba, [0.1, 0.2, 0.3])


def test_every_score_says_which_direction_is_good():
    better = {name: metrics.get(name).higher_is_better for name in ("accuracy", "ece", "brier", "set_size")}
    assert better == {"accuracy": True, "ece": False, "brier": False, "set_size": False}
