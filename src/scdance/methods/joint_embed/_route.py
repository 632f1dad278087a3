"""What adapters of joint embedding to other packages share: cells that the package cannot place."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from scdance._checks import enough_pairs
from scdance._core.adapter import Adapter, contained
from scdance._core.cells import Cells, Pair
from scdance.pp import Recipe, ridge, with_one
from scdance.train import components, recipes_to_reduce, scores, target_of

DIMS = 50  # of a modality, by which it foretells the place of a cell that has no other
RIDGE = 1e-2  # of the variance of a place


class Route(Adapter):
    """Base of adapters: a subclass writes :meth:`embed`, where its package does the work.

    The package sees the cells of this run only, so that new ones cannot be placed later. A cell that it gives no place,
    for it lacks a modality, gets that which a linear regression on its components in the other one foretells.

    Parameters
    ----------
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    """

    n_top_genes: int | None = 2000

    needs = ("lognorm",)

    def embed(self, pair: Pair) -> np.ndarray:
        """Places by the package, (n_obs, n_dims); NaN in the rows of cells that it gives none."""
        raise NotImplementedError

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        return recipes_to_reduce(self.n_top_genes, getattr(self, "n_top_peaks", None))

    def check_cells(self, cells: Pair) -> None:
        """Refuse too few cells to learn from."""
        if not self.is_fitted:
            enough_pairs(len(cells.both), type(self).__name__)

    def fit(self, *, pair: Pair) -> Self:
        with contained(self.name, loud=bool(self.runtime.progress)):
            z = np.asarray(self.embed(pair), dtype=np.float32)
        self.notes_ = {**getattr(self, "notes_", {}), "n_both": len(pair.both), "n_one": pair.n_obs - len(pair.both)}
        self.notes_["n_foretold"] = int(np.isnan(z[:, 0]).sum())
        self.embedding_ = self._foretold(z, pair)
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        return {"embedding": self.embedding_}

    def _foretold(self, z: np.ndarray, pair: Pair) -> np.ndarray:
        """The places, those that are missing by a regression on the components of the one modality of the cell."""
        there = ~np.isnan(z[:, 0])
        for cells, at in zip((pair.source, target_of(pair)), pair.at.T, strict=True):
            lone, known = ~there & (at >= 0), there & (at >= 0)
            if lone.any():
                x = self.components(cells, at[known])
                z[lone] = with_one(x[at[lone]]) @ ridge(x[at[known]], z[known], RIDGE)
        return z

    def components(self, cells: Cells, rows: np.ndarray, n: int = DIMS) -> np.ndarray:
        """Scores of all cells in components that those at `rows` teach, each cell at mean 0 and variance 1."""
        return scores(cells, slice(None), components(cells, rows, n, random_state=self.random_state), unit_rows=True)


def batch_of(pair: Pair) -> np.ndarray:
    """Batch of each cell of the pair as a code, (n_obs,) int; all 0 where there are none."""
    code = np.zeros(pair.n_obs, dtype=int)
    for cells, at in zip((pair.source, target_of(pair)), pair.at.T, strict=True):
        if cells.batch is not None:
            code[at >= 0] = cells.batch[at[at >= 0]]
    return code
