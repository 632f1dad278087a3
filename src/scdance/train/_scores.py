"""Few numbers in place of many features: truncated SVD of a modality, learnt on some cells, for any cells.

:func:`components` learns the loadings, an array that a method keeps in an attribute ending in ``_`` and so is saved;
:func:`scores` reads cells with them, block by block; ``scores @ components`` goes back to features.
:func:`recipes_to_reduce` is the preprocessing of methods that do so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from scdance._core.cells import Cells
from scdance.pp import PCA, Recipe, standard_rows

from ._paired import slices


def recipes_to_reduce(n_top_genes: int | None, n_top_peaks: int | None) -> dict[str, Recipe]:
    """Preprocessing of a modality that is reduced, by kind: as logarithms, centred log ratios, or words of a text.

    Parameters
    ----------
    n_top_genes, n_top_peaks
        Genes and peaks with the largest deviance that are kept; None: all.

    Returns
    -------
    A recipe for "rna", "prot" and "atac".

    Examples
    --------
    >>> from scdance import train
    >>> sorted(train.recipes_to_reduce(2000, None))
    ['atac', 'prot', 'rna']
    """
    return {
        "rna": Recipe(normalize_total={}, log1p={}, select_genes={"n_top": n_top_genes}),
        "prot": Recipe(clr={}),
        "atac": Recipe(select_genes={"n_top": n_top_peaks}, tfidf={}),
    }


def components(cells: Cells, rows: np.ndarray, n: int | None, *, random_state: int = 0) -> np.ndarray:
    """Loadings of a truncated singular value decomposition without centring.

    Parameters
    ----------
    cells
        Cells of a modality.
    rows
        Positions of those that teach.
    n
        Number of components, fewer where cells are fewer. With None, or where there are no more features, these stay
        as they are: the loadings are the identity.
    random_state
        Seed of the decomposition.

    Returns
    -------
    (n, n_vars) float32, orthonormal rows.

    Examples
    --------
    >>> train.components(cells, rows, 50).shape  # doctest: +SKIP
    (50, 2000)
    """
    if n is None or n >= cells.n_vars:
        return np.eye(cells.n_vars, dtype=np.float32)
    svd = PCA(n, center=False, random_state=random_state)
    return svd.fit(lambda: _blocks(cells, rows), (len(rows), cells.n_vars)).components_


def scores(cells: Cells, rows: Any, loadings: np.ndarray, *, unit_rows: bool = False) -> np.ndarray:
    """Scores of cells in the components of their modality.

    Parameters
    ----------
    cells
        Cells of a modality.
    rows
        Positions, or a slice.
    loadings
        What :func:`components` gives, (n_components, n_vars).
    unit_rows
        Bring each cell to mean 0 and variance 1 over its components.

    Returns
    -------
    (n, n_components) float32.

    Examples
    --------
    >>> train.scores(cells, slice(None), loadings).shape  # doctest: +SKIP
    (4000, 50)
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
