"""Canonical correlations: directions of two sets of values that vary together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Canonical(NamedTuple):
    """Maps of two sets of values to canonical variables.

    Attributes
    ----------
    x, y
        Weights, (n_x, n) and (n_y, n) float32, of values whose means were taken off; each variable has its canonical
        correlation as standard deviation, so that those that say less of the other side weigh less.
    correlations
        Canonical correlations, (n,) float64 in [0, 1], the largest first.
    """

    x: np.ndarray
    y: np.ndarray
    correlations: np.ndarray


def canonical_correlations(x: np.ndarray, y: np.ndarray, n: int, *, ridge: float = 0.1) -> Canonical:
    """Directions in which two measurements of the same cells correlate most [Hotelling1936]_.

    Parameters
    ----------
    x, y
        Values of the same cells, (n_obs, n_x) and (n_obs, n_y).
    n
        Number of directions, fewer where a side has fewer values.
    ridge
        Added to the variance in every direction of a side, as a part of their mean.

    Returns
    -------
    Weights of both sides, and the correlations, shrunk by the ridge.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> pp.canonical_correlations(x, x[:, :1], 1, ridge=0).correlations.round(3).tolist()
    [1.0]
    """
    whitened, roots = [], []
    for values in (x, y):
        centred = values.astype(np.float64)
        centred -= centred.mean(axis=0)
        variance, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
        variance = np.maximum(variance, 0)
        roots.append(vectors / np.sqrt(variance + max(ridge * variance.mean(), 1e-12)) @ vectors.T)
        whitened.append(centred @ roots[-1])
    left, correlations, right = np.linalg.svd(whitened[0].T @ whitened[1] / len(x))
    n = min(n, len(correlations))
    of_x, of_y = (
        (root @ vectors * correlations[:n]).astype(np.float32)
        for root, vectors in zip(roots, (left[:, :n], right[:n].T), strict=True)
    )
    return Canonical(of_x, of_y, correlations[:n])
