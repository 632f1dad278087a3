"""The left-truncated mixture of Gaussians of scGNN."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.integrate import quad
from scipy.stats import norm

ltmg = importlib.import_module("scdance.methods.impute._ltmg")


def planted(n=4000, share=0.4):
    """Two components, of which the lowest `share` of all values is not measured."""
    rng = np.random.default_rng(0)
    y = np.where(rng.random(n) < 0.6, rng.normal(0, 0.7, n), rng.normal(4, 0.6, n))
    limit = np.quantile(y, share)
    return y[y >= limit], int((y < limit).sum())


def test_em_never_lowers_the_likelihood():
    values, n_zero = planted()
    for k in (1, 2, 3):
        history = ltmg.fit(values, n_zero, k).history
        assert len(history) > 1
        assert np.diff(history).min() > -1e-6 * abs(history[0])


def test_planted_components_are_recovered_under_censoring():
    values, n_zero = planted()
    found = ltmg.choose(values, n_zero)
    assert len(found.means) == 2
    np.testing.assert_allclose(found.means, [0, 4], atol=0.1)
    np.testing.assert_allclose(found.sds, [0.7, 0.6], atol=0.1)
    np.testing.assert_allclose(found.weights, [0.6, 0.4], atol=0.03)


def test_ignoring_the_censored_would_move_the_mean():
    values, n_zero = planted()
    assert abs(ltmg.fit(values, 0, 2).means[0]) > 0.15
    assert abs(ltmg.fit(values, n_zero, 2).means[0]) < 0.1


def test_the_likelihood_is_that_of_the_censored_density():
    values = np.array([1.0, 1.5, 3.0])
    one = ltmg.fit(values, 2, 1)
    start_sd = values.std()
    below = quad(lambda y: norm.pdf(y, 1.5, start_sd), -np.inf, 1.0)[0]
    expected = norm.logpdf(values, 1.5, start_sd).sum() + 2 * np.log(below)
    assert one.history[0] == pytest.approx(expected, rel=1e-8)
    assert one.bic == pytest.approx(2 * np.log(5) - 2 * one.history[-1])


def test_active_entries_are_those_of_the_upper_component():
    rng = np.random.default_rng(0)
    high = rng.random((500, 3)) < 0.4
    y = np.where(high, rng.normal(4, 0.4, high.shape), rng.normal(0, 0.5, high.shape))
    y[:, 2] = rng.normal(1, 0.4, 500)  # one component only
    y[y < -0.3] = -np.inf
    found, of_zeros = ltmg.active(sp.csr_matrix(np.log1p(np.exp(y)).astype(np.float32)))
    assert not of_zeros.any()
    assert (found.toarray()[:, :2] == high[:, :2]).mean() > 0.99
    assert found[:, [2]].nnz == 0


def test_a_gene_without_counts_and_one_with_a_single_count_pass():
    x = sp.csr_matrix(np.array([[0.0, 0.7], [0.0, 0.0], [0.0, 0.0]], dtype=np.float32))
    found, of_zeros = ltmg.active(x)
    assert found.nnz == 0
    assert of_zeros.tolist() == [False, False]
