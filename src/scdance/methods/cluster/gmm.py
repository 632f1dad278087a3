"""Pearson residuals, principal components and a Gaussian mixture: the strongest cheap row."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._core.cells import Cells
from scdance.graph import mixture
from scdance.pp import PCA, Recipe, project

from ._centers import ByCenters


class GMM(ByCenters):
    """Cluster by a diagonal Gaussian mixture on principal components of Pearson residuals [Lause2021]_.

    Pearson residuals measure each count against what depth and gene abundance predict, which leaves the
    biology; the mixture then lets clusters differ in size and in spread, as k-means cannot.

    When to use
    -----------
    Raw UMI counts, a wanted number of clusters, and clusters of unequal size.

    When not
    --------
    Data without counts, or very small clusters: a component needs some tens of cells to find its spread.

    Differs from the paper
    ----------------------
    The paper proposes the residuals and clusters by Leiden; genes are chosen by deviance here.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_components
        Number of principal components.
    unit_rows
        Scale the components of each cell to length 1, which compares directions only.
    theta
        Dispersion of the counts that the residuals assume; larger is closer to Poisson.
    n_init
        Starts of the mixture; the likeliest is kept.
    """

    n_top_genes: int | None = 2000
    n_components: int = 50
    unit_rows: bool = False
    theta: float = 100.0
    n_init: int = 5

    cite = "Lause2021"
    needs = ("counts",)
    uses = ("rep",)
    control = True

    @property
    def recipe(self) -> Recipe:
        return Recipe(select_genes={"n_top": self.n_top_genes}, pearson_residuals={"theta": self.theta})

    def fit(self, *, cells: Cells) -> Self:
        if cells.rep is None:
            pca = PCA(self.n_components, random_state=self.random_state)
            pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
            self.mean_, self.components_ = pca.mean_, pca.components_
        z = self._embed(cells)
        choice = self._chosen(z)
        k = self.n_clusters if choice is None else choice.k
        _, self.centers_, proba = mixture(z, k, n_init=self.n_init, random_state=self.random_state)
        # what Bayes' rule needs for new cells: the last M-step of the mixture
        self.weights_ = proba.mean(axis=0)
        square = proba.T @ z**2 / np.maximum(proba.sum(axis=0), 1e-12)[:, None]
        self.variances_ = np.maximum(square - self.centers_**2, 1e-6).astype(np.float32)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z = self._embed(cells).astype(np.float64)
        precision = 1 / self.variances_.astype(np.float64)
        square = z**2 @ precision.T - 2 * z @ (self.centers_ * precision).T + (self.centers_**2 * precision).sum(axis=1)
        log_p = np.log(self.weights_) - 0.5 * (square + np.log(self.variances_).sum(axis=1))
        log_p -= log_p.max(axis=1, keepdims=True)
        proba = np.exp(log_p)
        proba /= proba.sum(axis=1, keepdims=True)
        return {"labels": proba.argmax(axis=1), "embedding": z, "proba": proba, "score": proba.max(axis=1)}

    def _embed(self, cells: Cells) -> np.ndarray:
        z = cells.rep if cells.rep is not None else project(cells.dense_blocks(), self.mean_, self.components_)
        return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12) if self.unit_rows else z
