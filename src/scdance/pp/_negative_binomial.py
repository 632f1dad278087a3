"""Facts about negative binomial counts that estimates of expression need: dispersions, logarithms, what was seen."""

from __future__ import annotations

import numpy as np

STEP = 0.5  # of the integration; half of it changes the fifth digit
LEAST_MEAN = 1e-8
DISPERSION = (1e-2, 1e4)  # bounds of what moments say


def expected_log1p(mean: np.ndarray, dispersion: np.ndarray, scale: np.ndarray | float = 1.0) -> np.ndarray:
    """Expected log(1 + scale · count) of negative binomial counts.

    The logarithm of the expected count would be more: the logarithm is concave. Frullani's integral makes it one over
    the generating function, log(1 + cx) = ∫ exp(−t) (1 − exp(−tcx)) / t dt, and with t = exp(v) the trapezium rule
    converges fast.

    Parameters
    ----------
    mean
        μ ≥ 0, (n_obs, n_vars).
    dispersion
        θ > 0: the variance is μ + μ²/θ; broadcasts with `mean`.
    scale
        What a count is multiplied by, c > 0, such as 10,000 over the depth of the cell; broadcasts with `mean`.

    Returns
    -------
    Expected values, (n_obs, n_vars) float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> round(float(pp.expected_log1p(np.array([[10.0]]), np.array([2.0]))[0, 0]), 2)
    2.14
    """
    mean = np.maximum(mean, LEAST_MEAN).astype(np.float32)
    theta = np.asarray(dispersion, dtype=np.float32)
    scale = np.asarray(scale, dtype=np.float32)
    out, ratio, part = np.zeros_like(mean), mean / theta, np.empty_like(mean)
    largest = max(float((mean * scale).max(initial=1.0)), float(scale.max(initial=1.0)))
    points = np.arange(STEP * np.floor((-np.log(largest) - 9) / STEP), 2.6, STEP)
    for v in points:
        t = np.exp(v)
        np.multiply(ratio, -np.expm1(-np.float32(t) * scale), out=part)
        np.log1p(part, out=part)
        part *= -theta
        np.expm1(part, out=part)
        part *= np.float32(-np.exp(-t) * STEP)
        out += part
    # below the first point the terms are t · c · μ: their sum, without which an entry would depend on the largest one
    out += mean * scale * np.float32(STEP * np.exp(points[0]) / np.expm1(STEP))
    return out


def chance_of_zero(mean: np.ndarray, dispersion: np.ndarray) -> np.ndarray:
    """Probability that a negative binomial count is 0.

    Parameters
    ----------
    mean
        μ ≥ 0, (n_obs, n_vars); below 1e-8 it counts as 1e-8, so that no count is certain to be 0.
    dispersion
        θ > 0: the variance is μ + μ²/θ; broadcasts with `mean`.

    Returns
    -------
    Probabilities below 1, (n_obs, n_vars) float64, as those of small means are too close to 1 for less.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> float(pp.chance_of_zero(np.array([[2.0]]), np.array([2.0])).round(6)[0, 0])
    0.25
    """
    mean, theta = np.maximum(mean, LEAST_MEAN, dtype=np.float64), np.asarray(dispersion, dtype=np.float64)
    return np.exp(-theta * np.log1p(mean / theta))  # type: ignore[no-any-return]


class Dispersion:
    """Dispersion of each gene by the method of moments, from blocks of counts and their expected values.

    Parameters
    ----------
    n_vars
        Number of genes.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = np.random.default_rng(0).negative_binomial(2, 2 / (2 + 5), (5000, 1))
    >>> sums = pp.Dispersion(1)
    >>> sums.add(counts, np.full((5000, 1), 5.0))
    >>> bool(1.7 < sums.theta[0] < 2.3)
    True
    """

    def __init__(self, n_vars: int):
        self._square, self._excess = np.zeros(n_vars), np.zeros(n_vars)

    def add(self, counts: np.ndarray, mean: np.ndarray) -> None:
        """Take in the counts of some cells, (n, n_vars), and their expected values."""
        self._square += np.square(mean).sum(axis=0, dtype=np.float64)
        self._excess += (np.square(counts - mean) - mean).sum(axis=0, dtype=np.float64)

    @property
    def theta(self) -> np.ndarray:
        """θ, (n_vars,) float32, between 0.01 and 10,000; the latter where counts vary no more than Poisson."""
        least = self._square / DISPERSION[1] + 1e-30
        return np.clip(self._square / np.maximum(self._excess, least), *DISPERSION).astype(np.float32)
