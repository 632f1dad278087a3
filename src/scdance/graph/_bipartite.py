"""The weighted graph of cells and genes."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, sparray, spmatrix

from scdance._checks import InputError

from ._ops import canonical


def bipartite(weights: spmatrix | sparray, *, norm: bool = True) -> tuple[csr_matrix, csr_matrix]:
    """Edges of the cell–gene graph in both directions.

    Every non-zero is an edge. With `norm` the weights that arrive at a node average 1, so that a deep
    cell sends no louder message than a shallow one: w'_uv = deg(v) · w_uv / Σ_u w_uv. The self-loops of
    weight 1 that the methods add afterwards are the identity and are not stored.

    Parameters
    ----------
    weights
        Expression, (n_cells, n_genes), sparse, ≥ 0; stored zeros are no edges.
    norm
        Divide by the mean weight of the receiving node; False leaves the weights as they are.

    Returns
    -------
    The edges into cells, (n_cells, n_genes), and the edges into genes, (n_genes, n_cells), both CSR
    float32; row v holds what arrives at node v.

    Raises
    ------
    InputError
        If a weight is negative.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> into_cells, into_genes = graph.bipartite(csr_matrix(np.array([[1.0, 3.0], [0.0, 2.0]])))
    >>> into_cells.toarray().tolist()
    [[0.5, 1.5], [0.0, 1.0]]
    """
    into_cells = canonical(weights)
    if into_cells.nnz and into_cells.data.min() < 0:
        msg = (
            f"The weights of a cell–gene graph must not be negative, but the smallest is "
            f"{into_cells.data.min():.3g}. Pass counts or log-normalised values, not scaled ones."
        )
        raise InputError(msg)
    into_genes = into_cells.T.tocsr()
    if norm:
        _average_to_one(into_cells)
        _average_to_one(into_genes)
    return into_cells, into_genes


def _average_to_one(a: csr_matrix) -> None:
    degrees = np.diff(a.indptr)
    sums = np.asarray(a.sum(axis=1, dtype=np.float64)).ravel()
    factors = np.divide(degrees, sums, out=np.zeros_like(sums), where=sums > 0)
    a.data *= np.repeat(factors, degrees).astype(np.float32)
