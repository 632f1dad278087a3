"""Cells described by their genes: what scDeepSort and the machine with the radial kernel share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse as sp

from scdance._core.cells import Cells
from scdance.pp import PCA, blocks

ROWS = 1024  # cells that are made dense at once


def shares(x: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray]:
    """Share of each gene in its cell, (n_obs, n_vars) CSR, and how many genes a cell has, (n_obs,).

    Share times number is the weight of an edge: those into a cell average 1.
    """
    n_edges = np.diff(x.indptr)
    total = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
    inverse = np.divide(1, total, out=np.zeros_like(total), where=total > 0)
    data = x.data * np.repeat(inverse, n_edges).astype(np.float32)
    return sp.csr_matrix((data, x.indices, x.indptr), shape=x.shape), n_edges.astype(np.float32)


def gene_features(cells: Cells, n_components: int, random_state: int) -> np.ndarray:
    """Principal components of the genes, which are the samples, over the cells, (n_vars, n_components) float32.

    They are the right singular vectors of the cells' expression, from which the mean of each cell is taken off, times
    the singular values.
    """

    def centred() -> Iterator[np.ndarray]:
        for _, block in blocks(cells.x, ROWS):
            dense = block.toarray()
            yield dense - dense.mean(axis=1, keepdims=True)

    pca = PCA(n_components, center=False, random_state=random_state).fit(centred, (cells.n_obs, cells.n_vars))
    axes = pca.components_.T
    square = sum(((block @ axes).astype(np.float64) ** 2).sum(axis=0) for block in centred())
    return (axes * np.sqrt(square)).astype(np.float32)
