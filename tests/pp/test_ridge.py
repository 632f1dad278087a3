"""Ridge regression and canonical correlations against scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from scdance import pp


def two_sides(n=400):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 2))
    return z @ rng.normal(size=(2, 5)) + rng.normal(size=(n, 5)), z @ rng.normal(size=(2, 4)) + rng.normal(size=(n, 4))


def test_ridge_is_that_of_scikit_learn_with_a_free_intercept():
    x, y = two_sides()
    x = x + 3
    theirs = Ridge(alpha=0.2 * len(x)).fit(x, y)
    np.testing.assert_allclose(pp.with_one(x) @ pp.ridge(x, y, 0.2), theirs.predict(x), atol=1e-4)


def test_canonical_correlations_are_those_of_scikit_learn():
    x, y = two_sides()
    a, b = CCA(2, scale=False).fit(x, y).transform(x, y)
    theirs = [np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)]
    np.testing.assert_allclose(pp.canonical_correlations(x, y, 2, ridge=0).correlations, theirs, atol=1e-3)


def test_canonical_variables_have_their_correlation_as_standard_deviation():
    x, y = two_sides()
    found = pp.canonical_correlations(x, y, 4, ridge=0)
    for values, weights in ((x, found.x), (y, found.y)):
        variables = (values - values.mean(axis=0)) @ weights
        np.testing.assert_allclose(np.cov(variables.T, bias=True), np.diag(found.correlations**2), atol=1e-5)
