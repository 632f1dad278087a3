"""Principal components and k-means: the floor of every clustering table."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.spatial.distance import cdist

from scdance._core.cells import Cells
from scdance.graph import kmeans
from scdance.pp import PCA, Recipe, project

from ._centers import ByCenters


class KMeans(ByCenters):
    """Cluster by k-means on principal components [Lloyd1982]_.

    Log-normalised expression is projected on its first principal components, and k-means looks for centres
    in them. Fast, reproducible, and hard to beat on data with round clusters of similar size.

    When to use
    -----------
    First, always: it takes seconds, and a deep model that does not beat it is not needed.

    When not
    --------
    Clusters of very different size or shape, and continua: k-means splits the large and merges the small.

    Differs from the paper
    ----------------------
    Starts by k-means++ and keeps the best of `n_init` runs. Clusters are numbered by size.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    scale
        Divide each gene by its standard deviation before the projection.
    n_components
        Number of principal components.
    n_init
        Starts of k-means; the best is kept.
    """

    n_top_genes: int | None = 2000
    scale: bool = False
    n_components: int = 50
    n_init: int = 20

    cite = "Lloyd1982"
    needs = ("lognorm",)
    uses = ("rep",)
    control = True

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            normalize_total={},
            log1p={},
            select_genes={"n_top": self.n_top_genes},
            **({"center_scale": {}} if self.scale else {}),
        )

    def fit(self, *, cells: Cells) -> Self:
        if cells.rep is None:
            pca = PCA(self.n_components, random_state=self.random_state)
            pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
            self.mean_, self.components_ = pca.mean_, pca.components_
        z = self._embed(cells)
        choice = self._chosen(z)
        k = self.n_clusters if choice is None else choice.k
        _, self.centers_ = kmeans(z, k, n_init=self.n_init, random_state=self.random_state)
        return self

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        z = self._embed(cells)
        distance = cdist(z, self.centers_)
        near = np.sort(distance, axis=1)
        # simplified silhouette: (b − a) / b, from the nearest and the second nearest centre; 1 where there is no second
        score = 1 - near[:, 0] / np.maximum(near[:, 1], 1e-12) if near.shape[1] > 1 else np.ones(len(z))
        return {"labels": distance.argmin(axis=1), "embedding": z, "score": score}

    def _embed(self, cells: Cells) -> np.ndarray:
        if cells.rep is not None:
            return cells.rep
        return project(cells.dense_blocks(), self.mean_, self.components_)
