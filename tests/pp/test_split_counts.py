"""Splitting a matrix of counts in two."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import binom

from scdance._checks import InputError
from scdance.pp import canonical, thin

RATES = np.random.default_rng(5).gamma(2, 2, 400)


def counts(n: int = 300, seed: int = 0) -> sp.csr_matrix:
    """Poisson counts of cells that are all alike."""
    return canonical(np.random.default_rng(seed).poisson(RATES, (n, len(RATES))))


def test_what_is_left_is_the_rest_and_never_negative():
    x = counts()
    part = thin(x, 0.3, np.random.default_rng(1))
    rest = canonical(x - part)
    assert (part.dtype, part.has_canonical_format, rest.data.min()) == (np.float32, True, 1)
    assert abs(part + rest - x).sum() == 0
    assert abs(part.sum() / x.sum() - 0.3) < 0.01


def test_a_count_is_thinned_binomially():
    x = canonical(np.full((20_000, 1), 7))
    drawn = np.bincount(thin(x, 0.3, np.random.default_rng(0)).toarray().ravel().astype(int), minlength=8)
    np.testing.assert_allclose(drawn / 20_000, binom.pmf(np.arange(8), 7, 0.3), atol=0.01)


def test_halves_of_poisson_counts_are_not_correlated_given_the_rates():
    x = counts(n=2000)
    part = thin(x, 0.5, np.random.default_rng(1))
    one, other = (each.toarray() - each.toarray().mean(axis=0) for each in (part, canonical(x - part)))
    correlation = (one * other).mean(axis=0) / (one.std(axis=0) * other.std(axis=0))
    assert abs(correlation.mean()) < 0.004  # sd of the mean of 400 correlations of 2,000 cells: 0.001
    assert correlation.std() == pytest.approx(1 / np.sqrt(2000), rel=0.15)


def test_halves_of_overdispersed_counts_are_correlated():
    rng = np.random.default_rng(0)
    x = canonical(rng.poisson(5 * rng.standard_gamma(1, (2000, 20))))
    part = thin(x, 0.5, rng)
    one, other = part.toarray(), (x - part).toarray()
    assert min(np.corrcoef(one[:, i], other[:, i])[0, 1] for i in range(20)) > 0.4


def test_form_and_order_of_the_entries_change_nothing_and_the_input_stays():
    x = counts(n=30)
    kept = x.copy()
    first = thin(x, 0.5, np.random.default_rng(3))
    for form in (sp.csc_matrix(x), x.toarray(), x.astype(np.float64)):
        assert abs(first - thin(form, 0.5, np.random.default_rng(3))).sum() == 0
    assert abs(x - kept).sum() == 0
    assert abs(first - thin(x, 0.5, np.random.default_rng(4))).sum() > 0


@pytest.mark.parametrize("share", [0, 1, -0.1, 2, float("nan")])
def test_a_share_that_is_none_is_refused(share: float):
    with pytest.raises(InputError, match=r"above 0 and below 1"):
        thin(counts(n=3), share, np.random.default_rng(0))


@pytest.mark.parametrize("value", [0.5, -1, np.nan, np.inf])
def test_values_that_are_no_counts_are_refused(value: float):
    with pytest.raises(InputError, match="1 values are no counts"):
        thin(canonical(np.array([[value, 2.0]])), 0.5, np.random.default_rng(0))
