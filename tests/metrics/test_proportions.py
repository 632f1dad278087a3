import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr
from sklearn.metrics import average_precision_score, mean_squared_error

from scdance import metrics
from scdance._checks import InputError

NAMES = ("rmse", "jsd", "pearson", "auprc")
TYPES = ["T", "B", "NK"]
SPOTS = [f"spot_{i}" for i in range(40)]
RNG = np.random.default_rng(0)


def drawn():
    """Proportions with about a third of zeros."""
    x = RNG.dirichlet(np.ones(3), 40) * (RNG.random((40, 3)) < 0.7) + [1e-3, 0, 0]
    return pd.DataFrame(x / x.sum(axis=1, keepdims=True), index=SPOTS, columns=TYPES)


def mixed(a, b):
    return 0.7 * a + 0.3 * b


TRUTH = drawn()
TRUTH["T"] = np.where(TRUTH["T"] < 0.02, 0.0, TRUTH["T"])  # present in some spots, absent in others
FOUND = mixed(TRUTH, drawn())


def score(name, truth, found):
    return metrics.get(name).function(truth, found)


def test_rmse_is_the_root_of_the_mean_over_spots_and_types():
    assert metrics.rmse(TRUTH, FOUND) == pytest.approx(mean_squared_error(TRUTH.to_numpy(), FOUND.to_numpy()) ** 0.5)


def test_jsd_is_the_mean_divergence_of_the_spots_in_bits():
    by_scipy = [jensenshannon(p, q, base=2) ** 2 for p, q in zip(TRUTH.to_numpy(), FOUND.to_numpy(), strict=True)]
    assert metrics.jsd(TRUTH, FOUND) == pytest.approx(np.mean(by_scipy))


def test_pearson_is_the_mean_correlation_of_the_types_over_spots():
    assert metrics.pearson(TRUTH, FOUND) == pytest.approx(np.mean([pearsonr(TRUTH[t], FOUND[t])[0] for t in TYPES]))


def test_auprc_is_the_mean_average_precision_of_presence():
    by_sklearn = [average_precision_score(TRUTH[t] > 0, FOUND[t]) for t in TYPES]
    assert metrics.auprc(TRUTH, FOUND) == pytest.approx(np.mean(by_sklearn))


@pytest.mark.parametrize(("name", "best"), [("rmse", 0), ("jsd", 0), ("pearson", 1), ("auprc", 1)])
def test_the_truth_scores_best(name, best):
    assert score(name, TRUTH, TRUTH) == pytest.approx(best)


@pytest.mark.parametrize("name", NAMES)
def test_spots_and_types_are_matched_by_name(name):
    shuffled = FOUND.iloc[::-1][["NK", "T", "B"]]
    assert score(name, TRUTH, shuffled) == pytest.approx(score(name, TRUTH, FOUND))
    assert score(name, TRUTH, shuffled.to_numpy()) != pytest.approx(score(name, TRUTH, FOUND))


@pytest.mark.parametrize("name", NAMES)
def test_arrays_score_as_tables_do(name):
    assert score(name, TRUTH.to_numpy(), FOUND.to_numpy()) == score(name, TRUTH, FOUND)
    assert score(name, TRUTH.to_numpy(), FOUND) == score(name, TRUTH, FOUND)


@pytest.mark.parametrize("name", NAMES)
def test_a_type_that_the_result_lacks_was_found_nowhere(name):
    assert score(name, TRUTH, FOUND[["T", "B"]]) == score(name, TRUTH, FOUND.assign(NK=0.0))


@pytest.mark.parametrize("name", NAMES)
def test_a_type_that_the_truth_lacks_is_nowhere(name):
    more = FOUND.assign(mast=0.1)
    assert score(name, TRUTH, more) == score(name, TRUTH.assign(mast=0.0), more)


def test_a_stroke_in_the_name_of_a_type_is_the_bar_that_results_write():
    truth = TRUTH.rename(columns={"T": "T/NK"})
    assert metrics.rmse(truth, FOUND.rename(columns={"T": "T|NK"})) == metrics.rmse(TRUTH, FOUND)


@pytest.mark.parametrize("name", NAMES)
def test_spots_with_nan_in_either_are_left_out(name):
    truth, found = TRUTH.copy(), FOUND.copy()
    truth.iloc[0, 1] = np.nan
    found.iloc[3] = np.nan
    keep = [i for i in range(40) if i not in (0, 3)]
    assert score(name, truth, found) == score(name, TRUTH.iloc[keep], FOUND.iloc[keep])


def test_a_spot_of_zeros_diverges_by_one():
    assert metrics.jsd([[0.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]) == pytest.approx(0.5)
    assert metrics.jsd([[0.5, 0.5]], [[0.0, 0.0]]) == 1


def test_jsd_does_not_depend_on_the_scale_of_a_row():
    assert metrics.jsd(TRUTH, FOUND * 7) == pytest.approx(metrics.jsd(TRUTH, FOUND))


def test_a_constant_estimate_correlates_by_zero():
    constant = TRUTH * 0 + 1 / 3
    assert metrics.pearson(TRUTH, constant) == 0
    half = FOUND.assign(T=0.3)
    expected = np.mean([0, *(pearsonr(TRUTH[t], FOUND[t])[0] for t in ("B", "NK"))])
    assert metrics.pearson(TRUTH, half) == pytest.approx(expected)


def test_a_type_that_occurs_nowhere_does_not_lower_the_correlation():
    assert metrics.pearson(TRUTH.assign(mast=0.0), FOUND.assign(mast=0.0)) == metrics.pearson(TRUTH, FOUND)
    assert np.isnan(metrics.pearson(TRUTH * 0 + 1 / 3, FOUND))


def test_presence_is_not_defined_where_every_spot_has_every_type():
    assert np.isnan(metrics.auprc(TRUTH + 0.01, FOUND))
    some = TRUTH.assign(B=TRUTH["B"] + 0.01)
    expected = np.mean([average_precision_score(TRUTH[t] > 0, FOUND[t]) for t in ("T", "NK")])
    assert metrics.auprc(some, FOUND) == pytest.approx(expected)


def test_the_scores_of_the_types_are_those_of_their_columns():
    found = metrics.per_type(TRUTH, FOUND)
    assert found.index.tolist() == TYPES
    for t in TYPES:
        x, y = TRUTH[t].to_numpy(), FOUND[t].to_numpy()
        assert found.loc[t, "rmse"] == pytest.approx(mean_squared_error(x, y) ** 0.5)
        assert found.loc[t, "pearson"] == pytest.approx(pearsonr(x, y)[0])
        assert found.loc[t, "jsd"] == pytest.approx(jensenshannon(x, y, base=2) ** 2)
        assert found.loc[t, "auprc"] == pytest.approx(average_precision_score(x > 0, y))


def test_only_the_error_of_a_type_that_occurs_nowhere_is_defined():
    row = metrics.per_type(TRUTH, FOUND.assign(mast=0.1)).loc["mast"]
    assert row["rmse"] == pytest.approx(0.1)
    assert row[["pearson", "jsd", "auprc"]].isna().all()


def test_a_type_that_is_found_nowhere_scores_worst():
    row = metrics.per_type(TRUTH, FOUND[["T", "B"]]).loc["NK"]
    assert (row["jsd"], row["pearson"]) == (1, 0)


def test_other_spots_are_refused_by_name():
    with pytest.raises(InputError, match=r"2 names are in one of them only \(other, spot_0\)"):
        metrics.rmse(TRUTH, FOUND.rename(index={"spot_0": "other"}))


def test_spots_without_unique_names_are_not_matched_in_another_order():
    one, other = TRUTH.set_axis(["a", "a"] * 20), FOUND.set_axis(["a", "a"] * 20)
    assert metrics.rmse(one, other) == metrics.rmse(TRUTH, FOUND)
    with pytest.raises(InputError, match="occur more than once"):
        metrics.rmse(TRUTH.set_axis(["a", "b"] * 20), FOUND.set_axis(["b", "a"] * 20))


def test_a_type_in_two_columns_is_refused():
    with pytest.raises(InputError, match="B occurs more than once in the columns of proportions"):
        metrics.rmse(TRUTH, FOUND.set_axis(["T", "B", "B"], axis=1))


def test_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"truth has shape \(40, 3\) and proportions \(40, 2\)"):
        metrics.rmse(TRUTH.to_numpy(), FOUND.to_numpy()[:, :2])


def test_nothing_to_compare_is_refused():
    with pytest.raises(InputError, match="Found 40 spots and 3 types, but no spot without NaN"):
        metrics.rmse(TRUTH, FOUND * np.nan)


def test_negative_proportions_have_no_divergence():
    with pytest.raises(InputError, match=r"at least 0 .* found -0.1"):
        metrics.jsd([[1.0, 0.0]], [[1.1, -0.1]])
