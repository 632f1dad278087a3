"""The left-truncated mixture of Gaussians: which measured values of a gene speak of active transcription.

Logarithms y of the expression of a gene are drawn from K normal distributions, but those below a limit Z are seen as
zeros, of which only the number is known. With weights a, means u and standard deviations σ of the components:

    y ≥ Z:  r_k ∝ a_k φ((y − u_k) / σ_k) / σ_k
    zero:   r_k ∝ a_k Φ(β_k),  β_k = (Z − u_k) / σ_k,  λ_k = φ(β_k) / Φ(β_k)
            E[y] = u_k − σ_k λ_k,  E[y²] = u_k² + σ_k² − σ_k λ_k (Z + u_k)

All zeros of a gene share their responsibilities, so that a step of the EM algorithm costs as much as its non-zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.special import log_ndtr, logsumexp

LEAST_SD = 1e-2
MOST = 5  # components
STEPS, GAIN = 200, 1e-6  # of EM; relative gain in likelihood below which it ends
_LOG_ROOT = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class Mixture:
    """A mixture fitted to one gene, its components sorted by their means.

    Attributes
    ----------
    weights, means, sds
        a, u and σ, (k,) each.
    limit
        Z.
    history
        Log-likelihood after each step of EM.
    bic
        Bayesian information criterion with 3k − 1 parameters, the less the better.
    """

    weights: np.ndarray
    means: np.ndarray
    sds: np.ndarray
    limit: float
    history: np.ndarray
    bic: float

    def component(self, values: np.ndarray) -> np.ndarray:
        """Most probable component of measured values, (n,) int; 0 has the lowest mean."""
        return _log_seen(values, self.weights, self.means, self.sds).argmax(axis=1)  # type: ignore[no-any-return]

    def component_of_zero(self) -> int:
        """Most probable component of what was not measured."""
        return int(_log_zero(self.limit, self.weights, self.means, self.sds).argmax())


def fit(values: np.ndarray, n_zero: int, k: int) -> Mixture:
    """Fit k components to one gene.

    Parameters
    ----------
    values
        Logarithms where the gene was measured, (n,), n ≥ 1; the least is the limit Z.
    n_zero
        Number of cells in which it was not.
    k
        Number of components.

    Returns
    -------
    The mixture.
    """
    values = np.asarray(values, dtype=np.float64)
    n, limit = len(values) + n_zero, float(values.min())
    weights = np.full(k, 1 / k)
    means = np.quantile(values, (np.arange(k) + 0.5) / k)
    sds = np.full(k, max(float(values.std()), LEAST_SD))
    history: list[float] = []
    for _ in range(STEPS):
        seen, zero = _log_seen(values, weights, means, sds), _log_zero(limit, weights, means, sds)
        total, total_zero = logsumexp(seen, axis=1), float(logsumexp(zero))
        history.append(float(total.sum()) + n_zero * total_zero)
        if len(history) > 1 and history[-1] - history[-2] <= GAIN * abs(history[-2]):
            break
        r, r_zero = np.exp(seen - total[:, None]), n_zero * np.exp(zero - total_zero)
        beta = (limit - means) / sds
        inverse_mills = np.exp(-0.5 * beta**2 - _LOG_ROOT - log_ndtr(beta))
        first = means - sds * inverse_mills
        second = means**2 + sds**2 - sds * inverse_mills * (limit + means)
        mass = np.maximum(r.sum(axis=0) + r_zero, 1e-12)
        weights = mass / n
        means = (values @ r + r_zero * first) / mass
        # Σ r (y − u)² without the difference of large sums
        spread = (r * (values[:, None] - means) ** 2).sum(axis=0)
        spread += r_zero * np.maximum(second - 2 * means * first + means**2, 0)
        sds = np.maximum(np.sqrt(spread / mass), LEAST_SD)
    order = np.argsort(means)
    bic = (3 * k - 1) * np.log(n) - 2 * history[-1]
    return Mixture(weights[order], means[order], sds[order], limit, np.array(history), float(bic))


def choose(values: np.ndarray, n_zero: int, most: int = MOST) -> Mixture:
    """Fit ever more components to one gene, up to `most`, until the BIC no longer falls."""
    best = fit(values, n_zero, 1)
    for k in range(2, min(most, len(values)) + 1):
        found = fit(values, n_zero, k)
        if found.bic >= best.bic:
            break
        best = found
    return best


def active(x: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray]:
    """Tell which entries belong to a component above the lowest one of their gene.

    Parameters
    ----------
    x
        Expression as log(1 + value), (n_obs, n_vars).

    Returns
    -------
    1 for such entries among the non-zeros, (n_obs, n_vars) CSR float32 that stores no zero; and whether the zeros of a
    gene do, (n_vars,) bool.
    """
    columns = sp.csc_matrix(x)
    flags, of_zeros = np.zeros(columns.nnz, dtype=np.float32), np.zeros(x.shape[1], dtype=bool)
    for gene in range(x.shape[1]):
        here = slice(columns.indptr[gene], columns.indptr[gene + 1])
        if here.start == here.stop:
            continue
        values = np.log(np.expm1(columns.data[here].astype(np.float64)))
        mixture = choose(values, x.shape[0] - len(values))
        flags[here] = mixture.component(values) > 0
        of_zeros[gene] = mixture.component_of_zero() > 0
    found = sp.csc_matrix((flags, columns.indices, columns.indptr), shape=x.shape).tocsr()
    found.eliminate_zeros()
    return found, of_zeros


def _log_seen(values: np.ndarray, weights: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """Log a_k φ_k(y) of each measured value, (n, k)."""
    at = (values[:, None] - means) / sds
    return np.log(weights) - 0.5 * at**2 - np.log(sds) - _LOG_ROOT  # type: ignore[no-any-return]


def _log_zero(limit: float, weights: np.ndarray, means: np.ndarray, sds: np.ndarray) -> np.ndarray:
    """Log a_k Φ(β_k), (k,)."""
    return np.log(weights) + log_ndtr((limit - means) / sds)  # type: ignore[no-any-return]
