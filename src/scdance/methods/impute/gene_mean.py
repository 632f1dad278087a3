"""The mean share of each gene: the floor that knows nothing of cells but their depth."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._core.cells import Cells
from scdance.pp import Recipe, blocks

from ._imputer import Imputer, Rates


class GeneMean(Imputer):
    """Expect of every cell the mean share of each gene, times its depth.

    Cells differ in how many molecules were counted of them and in nothing else.

    When to use
    -----------
    As the floor of every table: what does not beat it has learnt nothing of the cells.

    When not
    --------
    To see differences between cells: there are none left.

    Differs from the paper
    ----------------------
    There is no paper: this is the mean that others divide by.

    Parameters
    ----------
    depth
        Whether a cell with more counts is expected to have more of each gene; False: the mean count for every cell.
    """

    depth: bool = True

    cite = "Eraslan2019"
    control = True
    order_free = True
    recipe = Recipe()

    def fit(self, *, cells: Cells) -> Self:
        counts: Any = cells.counts
        total = sum((np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in blocks(counts)), 0.0)
        self.share_ = np.asarray(total / cells.depth.sum(), dtype=np.float32)
        self.mean_depth_ = float(cells.depth.mean())
        self.theta_ = self.dispersion(cells, self.rates(cells))
        return self

    def rates(self, cells: Cells) -> Rates:
        depth: Any = cells.depth if self.depth else np.full(cells.n_obs, self.mean_depth_)
        return lambda rows: np.outer(depth[rows], self.share_).astype(np.float32)
