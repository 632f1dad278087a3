"""Truncated singular value decompositions of two modalities, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_matrix

from scdance._core.cells import Cells, Pair
from scdance._core.method import Method
from scdance.pp import PCA, Recipe, blocks, standard_rows

# Dimensions of the competition's solution for RNA beside another modality, and for that modality.
DIMS = {"prot": (73, 27), "atac": (38, 62)}
OTHERWISE = (50, 50)
ROWS = 1024  # of which the decomposition may make dense ones at once
RIDGE = 1e-2  # of the variance of a score, which is 1


class SVDConcat(Method):
    """Decompose each modality by itself and put the scores side by side [Lance2022]_.

    Each normalised modality is reduced by a truncated singular value decomposition without centring; the scores of
    a cell are then brought to mean 0 and variance 1 over its components, so that neither modality outweighs the
    other by its scale. It won the competition's joint embedding of RNA and proteins without training.

    When to use
    -----------
    First, on any pair of modalities: seconds, deterministic, and new cells are placed without training again.

    When not
    --------
    Batches that differ: nothing corrects them. One modality much noisier than the other: each has its share of
    the dimensions, whatever it knows.

    Differs from the paper
    ----------------------
    Proteins are normalised by centred log ratio and open chromatin by term frequency and inverse document frequency,
    where the competition gave normalised values. A cell that lacks a modality gets its scores from a linear
    regression on those of the other, learnt from the cells that have both.

    Parameters
    ----------
    n_source, n_target
        Dimensions of each modality; None: 73 and 27 for RNA and proteins, 38 and 62 for RNA and open chromatin,
        else 50 and 50. Fewer where a modality has fewer features or cells.
    n_top_genes
        Genes with the largest deviance that are kept; None: all.
    n_top_peaks
        Peaks with the largest deviance that are kept; None: all.
    """

    n_source: int | None = None
    n_target: int | None = None
    n_top_genes: int | None = None
    n_top_peaks: int | None = 30_000

    cite = "Lance2022"
    needs = ("lognorm",)
    presets = {"paper": {"n_top_peaks": None}}

    @property
    def recipe(self) -> dict[str, Recipe]:  # type: ignore[override]
        genes, peaks = {"n_top": self.n_top_genes}, {"n_top": self.n_top_peaks}
        return {
            "rna": Recipe(normalize_total={}, log1p={}, select_genes=genes),
            "prot": Recipe(clr={}),
            "atac": Recipe(select_genes=peaks, tfidf={}),
        }

    def fit(self, *, pair: Pair) -> Self:
        wanted = zip(("source", "target"), (pair.source, pair.target), self._dims(pair), strict=True)
        self.components_ = {}
        for role, cells, n in wanted:
            svd = PCA(n, center=False, random_state=self.random_state)
            self.components_[role] = svd.fit(
                lambda cells=cells: _blocks(cells), (cells.n_obs, cells.n_vars)
            ).components_
        both = pair.both
        scores = [self._scores(pair.source, "source")[both[:, 0]], self._scores(pair.target, "target")[both[:, 1]]]
        self.regressions_ = {"target": _regression(*scores), "source": _regression(*reversed(scores))}
        self.notes_ = {"n_both": len(both), "n_one": pair.n_obs - len(both)}
        return self

    def predict(self, *, pair: Pair) -> dict[str, Any]:
        parts = {}
        for role, cells, rows in (("source", pair.source, pair.at[:, 0]), ("target", pair.target, pair.at[:, 1])):
            parts[role] = np.zeros((pair.n_obs, len(self.components_[role])), dtype=np.float32)
            parts[role][rows >= 0] = self._scores(cells, role)[rows[rows >= 0]]
        for role, other, column in (("source", "target", 0), ("target", "source", 1)):
            lacks = pair.at[:, column] < 0
            parts[role][lacks] = _with_one(parts[other][lacks]) @ self.regressions_[role]
        return {"embedding": np.hstack([parts["source"], parts["target"]])}

    def _dims(self, pair: Pair) -> tuple[int, int]:
        first, second = pair.source.modality, pair.target.modality
        usual = DIMS.get(second or "", OTHERWISE) if first == "rna" else DIMS.get(first or "", OTHERWISE)[::-1]
        return self.n_source or usual[0], self.n_target or usual[1]

    def _scores(self, cells: Cells, role: str) -> np.ndarray:
        """Scores of each cell with mean 0 and variance 1 over the components, (n_obs, n_components) float32."""
        return standard_rows(np.concatenate([block @ self.components_[role].T for block in _blocks(cells)]))


def _blocks(cells: Cells) -> Iterator[csr_matrix]:
    """Expression of the cells as blocks of CSR: no step of the recipe fills the matrix."""
    return (block for _, block in blocks(cells.x, ROWS))


def _with_one(x: np.ndarray) -> np.ndarray:
    return np.column_stack([x, np.ones(len(x), dtype=x.dtype)])


def _regression(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Coefficients of y on x and, in the last row, the intercept, (n_x + 1, n_y) float32."""
    x = _with_one(x).astype(np.float64)
    ridge = np.diag([*np.full(x.shape[1] - 1, RIDGE * len(x)), 0.0])
    return np.linalg.solve(x.T @ x + ridge, x.T @ y).astype(np.float32)
