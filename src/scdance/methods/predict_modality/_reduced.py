"""Few numbers in place of many features: truncated SVD of a modality, learnt on some cells, for any cells.

:func:`components` learns the loadings, an array that a method keeps in an attribute ending in ``_`` and so is saved;
:func:`scores` reads cells with them, block by block; ``scores @ components`` goes back to features. :func:`recipes`
is the preprocessing of methods that reduce the source.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scdance._core.cells import Cells
from scdance.pp import PCA, Recipe, standard_rows

from ._predictor import slices


def recipes(n_top_genes: int | None, n_top_peaks: int | None) -> dict[str, Recipe]:
    """Preprocessing of the source by kind; of genes and peaks those with the largest deviance (None: all)."""
    return {
        "rna": Recipe(normalize_total={}, log1p={}, select_genes={"n_top": n_top_genes}),
        "prot": Recipe(clr={}),
        "atac": Recipe(select_genes={"n_top": n_top_peaks}, tfidf={}),
    }


def components(
    cells: Cells, rows: np.ndarray, n: int | None, *, drop_first: bool = False, random_state: int = 0
) -> np.ndarray:
    """Loadings of the truncated SVD, without centring, of the cells at `rows`: (n, n_vars) float32, orthonormal.

    There are fewer where cells are fewer. `drop_first` leaves the first one out and takes one more: in weights of peaks
    it says how many were seen. With `n` None, or where there are no more features, these stay as they are: the
    identity.
    """
    if n is None or n >= cells.n_vars:
        return np.eye(cells.n_vars, dtype=np.float32)
    svd = PCA(n + drop_first, center=False, random_state=random_state)
    return svd.fit(lambda: _blocks(cells, rows), (len(rows), cells.n_vars)).components_[int(drop_first) :]


def scores(cells: Cells, rows: Any, loadings: np.ndarray, *, unit_rows: bool = False) -> np.ndarray:
    """Scores of the cells at `rows` (positions or a slice), (n, n_components) float32.

    `unit_rows` brings each cell to mean 0 and variance 1 over its components.
    """
    at = np.arange(cells.n_obs)[rows]
    out = np.empty((len(at), len(loadings)), dtype=np.float32)
    start = 0
    for block in _blocks(cells, at):
        out[start : start + block.shape[0]] = block @ loadings.T
        start += block.shape[0]
    return standard_rows(out) if unit_rows else out


def _blocks(cells: Cells, rows: np.ndarray) -> Iterator[Any]:
    """Expression at `rows` in blocks of at most 1,024: CSR, or dense where the recipe fills the matrix."""
    for here in slices(len(rows)):
        yield cells.dense(rows[here]) if cells.prep.filling else cells.x[rows[here]]  # type: ignore[index]
