"""What each modality says of a cell by itself: its scores in a truncated singular value decomposition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix

from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.pp import PCA, Recipe, blocks, ridge, with_one
from scdance.train import recipes_to_reduce, scores

ROWS = 1024  # of which the decomposition may make dense ones at once
RIDGE = 1e-2  # of the variance of a score, which is 1


class Decomposed(Method):
    """Base of the decompositions: a subclass says how many dimensions each modality has, and takes the scores.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_top_peaks
        Peaks with the largest deviance that are kept; None: all.
    """

    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Lance2022"
    needs = ("lognorm",)

    def dims(self, pair: Pair) -> tuple[int, int]:
        """Dimensions of source and target."""
        raise NotImplementedError

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, self.n_top_peaks)

    def fit(self, *, pair: Pair) -> Self:
        wanted = zip(("source", "target"), (pair.source, pair.target), self.dims(pair), strict=True)
        self.components_ = {}
        for role, cells, n in wanted:
            svd = PCA(n, center=False, random_state=self.random_state)
            self.components_[role] = svd.fit(
                lambda cells=cells: _blocks(cells), (cells.n_obs, cells.n_vars)
            ).components_
        both = pair.both
        sides = [self._scores(pair.source, "source")[both[:, 0]], self._scores(pair.target, "target")[both[:, 1]]]
        self.regressions_ = {"target": ridge(*sides, RIDGE), "source": ridge(*reversed(sides), RIDGE)}
        self.notes_ = {"n_both": len(both), "n_one": pair.n_obs - len(both)}
        return self

    def scores(self, pair: Pair) -> dict[str, np.ndarray]:
        """Scores of all cells in each modality, (n_obs, n_components) float32, by a regression where they lack it."""
        parts = {}
        for role, cells, rows in (("source", pair.source, pair.at[:, 0]), ("target", pair.target, pair.at[:, 1])):
            parts[role] = np.zeros((pair.n_obs, len(self.components_[role])), dtype=np.float32)
            parts[role][rows >= 0] = self._scores(cells, role)[rows[rows >= 0]]
        for role, other, column in (("source", "target", 0), ("target", "source", 1)):
            lacks = pair.at[:, column] < 0
            parts[role][lacks] = with_one(parts[other][lacks]) @ self.regressions_[role]
        return parts

    def _scores(self, cells: Cells, role: str) -> np.ndarray:
        """Scores of each cell with mean 0 and variance 1 over the components, (n_obs, n_components) float32."""
        return scores(cells, slice(None), self.components_[role], unit_rows=True)


def _blocks(cells: Cells) -> Iterator[csr_matrix]:
    """Expression of the cells as blocks of CSR: no step of the recipe fills the matrix."""
    return (block for _, block in blocks(cells.x, ROWS))
