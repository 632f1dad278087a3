"""The mean of the nearest cells of the reference, in principal components of the genes that both sides have."""

from __future__ import annotations

from itertools import chain
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import whole_number
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance.pp import PCA, Recipe, project
from scdance.train import slices

CLIP = 3.0  # standard deviations; more is a count or two of a rare gene, which alone would say who is near
SCALED: dict[str, Any] = {"normalize_total": {}, "log1p": {}, "center_scale": {"clip": CLIP}}


class KNN(Method):
    """Answer what the most similar cells of the reference have, by the genes that both sides have [Abdelaal2020]_.

    Each side is normalised by these genes only, and each gene brought to mean 0 and variance 1 on each side by itself:
    with that goes what sets the platforms apart throughout. Both are then decomposed together, and neighbours are those
    whose scores point the same way. Their mean expression is the answer.

    When to use
    -----------
    First: it takes seconds, assumes little and is the floor that matters. A method that does not beat it is not needed.

    When not
    --------
    Where tissue and reference have their types in other shares, which each side's own scaling takes for a difference of
    platforms; with a few genes in common that say little of the types; or to see what only the place of a cell tells.

    Differs from the paper
    ----------------------
    The paper finds directions that both sides share by principal vectors of two decompositions and weighs 50 neighbours
    by their distance; here one decomposition serves both, neighbours are twice as many and count the same, as that was
    best on simulated tissue.

    Parameters
    ----------
    n_neighbors
        Cells whose mean is taken, all where the reference has fewer. Many are needed, as a single cell shows little of
        what it expresses.
    n_components
        Number of principal components, fewer where there are fewer genes.
    """

    n_neighbors: int = 100
    n_components: int = 20

    cite = "Abdelaal2020"
    needs = ("lognorm",)
    control = True
    keeps = ("places_", "values_")
    recipe = {"ref": Recipe(**SCALED), "cells": Recipe(**SCALED)}

    def check(self) -> None:
        whole_number(self.n_neighbors, "n_neighbors", least=1)
        whole_number(self.n_components, "n_components", least=1)

    def fit(self, *, ref: Cells, cells: Cells) -> Self:
        pca = PCA(self.n_components, random_state=self.random_state)
        n_obs = ref.n_obs + cells.n_obs
        pca.fit(lambda: chain(ref.dense_blocks(), cells.dense_blocks()), (n_obs, ref.n_vars))
        self.mean_, self.axes_ = pca.mean_, pca.components_
        self.places_ = self.place(ref)
        values: Any = ref.target.part().x  # type: ignore[union-attr]
        self.values_ = {part: getattr(values, part) for part in ("data", "indices", "indptr")}
        return self

    def place(self, cells: Cells) -> np.ndarray:
        """Directions of the cells in principal components, (n_obs, n_components), rows of length 1."""
        scores = project(cells.dense_blocks(), self.mean_, self.axes_)
        return scores / np.maximum(np.linalg.norm(scores, axis=1, keepdims=True), 1e-9)

    def predict(self, *, cells: Cells) -> dict[str, Any]:
        from sklearn.neighbors import NearestNeighbors

        n_ref, n_genes = len(self.places_), len(self.features_["mean"])
        n_neighbors = min(self.n_neighbors, n_ref)
        values = csr_matrix(tuple(self.values_.values()), shape=(n_ref, n_genes))
        index, places = NearestNeighbors(algorithm="brute").fit(self.places_), self.place(cells)
        out = np.empty((cells.n_obs, n_genes), dtype=np.float32)
        for here in slices(cells.n_obs):
            near = index.kneighbors(places[here], n_neighbors, return_distance=False)
            ends = np.arange(0, near.size + 1, n_neighbors)
            shares = csr_matrix((np.full(near.size, 1 / n_neighbors), near.ravel(), ends), shape=(len(near), n_ref))
            out[here] = (shares @ values).toarray()
        return {"prediction": out}
