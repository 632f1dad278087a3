"""The mean over nearest neighbours: the cheap row that a deep imputer must beat."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from scdance._checks import InputError, MissingKeyError, one_of
from scdance._core.cells import Cells
from scdance.graph import knn, normalize, self_loops, spatial

from ._imputer import Rates
from ._smoother import Smoother


class KNN(Smoother):
    """Average the nearest neighbours of each cell [Cover1967]_.

    Cells are close that have similar principal components, or lie close in the tissue; the mean share of a gene among
    them, times the depth of the cell, is its expected count.

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
    near
        What makes cells close: similar "expression", or their "place" in the tissue, for which the object needs
        coordinates; cells of different slices are then not close.
    n_neighbors
        Neighbours, without the cell itself.
    shrink
        Share of the mean over all cells in the estimate.
    """

    near: Literal["expression", "place"] = "expression"
    n_neighbors: int = 15
    shrink: float = 0.1

    cite = "Cover1967"
    control = True
    order_free = True
    uses = ("counts", "coords", "slice")

    def check(self) -> None:
        super().check()
        one_of(self.near, ("expression", "place"), "near")
        if self.n_neighbors < 1 or not 0 <= self.shrink <= 1:
            found = f"n_neighbors={self.n_neighbors}, shrink={self.shrink:g}"
            msg = f"{found}, but n_neighbors must be at least 1 and shrink from 0 to 1."
            raise InputError(msg)

    def check_cells(self, cells: Cells) -> None:
        super().check_cells(cells)
        if self.near == "place" and cells.coords is None:
            msg = (
                "KNN with near='place' needs to know where each cell lies: `adata.obsm` has no coordinates. Pass the "
                "key of those it has as `spatial_key=`, or `near='expression'`."
            )
            raise MissingKeyError(msg)

    def rates(self, cells: Cells) -> Rates:
        if self.near == "place":
            near = spatial(cells.coords, n_neighbors=self.n_neighbors, slices=cells.slice)
        else:
            near = knn(self.place(cells), self.n_neighbors, random_state=self.random_state)
        near.data[:] = 1
        own = self.averaged(cells, normalize(self_loops(near), "row"))
        values: Any = cells.x if cells.prep.log_input else cells.counts
        depth = np.ones(cells.n_obs) if cells.prep.log_input else cells.depth
        common = np.asarray(values[:].sum(axis=0)).ravel() / np.sum(depth)
        return lambda rows: (1 - self.shrink) * own(rows) + self.shrink * np.outer(depth[rows], common)
