"""Correlations of genes, and the graph that they make."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from scipy.sparse import csr_matrix, vstack

from scdance._checks import InputError

from ._ops import canonical

CELLS, GENES = 1024, 256  # of a dense block in double precision: 2 MB
_CONSTANT = 1e-12  # variance as part of the mean square, below which it is rounding


class _Rows(Protocol):
    """Expression that is read some rows at a time: CSR, or on disk."""

    @property
    def shape(self) -> tuple[int, int]: ...

    def __getitem__(self, rows: Any) -> Any: ...


def correlations(x: csr_matrix | _Rows, columns: np.ndarray | None = None) -> np.ndarray:
    """Pearson correlation of each gene with each other, or with some of them.

    Summed in double precision over blocks of cells and genes, so that beside the result only one block is dense.

    Parameters
    ----------
    x
        Expression, (n_obs, n_vars), CSR, or an object with `shape` whose slices of rows are CSR.
    columns
        Genes to correlate all genes with, (n_columns,) int; None: all.

    Returns
    -------
    Correlations in [−1, 1], (n_vars, n_columns) float32. A gene has 1 with itself; one that does not vary has 0 with
    all genes and with itself.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> x = csr_matrix(np.array([[1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [2.0, 0.0, 5.0], [3.0, 0.0, 5.0]]))
    >>> graph.correlations(x).astype(float).round(2).tolist()
    [[1.0, -0.77, 0.0], [-0.77, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    columns = np.arange(x.shape[1]) if columns is None else np.asarray(columns, dtype=np.int64)
    mean, scale = _moments(x)
    out = np.empty((x.shape[1], len(columns)), dtype=np.float32)
    for start in range(0, len(columns), GENES):
        some = columns[start : start + GENES]
        product = np.zeros((x.shape[1], len(some)))
        for block in _blocks(x):
            product += block.T @ block[:, some].toarray()
        product -= x.shape[0] * mean[:, None] * mean[some]
        product *= scale[:, None]
        product *= scale[some]
        np.clip(product, -1, 1, out=product)
        product[some, np.arange(len(some))] = scale[some] > 0
        out[:, start : start + GENES] = product
    return out


def gene_graph(x: csr_matrix | _Rows, threshold: float = 0.3) -> csr_matrix:
    """Link genes whose expression correlates, in either direction.

    Parameters
    ----------
    x
        As in :func:`correlations`.
    threshold
        Smallest absolute correlation of linked genes, above 0 and at most 1.

    Returns
    -------
    1 for each edge, (n_vars, n_vars), symmetric CSR float32, nothing on the diagonal. Genes that do not vary have no
    edge.

    Raises
    ------
    InputError
        If `threshold` is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> x = csr_matrix(np.array([[1.0, 0.0, 5.0], [0.0, 2.0, 5.0], [2.0, 0.0, 5.0], [3.0, 0.0, 5.0]]))
    >>> graph.gene_graph(x).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not 0 < threshold <= 1:
        msg = f"threshold={threshold!r}, but a correlation that links genes must be above 0 and at most 1."
        raise InputError(msg)
    n_vars, parts = x.shape[1], []
    for start in range(0, n_vars, GENES):
        some = np.arange(start, min(start + GENES, n_vars))
        linked = np.abs(correlations(x, some).T) >= threshold
        linked[np.arange(len(some)), some] = False
        parts.append(csr_matrix(linked, dtype=np.float32))
    one_way = canonical(vstack(parts))
    return canonical(one_way.maximum(one_way.T))  # the two directions may differ in the last digit


def _blocks(x: csr_matrix | _Rows) -> Any:
    for start in range(0, x.shape[0], CELLS):
        yield x[start : min(start + CELLS, x.shape[0])].astype(np.float64)


def _moments(x: csr_matrix | _Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each gene, and one over the root of its sum of squared deviations, 0 where it does not vary."""
    total, square = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for block in _blocks(x):
        total += np.asarray(block.sum(axis=0)).ravel()
        square += np.asarray(block.multiply(block).sum(axis=0)).ravel()
    mean = total / max(x.shape[0], 1)
    spread = square - x.shape[0] * mean**2
    varies = spread > _CONSTANT * square
    return mean, np.divide(1.0, np.sqrt(np.where(varies, spread, 1)), out=np.zeros_like(mean), where=varies)
