"""Scores of imputation against numbers worked out by hand, and what must not move them."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import poisson

from scdance import metrics, pp
from scdance._checks import InputError

MASKED = ["rmse_nonzero", "mae_nonzero", "pearson_nonzero", "cosine_nonzero", "rmse_zero", "rmse_both"]
MASKED += ["rmse_masked", "pearson_masked", "cosine_masked"]
THINNED = ["poisson_loss", "poisson_gain"]
FIRST = np.array([[0.0, 5.0, 0.0, 2.0], [1.0, 0.0, 0.0, 3.0]])  # truth of a small example
SEEN = np.array([[0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 3.0]])  # its 5 and its 1 are hidden


@pytest.fixture
def truth() -> sp.csr_matrix:
    rng = np.random.default_rng(0)
    return pp.canonical(rng.poisson(rng.gamma(1, 2, (80, 1)) * rng.dirichlet(np.ones(30)) * 30))


@pytest.fixture
def masked(truth) -> sp.csr_matrix:
    return pp.mask(truth, "uniform", 0.2, np.random.default_rng(1))


@pytest.fixture
def thinned(truth) -> sp.csr_matrix:
    return pp.thin(truth, 0.9, np.random.default_rng(1))


def score(name: str, *given) -> float:
    return metrics.get(name).function(*given)


# Numbers


def test_scores_of_hidden_entries_are_those_worked_out_by_hand():
    logs = np.array([[0.5, 1.0, 0.25, 9.0], [0.0, 0.5, 0.5, 9.0]])
    error = np.array([np.log(6) - 1.0, np.log(2) - 0.0])
    assert metrics.rmse_nonzero(FIRST, SEEN, logs) == pytest.approx(np.sqrt((error**2).mean()))
    assert metrics.mae_nonzero(FIRST, SEEN, logs) == pytest.approx(np.abs(error).mean())
    assert metrics.cosine_nonzero(FIRST, SEEN, logs) == pytest.approx(np.log(6) / np.hypot(np.log(6), np.log(2)))
    assert metrics.pearson_nonzero(FIRST, SEEN, logs) == pytest.approx(1)
    assert metrics.rmse_known_nonzero(FIRST, SEEN, logs) == metrics.rmse_nonzero(FIRST, SEEN, logs)


def test_scores_of_masked_entries_include_zeros_in_their_share():
    """Half of the four counts are hidden, so two of the four zeros are drawn; depths are 2 and 3."""
    hidden, zeros = np.array([np.log1p(5 * 125), np.log1p(250 / 3)]), np.zeros(2)
    logs = np.full((2, 4), 0.5)
    truth = np.concatenate([hidden, zeros])
    assert metrics.rmse_masked(FIRST, SEEN, logs) == pytest.approx(np.sqrt(((truth - 0.5) ** 2).mean()))
    assert metrics.cosine_masked(FIRST, SEEN, logs) == pytest.approx(truth.sum() / 2 / np.linalg.norm(truth))
    logs[0, 1], logs[1, 0] = hidden
    logs[FIRST == 0] = 0
    assert metrics.rmse_masked(FIRST, SEEN, logs) == 0
    assert metrics.pearson_masked(FIRST, SEEN, 3 * logs + 1) == pytest.approx(1)


def test_masked_entries_may_have_fractions_but_not_be_divided():
    logs = np.zeros((2, 4))
    assert metrics.rmse_masked(FIRST / 3, SEEN / 3, logs) > 0
    with pytest.raises(InputError, match="without some of its counts"):
        metrics.rmse_masked(FIRST / 3, SEEN / 4, logs)


def test_what_is_made_up_is_judged_at_zeros_of_the_truth():
    """Two entries were hidden, so two of the four zeros are drawn."""
    logs = np.full((2, 4), 7.0)
    logs[FIRST == 0] = 0.5
    assert metrics.rmse_zero(FIRST, SEEN, logs) == pytest.approx(0.5)
    hidden = np.array([np.log(6) - 7, np.log(2) - 7, 0.5, 0.5])
    assert metrics.rmse_both(FIRST, SEEN, logs) == pytest.approx(np.sqrt((hidden**2).mean()))


def test_the_poisson_loss_is_the_negative_log_likelihood_at_the_depth_of_what_was_held_out(truth, thinned):
    rates = np.random.default_rng(0).gamma(2, 1, truth.shape)
    held_out = (truth - thinned).toarray()
    ratio = held_out.sum() / thinned.sum()
    expected = -poisson.logpmf(held_out, rates * ratio).mean()
    assert metrics.poisson_loss(truth, thinned, rates) == pytest.approx(expected, rel=1e-5)
    floor = np.asarray(thinned.sum(axis=1)) * np.asarray(thinned.sum(axis=0)) / thinned.sum()
    base = -poisson.logpmf(held_out, floor * ratio).mean()
    assert metrics.poisson_gain(truth, thinned, rates) == pytest.approx(expected / base - 1, rel=1e-5)
    assert metrics.poisson_gain(truth, thinned, floor) == pytest.approx(0, abs=1e-6)


def test_blocks_of_cells_are_summed_up(truth, thinned, monkeypatch):
    rates = np.random.default_rng(0).gamma(2, 1, truth.shape)
    once = metrics.poisson_gain(truth, thinned, rates)
    from scdance.metrics import _imputation

    monkeypatch.setattr(_imputation, "ROWS", 7)
    assert metrics.poisson_gain(truth, thinned, rates) == pytest.approx(once)


def test_the_truth_has_no_error_and_correlates_with_itself(truth, masked):
    logs = np.log1p(truth.toarray())
    for name in ("rmse_nonzero", "mae_nonzero", "rmse_zero", "rmse_both", "rmse_known_nonzero"):
        assert score(name, truth, masked, logs) == pytest.approx(0, abs=1e-6)
    for name in ("pearson_nonzero", "cosine_nonzero"):
        assert score(name, truth, masked, logs) == pytest.approx(1)


# What counts


@pytest.mark.parametrize("name", MASKED)
def test_entries_that_were_not_hidden_do_not_matter(truth, masked, name):
    rng = np.random.default_rng(2)
    logs = rng.random(truth.shape)
    seen = masked.toarray() > 0
    other = np.where(seen, logs + rng.normal(size=truth.shape), logs)
    assert (other != logs).any()
    assert score(name, truth, masked, other) == score(name, truth, masked, logs)


@pytest.mark.parametrize("name", ["rmse_nonzero", "mae_nonzero", "pearson_nonzero", "cosine_nonzero"])
def test_zeros_do_not_matter_to_scores_of_non_zeros(truth, masked, name):
    logs = np.random.default_rng(2).random(truth.shape)
    other = np.where(truth.toarray() == 0, 9, logs)
    assert score(name, truth, masked, other) == score(name, truth, masked, logs)


@pytest.mark.parametrize("name", ["rmse_zero", "rmse_both"])
def test_zeros_matter_where_they_are_judged_and_hidden_entries_do_not_to_those_alone(truth, masked, name):
    logs = np.random.default_rng(2).random(truth.shape)
    other = np.where(truth.toarray() == 0, 9, logs)
    assert score(name, truth, masked, other) > score(name, truth, masked, logs)
    hidden = (truth - masked).toarray() > 0
    moved = score(name, truth, masked, np.where(hidden, 9, logs)) != score(name, truth, masked, logs)
    assert moved == (name == "rmse_both")


def test_the_zeros_are_the_same_for_every_prediction_and_as_many_as_were_hidden(truth, masked):
    """Each judged zero that is set to 1 adds 1/n to the mean square."""
    n_hidden = truth.nnz - masked.nnz
    judged = []
    for j in range(30):
        logs = np.zeros(truth.shape)
        logs[:, j] = np.sqrt(n_hidden)
        judged.append(metrics.rmse_zero(truth, masked, logs) ** 2)
    assert np.allclose(judged, np.rint(judged), atol=1e-6)
    assert round(sum(judged)) == n_hidden
    assert max(judged) < n_hidden / 3  # from all genes


def test_few_zeros_are_all_judged_and_without_any_there_is_no_score():
    truth = np.full((300, 40), 3.0)
    truth[5, 7] = truth[200, 30] = 0
    seen = truth.copy()
    seen[:20, :20] = 0
    logs = np.zeros(truth.shape)
    logs[5, 7], logs[200, 30] = 1, 2
    assert metrics.rmse_zero(truth, seen, logs) == pytest.approx(np.sqrt(2.5))
    truth[truth == 0] = 1
    seen[0, 0] = 0
    assert np.isnan(metrics.rmse_zero(truth, seen, logs))
    assert np.isfinite(metrics.rmse_both(truth, seen, logs))


# Which score goes with which protocol and unit


@pytest.mark.parametrize("name", [*MASKED, "rmse_known_nonzero"])
def test_scores_of_whole_entries_say_nothing_of_molecules(truth, thinned, name):
    assert np.isnan(score(name, truth, thinned, np.ones(truth.shape)))


@pytest.mark.parametrize("name", THINNED)
def test_scores_of_molecules_say_nothing_of_whole_entries(truth, masked, name):
    assert np.isnan(score(name, truth, masked, np.ones(truth.shape)))


@pytest.mark.parametrize("name", [*MASKED, *THINNED, "rmse_known_nonzero"])
def test_without_a_prediction_in_its_unit_there_is_no_score(truth, masked, thinned, name):
    assert np.isnan(score(name, truth, thinned if name in THINNED else masked, None))


def test_a_prediction_that_does_not_vary_has_no_correlation(truth, masked):
    assert np.isnan(metrics.pearson_nonzero(truth, masked, np.ones(truth.shape)))
    assert np.isnan(metrics.cosine_nonzero(truth, masked, np.zeros(truth.shape)))


# Forms and wrong calls


@pytest.mark.parametrize("name", [*MASKED, *THINNED])
def test_sparse_and_dense_input_is_the_same(truth, masked, thinned, name):
    seen = thinned if name in THINNED else masked
    values = np.random.default_rng(0).random(truth.shape)
    once = score(name, truth, seen, values)
    again = score(name, truth.toarray(), sp.csc_matrix(seen), sp.csr_array(values))
    assert again == pytest.approx(once, rel=1e-12)


@pytest.mark.parametrize("name", [*MASKED, *THINNED])
def test_what_does_not_fit_together_is_refused(truth, masked, thinned, name):
    seen = thinned if name in THINNED else masked
    values = np.ones(truth.shape)
    with pytest.raises(InputError, match=r"truth has shape \(80, 30\), what was observed \(79, 30\)"):
        score(name, truth, seen[:79], values)
    with pytest.raises(InputError, match=r"prediction has shape \(79, 30\), the truth \(80, 30\)"):
        score(name, truth, seen, values[:79])
    with pytest.raises(InputError, match="Nothing was held out"):
        score(name, truth, truth, values)
    with pytest.raises(InputError, match="not the truth without some of its counts"):
        score(name, seen, truth, values)


def test_a_truth_that_was_normalised_since_is_refused(truth, masked):
    logged = truth.multiply(3.7).tocsr()  # larger than what was observed everywhere
    with pytest.raises(InputError, match=r"perhaps normalised, since `scdance.tl.hold_out`"):
        metrics.rmse_nonzero(logged, masked, np.ones(truth.shape))


# Alarms of too much smoothing


@pytest.fixture
def noise() -> np.ndarray:
    """Log-normalised values of 400 cells × 40 genes that have nothing to do with each other."""
    return np.log1p(np.random.default_rng(0).gamma(1, 5, (400, 40)))


def test_genes_that_all_follow_one_axis_inflate_correlations(noise):
    axis = np.random.default_rng(1).normal(size=(400, 1))
    rising = [metrics.correlation_inflation(noise, noise + strength * axis) for strength in (0, 0.5, 1, 5)]
    assert rising[0] == 0
    assert (np.diff(rising) > 0.1).all()
    assert rising[-1] > 0.85
    assert metrics.correlation_inflation(noise + 5 * axis, noise) == pytest.approx(-rising[-1])


def test_correlations_are_those_of_all_pairs_whatever_their_sign(noise):
    after = noise + np.random.default_rng(1).normal(size=(400, 1)) * np.array([1, -1] * 20)
    pairs = [(i, j) for i in range(40) for j in range(i)]
    mean = [np.mean([abs(np.corrcoef(x[:, i], x[:, j])[0, 1]) for i, j in pairs]) for x in (after, noise)]
    assert metrics.correlation_inflation(noise, after) == pytest.approx(mean[0] - mean[1])
    assert metrics.correlation_inflation(sp.csr_matrix(noise), sp.csr_array(after)) == pytest.approx(mean[0] - mean[1])


def test_genes_are_drawn_by_the_seed(noise):
    after = noise + np.random.default_rng(1).normal(size=(400, 1)) * np.linspace(0, 2, 40)
    one, again, other = (metrics.correlation_inflation(noise, after, n_genes=5, random_state=s) for s in (1, 1, 2))
    assert one == again != other


def test_genes_that_do_not_vary_take_no_part(noise):
    after = noise.astype(np.float32)
    flat = after.copy()
    flat[:, 3:] = np.float32(1) / 3 * (1 + 1e-7 * np.sign(noise[:, 3:] - 1))  # but for rounding
    assert metrics.correlation_inflation(noise, flat) == pytest.approx(0, abs=1e-6)
    flat[:, 1:] = 1
    assert np.isnan(metrics.correlation_inflation(noise, flat))


def test_smoothing_over_random_cells_is_an_alarm_and_thinning_is_none(noise):
    """A mean over neighbours makes genes correlate that do not; dropping genes' noise alone does not."""
    rng = np.random.default_rng(0)
    near = np.argsort(np.square(noise[:, None, :3] - noise[None, :, :3]).sum(-1), axis=1)[:, :30]
    assert metrics.correlation_inflation(noise, noise[near].mean(axis=1)) > 0.05
    assert abs(metrics.correlation_inflation(noise, noise * rng.binomial(1, 0.9, noise.shape))) < 0.01


@pytest.fixture
def groups() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of 300 cells in three groups, their log-normalised counts and those expected, of 60 genes."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    means = rng.gamma(2, 2, (3, 60))
    means[np.arange(60) % 3, np.arange(60)] *= 6
    return np.array(["a", "b", "c"])[labels], np.log1p(rng.poisson(means[labels])), means[labels]


def test_means_of_groups_leave_markers_as_they_are_and_their_powers_inflate_them(groups):
    labels, before, means = groups
    assert metrics.marker_inflation(labels, before, before) == 1
    assert metrics.marker_inflation(labels, before, np.log1p(means)) == pytest.approx(1, abs=0.05)
    assert metrics.marker_inflation(labels, before, np.log1p(means**1.5)) > 1.3
    overall = np.tile(means.mean(axis=0), (300, 1))
    assert metrics.marker_inflation(labels, before, np.log1p(overall)) == pytest.approx(0, abs=1e-9)
    half = np.log1p((means + overall) / 2)
    assert 0.2 < metrics.marker_inflation(labels, before, half) < 0.8


def test_fold_changes_are_those_of_means_with_one_added(groups):
    labels, before, means = groups
    after = np.log1p(means)
    ratios = []
    for group in "abc":
        inside = labels == group
        fold = [np.log((np.expm1(x[inside]).mean(0) + 1) / (np.expm1(x[~inside]).mean(0) + 1)) for x in (before, after)]
        for j in sorted(range(60), key=lambda j: -fold[0][j])[:4]:
            ratios.append(fold[1][j] / fold[0][j])
    assert metrics.marker_inflation(labels, before, after, n_markers=4) == pytest.approx(np.median(ratios))


def test_cells_without_a_label_take_no_part(groups):
    labels, before, means = groups
    once = metrics.marker_inflation(labels[:200], before[:200], np.log1p(means[:200]))
    labels = labels.astype(object)
    labels[200:250], labels[250:] = "", None
    assert metrics.marker_inflation(labels, sp.csr_matrix(before), np.log1p(means)) == pytest.approx(once)


def test_without_markers_or_a_prediction_there_is_no_score(groups):
    labels, before, _ = groups
    flat = np.ones_like(before)
    assert np.isnan(metrics.marker_inflation(labels, flat, before))
    assert np.isnan(metrics.marker_inflation(labels, before, None))
    assert np.isnan(metrics.correlation_inflation(before, None))


def test_wrong_calls_of_the_alarms_say_what_is_wrong(groups):
    labels, before, _ = groups
    with pytest.raises(InputError, match=r"shape \(300, 60\) before and \(299, 60\) after"):
        metrics.correlation_inflation(before, before[1:])
    with pytest.raises(InputError, match="labels has 299 cells and before has 300"):
        metrics.marker_inflation(labels[1:], before, before)
    with pytest.raises(InputError, match="There is 1 group"):
        metrics.marker_inflation(["a"] * 300, before, before)
    with pytest.raises(InputError, match="n_genes must be a whole number of at least 2"):
        metrics.correlation_inflation(before, before, n_genes=1)
    with pytest.raises(InputError, match="n_markers must be a whole number of at least 1"):
        metrics.marker_inflation(labels, before, before, n_markers=0)
    broken = before.copy()
    broken[0, 0] = np.nan
    with pytest.raises(InputError, match="1 values are NaN or infinite"):
        metrics.correlation_inflation(before, broken)
