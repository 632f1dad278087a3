"""Nearest neighbours in principal components: the floor of annotation."""

from __future__ import annotations

import numpy as np

from scdance._core.cells import Cells
from scdance.graph import votes
from scdance.pp import PCA, blocks, project

from ._annotator import Annotator


class KNN(Annotator):
    """Let the most similar cells of the reference vote [Cover1967]_.

    Cells are placed on the principal components of the reference, and the nearest vote for their type, each by the
    inverse of its distance.

    When to use
    -----------
    For a first look, in seconds; also where types form chains rather than clouds.

    When not
    --------
    Across protocols, which shift all cells, or for types with fewer cells than there are votes.

    Differs from the paper
    ----------------------
    Votes weigh by distance, and distances are measured in principal components.

    Parameters
    ----------
    n_neighbors
        Cells that vote.
    n_components
        Number of principal components.
    """

    n_neighbors: int = 15
    n_components: int = 50

    cite = "Cover1967"
    control = True
    keeps = ("landmarks_", "places_", "votes_")

    def teach(self, cells: Cells, *, stage: str) -> None:
        pca = PCA(self.n_components, random_state=self.random_state)
        pca.fit(cells.dense_blocks, (cells.n_obs, cells.n_vars))
        self.mean_, self.axes_ = pca.mean_, pca.components_
        self.places_, self.votes_ = self._embed(cells), cells.labels
        self.n_types_ = len(cells.categories)

    def logits(self, cells: Cells) -> np.ndarray:
        return np.log(votes(self.places_, self.votes_, self._embed(cells), self.n_neighbors, self.n_types_))

    def _embed(self, cells: Cells) -> np.ndarray:
        return project((block for _, block in blocks(cells.x)), self.mean_, self.axes_)
