"""Expectations of negative binomial counts against sums over their distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nbinom, poisson

from scdance import pp

MEANS = np.logspace(-3, 3, 13)
THETAS = np.array([0.05, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0, 1000.0])


def by_sum(mean: float, theta: float) -> float:
    """Expected log(1 + x), term by term up to where 1e-12 of the probability is left."""
    law = nbinom(theta, theta / (theta + mean))
    x = np.arange(int(law.isf(1e-12)) + 2)
    return float(law.pmf(x) @ np.log1p(x))


@pytest.fixture(scope="module")
def exact() -> np.ndarray:
    return np.array([[by_sum(mean, theta) for theta in THETAS] for mean in MEANS])


def test_the_expected_logarithm_is_that_of_the_sum(exact):
    found = pp.expected_log1p(np.repeat(MEANS[:, None], len(THETAS), axis=1), THETAS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2e-4)
    np.testing.assert_allclose(found, exact, rtol=1e-3)  # small means, too


def test_the_other_entries_do_not_matter(exact):
    for i, mean in enumerate(MEANS):
        alone = pp.expected_log1p(np.array([[mean]]), np.array([1.0]))
        assert alone[0, 0] == pytest.approx(exact[i, 3], abs=2e-4)


def test_a_large_dispersion_is_poisson():
    x = np.arange(100)
    for mean in (0.01, 1.0, 20.0):
        expected = poisson(mean).pmf(x) @ np.log1p(x)
        assert pp.expected_log1p(np.array([[mean]]), np.array([1e4]))[0, 0] == pytest.approx(expected, rel=1e-3)


def test_it_rises_with_the_mean_and_stays_below_the_logarithm_of_the_mean():
    mean = np.logspace(-6, 5, 200)[:, None]
    for theta in THETAS:
        found = pp.expected_log1p(mean, np.array([theta])).ravel()
        assert (np.diff(found) > 0).all()
        assert (found <= np.log1p(mean.ravel()) * 1.001).all()


def test_a_mean_of_zero_expects_nothing_and_the_input_is_not_touched():
    mean = np.zeros((2, 3))
    found = pp.expected_log1p(mean, np.ones(3))
    assert (found >= 0).all() and found.max() < 1e-7
    assert (mean == 0).all()
    assert pp.expected_log1p(np.zeros((0, 3)), np.ones(3)).shape == (0, 3)


def test_a_dispersion_may_be_that_of_each_entry():
    mean, theta = np.array([[1.0, 5.0]]), np.array([[0.5, 2.0]])
    found = pp.expected_log1p(mean, theta)
    assert found[0].tolist() == pytest.approx([by_sum(1, 0.5), by_sum(5, 2)], abs=2e-4)


def test_the_chance_of_a_zero_is_that_of_the_distribution():
    found = pp.chance_of_zero(np.repeat(MEANS[:, None], len(THETAS), axis=1), THETAS)
    expected = nbinom.pmf(0, THETAS, THETAS / (THETAS + MEANS[:, None]))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_chance_of_a_count_keeps_its_digits_where_it_is_small():
    """In float32 one less 0.99999998 is nothing, or twice too much."""
    mean = np.array([[1e-7, 1e-6, 1e-5]], dtype=np.float32)
    np.testing.assert_allclose(1 - pp.chance_of_zero(mean, np.ones(3, dtype=np.float32)), mean, rtol=1e-4)
    assert (pp.chance_of_zero(np.zeros((1, 1)), np.ones(1)) < 1).all()


@pytest.mark.parametrize("theta", [0.2, 1.0, 5.0])
def test_moments_find_the_dispersion_from_blocks(theta):
    rng = np.random.default_rng(0)
    mean = rng.gamma(2, 3, (20_000, 1)).repeat(2, axis=1)
    counts = rng.negative_binomial(theta, theta / (theta + mean))
    sums, once = pp.Dispersion(2), pp.Dispersion(2)
    for rows in np.array_split(np.arange(20_000), 7):
        sums.add(counts[rows], mean[rows])
    once.add(counts, mean)
    assert sums.theta == pytest.approx([theta, theta], rel=0.15)
    np.testing.assert_allclose(sums.theta, once.theta, rtol=1e-6)
    assert sums.theta.dtype == np.float32


def test_counts_that_vary_no_more_than_poisson_have_the_largest_dispersion_and_absent_genes_a_finite_one():
    rng = np.random.default_rng(0)
    sums = pp.Dispersion(3)
    sums.add(np.column_stack([np.full(500, 5), rng.poisson(5, 500), np.zeros(500)]), np.array([[5.0, 5.0, 0.0]] * 500))
    assert sums.theta[0] == 1e4
    assert sums.theta[1] > 50
    assert np.isfinite(sums.theta[2]) and sums.theta[2] > 0


def test_a_scale_multiplies_the_counts_of_a_cell():
    mean, theta, scale = np.array([[0.02, 3.0, 80.0]] * 2), np.array([0.4, 2.0, 1e4]), np.array([[8.0], [0.05]])
    found = pp.expected_log1p(mean, theta, scale)
    x = np.arange(20_000)
    for cell in range(2):
        for gene in range(3):
            p = theta[gene] / (theta[gene] + mean[cell, gene])
            expected = nbinom.pmf(x, theta[gene], p) @ np.log1p(scale[cell, 0] * x)
            assert found[cell, gene] == pytest.approx(expected, rel=1e-3)


def test_an_expected_logarithm_does_not_hang_on_larger_ones():
    mean = np.array([[0.3, 2.0], [0.3, 5e4]])
    found = pp.expected_log1p(mean, np.array([0.5, 2.0]))
    assert found[1, 0] == pytest.approx(found[0, 0], abs=1e-6)
