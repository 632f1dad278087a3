"""How well expected counts predict counts that were held out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.special import gammaln

LEAST_RATE = 1e-8  # expected count below which a prediction is not taken at its word: a zero would cost infinity
FEWEST_HELD_OUT = 10  # held-out molecules of a gene below which its correlation is noise


def poisson_loss(held_out: sp.csr_matrix, expected: np.ndarray) -> float:
    """Sum of the negative log-likelihood of counts, were they Poisson with these means.

    Parameters
    ----------
    held_out
        Counts, (n_obs, n_vars) CSR.
    expected
        Their expected values, (n_obs, n_vars); below 1e-8 they count as 1e-8.

    Returns
    -------
    The sum over all entries.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> round(pp.poisson_loss(pp.canonical(np.eye(2)), np.full((2, 2), 0.5)), 3)
    3.386
    """
    row = np.repeat(np.arange(held_out.shape[0]), np.diff(held_out.indptr))
    at = np.maximum(expected[row, held_out.indices], LEAST_RATE).astype(np.float64)
    total = float(np.maximum(expected, LEAST_RATE).sum(dtype=np.float64))
    return total - float(held_out.data @ np.log(at)) + float(gammaln(held_out.data + 1.0).sum())


class HeldOut:
    """Scores of expected counts on held-out ones, one block of cells after the other.

    Parameters
    ----------
    kept, held_out
        Both parts of the counts, (n_obs, n_vars) CSR each.

    Attributes
    ----------
    loss, floor
        Poisson loss per entry of the prediction, and of the mean share of each gene times the depth of the cell.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = pp.canonical(np.random.default_rng(0).poisson(5, (50, 4)))
    >>> kept = pp.thin(counts, 0.9, np.random.default_rng(1))
    >>> scores = pp.HeldOut(kept, pp.canonical(counts - kept))
    >>> scores.add(slice(0, 50), kept.toarray())
    >>> scores.per_gene().shape
    (4,)
    """

    def __init__(self, kept: sp.csr_matrix, held_out: sp.csr_matrix):
        self.kept, self.held_out = kept, held_out
        self.ratio = held_out.sum(dtype=np.float64) / max(kept.sum(dtype=np.float64), 1)
        self.depth = np.asarray(kept.sum(axis=1, dtype=np.float64)).ravel()
        self.share = np.asarray(kept.sum(axis=0, dtype=np.float64)).ravel() / max(kept.sum(dtype=np.float64), 1)
        self.loss = self.floor = 0.0
        self._n = 0
        self._sums = np.zeros((5, kept.shape[1]))

    def add(self, rows: slice, expected: np.ndarray) -> None:
        """Score the expected counts, at the depth of what was kept, of the cells at `rows`, (n, n_vars)."""
        truth, n_entries = self.held_out[rows], self.kept.shape[0] * self.kept.shape[1]
        self.loss += poisson_loss(truth, expected * np.float32(self.ratio)) / n_entries
        floor = np.outer(self.depth[rows] * self.ratio, self.share)
        self.floor += poisson_loss(truth, floor) / n_entries
        depth = np.maximum(self.depth[rows], 1)[:, None]
        x, y = truth.toarray() / depth, expected / depth
        self._sums += np.stack([x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), (x * y).sum(0)])
        self._n += len(x)

    @property
    def gain(self) -> float:
        """Loss relative to the floor: −0.15 is 15 % less."""
        return self.loss / self.floor - 1

    def per_gene(self) -> np.ndarray:
        """Correlation of predicted and held-out shares over the cells, (n_vars,); NaN where it cannot be told."""
        x, y, xx, yy, xy = self._sums / max(self._n, 1)
        spread = np.sqrt(np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0))
        counted = np.asarray(self.held_out.sum(axis=0)).ravel() >= FEWEST_HELD_OUT
        told = counted & (spread > 1e-12 * np.maximum(x * y, 1e-300))
        return np.divide(xy - x * y, spread, out=np.full(len(x), np.nan), where=told)
