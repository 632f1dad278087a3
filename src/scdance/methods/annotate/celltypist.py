"""Logistic regression of each type against the rest, on scaled expression that stays sparse."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse as sp
from scipy.optimize import minimize
from scipy.special import expit

from scdance._core.cells import Cells
from scdance.pp import mean_and_sd

from ._annotator import Annotator


class CellTypist(Annotator):
    """Annotate by logistic regression of each type against the rest [DominguezConde2022]_.

    Expression is divided by the standard deviation of each gene in the reference and cut off at `clip` of them above
    the mean; a weight for each gene and type is then learnt under a ridge penalty. All types are fitted at once, and
    the z-scores are folded into the weights, so the matrix stays sparse.

    When to use
    -----------
    As a fast, strong default with weights that say which genes spoke for a type; with references of many cells.

    When not
    --------
    Where types differ in combinations of genes rather than in their levels, or across protocols that scale genes
    differently: compare with ``"singlecellnet"``.

    Differs from the paper
    ----------------------
    The genes that tell the types apart are used instead of all, chosen on the reference; the optimiser is L-BFGS for
    any number of cells, without stochastic gradients; and the probabilities are calibrated and sum to 1 instead of one
    sigmoid per type. Missing genes count as the reference's mean. Majority voting is :func:`scdance.tl.vote`, for any
    method. ``preset="paper"`` uses all genes.

    Parameters
    ----------
    C
        Inverse strength of the ridge penalty, > 0; smaller is stronger.
    clip
        Standard deviations above the mean at which expression is cut off.
    balanced
        Weigh cells so that each type counts the same.
    max_iter
        Most steps of the optimiser.
    """

    C: float = 1.0
    clip: float = 10.0
    balanced: bool = False
    max_iter: int = 200

    cite = "DominguezConde2022"
    presets = {"paper": {"n_top_genes": None, "max_iter": 1000}, "dance": {"n_top_genes": None}}

    def teach(self, cells: Cells, *, stage: str) -> None:
        self.mean_, sd = mean_and_sd(cells.x)
        self.sd_ = np.where(sd > 0, sd, np.inf)  # a gene that does not vary is silent
        x = self._clipped(cells)
        y = np.equal.outer(cells.labels, np.arange(len(cells.categories))).astype(np.float64)
        weight = np.ones(cells.n_obs)
        if self.balanced:
            sizes = np.bincount(cells.labels, minlength=y.shape[1])
            weight = (cells.n_obs / (np.count_nonzero(sizes) * np.maximum(sizes, 1)))[cells.labels]
        self.coef_, self.intercept_ = _one_against_rest(
            x, self.mean_ / self.sd_, y, weight, penalty=1 / self.C, max_iter=self.max_iter
        )

    def adopt(self, coef: np.ndarray, intercept: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> None:
        """Take over the numbers of a model that was trained elsewhere; weights are (n_vars, n_types)."""
        n_vars, n_types = coef.shape
        self.coef_, self.intercept_, self.mean_, self.sd_ = coef, intercept, mean, np.where(sd > 0, sd, np.inf)
        self.genes_, self.temperature_ = np.arange(n_vars), 1.0
        self.known_, self.known_labels_ = np.empty((0, n_types), np.float32), np.empty(0, np.int32)
        self.notes_ = self._told(self.known_labels_, n_types)

    def logits(self, cells: Cells) -> np.ndarray:
        x = self._clipped(cells)
        here = slice(None) if cells.present is None else cells.present
        shift = self.intercept_ - (self.mean_ / self.sd_)[here] @ self.coef_[here]
        return np.asarray(x @ self.coef_ + shift)

    def weights(self) -> np.ndarray:
        return self.coef_.T

    def _clipped(self, cells: Cells) -> sp.csr_matrix:
        """x/σ, at most μ/σ + clip: zeros stay zeros, since μ ≥ 0."""
        x = cells.x.astype(np.float64)
        values = np.minimum(x.data / self.sd_[x.indices], (self.mean_ / self.sd_ + self.clip)[x.indices])
        return sp.csr_matrix((values, x.indices, x.indptr), shape=x.shape)


def _one_against_rest(
    x: sp.csr_matrix, shift: np.ndarray, y: np.ndarray, weight: np.ndarray, *, penalty: float, max_iter: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_vars, n_types) and intercepts that minimise Σ_i w_i log-loss + penalty/2 ‖W‖² of z = x − shift."""
    n_vars, n_types = x.shape[1], y.shape[1]
    back = x.T.tocsr()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[:-n_types].reshape(n_vars, n_types), flat[-n_types:]
        f = x @ w + (b - shift @ w)
        value = (weight[:, None] * (np.logaddexp(0, f) - y * f)).sum() + penalty / 2 * (w**2).sum()
        off = weight[:, None] * (expit(f) - y)
        total = off.sum(axis=0)
        slope = back @ off - np.outer(shift, total) + penalty * w
        return float(value), np.concatenate([slope.ravel(), total])

    options: dict[str, Any] = {"maxiter": max_iter, "gtol": 1e-3, "ftol": 1e-9}
    found = minimize(loss, np.zeros((n_vars + 1) * n_types), jac=True, method="L-BFGS-B", options=options)
    return found.x[:-n_types].reshape(n_vars, n_types), found.x[-n_types:]
