"""Nearest neighbours in principal components of both layers: the floor of label transfer."""

from __future__ import annotations

from itertools import chain

import numpy as np

from scdance._core.cells import Cells
from scdance.graph import votes
from scdance.pp import PCA, project

from ._transfer import Transfer


class KNN(Transfer):
    """Let the most similar labelled cells vote, in principal components of both layers [Cover1967]_.

    As each layer is brought to the same scale by itself, what sets one apart from the other throughout is gone; what is
    left is decomposed together, and the nearest labelled cells vote, each by the inverse of its distance.

    When to use
    -----------
    As the floor: a method that does not beat it is not needed.

    When not
    --------
    Where layers hold types in other shares, or differ in more than the scale of genes.

    Differs from the paper
    ----------------------
    Votes weigh by the inverse of the distance, in principal components of both layers, each layer scaled by itself.

    Parameters
    ----------
    n_neighbors
        Cells that vote.
    n_components
        Number of principal components.
    """

    n_neighbors: int = 15
    n_components: int = 30

    cite = "Cover1967"
    control = True
    keeps = ("places_", "votes_")

    def teach(self, ref: Cells, cells: Cells) -> None:
        pca = PCA(self.n_components, random_state=self.random_state)
        n_obs = ref.n_obs + cells.n_obs
        pca.fit(lambda: chain(ref.dense_blocks(), cells.dense_blocks()), (n_obs, ref.n_vars))
        self.mean_, self.axes_ = pca.mean_, pca.components_
        known = ref.labels >= 0  # type: ignore[operator]
        self.places_, self.votes_ = self.place(ref, "ref")[known], ref.labels[known]  # type: ignore[index]

    def logits(self, cells: Cells) -> np.ndarray:
        return np.log(votes(self.places_, self.votes_, self.place(cells), self.n_neighbors, self.n_types_))

    def place(self, cells: Cells, role: str = "cells") -> np.ndarray:
        return project(cells.dense_blocks(), self.mean_, self.axes_)
