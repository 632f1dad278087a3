"""The mean over nearest neighbours: the cheap row that a deep imputer must beat."""

from __future__ import annotations

from typing import Any

import numpy as np

from scdance._checks import InputError
from scdance._core.cells import Cells
from scdance.graph import knn, normalize, self_loops

from ._imputer import Rates
from ._smoother import Smoother


class KNN(Smoother):
    """Average the nearest neighbours of each cell [Cover1967]_.

    Cells are close that have similar principal components; the mean share of a gene among them, times the depth of
    the cell, is its expected count.

    When to use
    -----------
    As the floor that a deep model must beat, in seconds.

    When not
    --------
    Rare cell types with fewer cells than neighbours: they take on the expression of others.

    Differs from the paper
    ----------------------
    Shares of counts are averaged, a cell counts as one of its own neighbours, and a little of the mean of all cells
    is mixed in, so that no gene is certain to be absent.

    Parameters
    ----------
    n_neighbors
        Neighbours, without the cell itself.
    shrink
        Share of the mean over all cells in the estimate.
    """

    n_neighbors: int = 15
    shrink: float = 0.1

    cite = "Cover1967"
    control = True
    order_free = True

    def check(self) -> None:
        super().check()
        if self.n_neighbors < 1 or not 0 <= self.shrink <= 1:
            found = f"n_neighbors={self.n_neighbors}, shrink={self.shrink:g}"
            msg = f"{found}, but n_neighbors must be at least 1 and shrink from 0 to 1."
            raise InputError(msg)

    def rates(self, cells: Cells) -> Rates:
        near = knn(self.place(cells), self.n_neighbors, random_state=self.random_state)
        near.data[:] = 1
        own = self.averaged(cells, normalize(self_loops(near), "row"))
        values: Any = cells.x if cells.prep.log_input else cells.counts
        depth = np.ones(cells.n_obs) if cells.prep.log_input else cells.depth
        common = np.asarray(values[:].sum(axis=0)).ravel() / np.sum(depth)
        return lambda rows: (1 - self.shrink) * own(rows) + self.shrink * np.outer(depth[rows], common)
