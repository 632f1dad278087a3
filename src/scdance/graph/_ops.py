"""Operations on a graph that is given as a CSR matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, diags_array, eye_array, sparray, spmatrix

from scdance._checks import one_of


def symmetric(a: spmatrix | sparray, how: str = "max") -> csr_matrix:
    """Make a directed graph undirected.

    Parameters
    ----------
    a
        Weights ≥ 0, (n, n), sparse.
    how
        What an edge weighs that has two weights: the larger one (``"max"``, so the union of a binary
        graph) or their mean, where a missing direction counts as 0 (``"mean"``).

    Returns
    -------
    (n, n), symmetric CSR float32 without stored zeros.

    Raises
    ------
    InputError
        If `how` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> graph.symmetric(csr_matrix(np.array([[0.0, 2.0], [1.0, 0.0]]))).toarray().tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    one_of(how, ("max", "mean"), "`how`")
    a = canonical(a)
    return canonical(a.maximum(a.T) if how == "max" else (a + a.T) * np.float32(0.5))


def self_loops(a: spmatrix | sparray) -> csr_matrix:
    """Set the diagonal to 1, so that a node is its own neighbour; done twice it changes nothing.

    Parameters
    ----------
    a
        Weights, (n, n), sparse.

    Returns
    -------
    (n, n), CSR float32 without stored zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> graph.self_loops(csr_matrix(np.array([[0.0, 2.0], [2.0, 0.0]]))).toarray().tolist()
    [[1.0, 2.0], [2.0, 1.0]]
    """
    a = canonical(a)
    return canonical(a - diags_array(a.diagonal()) + eye_array(a.shape[0], dtype=np.float32))


def normalize(a: spmatrix | sparray, how: str = "sym") -> csr_matrix:
    """Scale the weights by the degrees of their nodes.

    Parameters
    ----------
    a
        Weights ≥ 0, (n, m), sparse; a graph (n = m) or the two sides of a bipartite one.
    how
        ``"sym"`` for D⁻½ A D⁻½ (the row sums on the left, the column sums on the right; no singular
        value exceeds 1), ``"row"`` for D⁻¹ A (rows sum to 1).

    Returns
    -------
    (n, m), CSR float32 without stored zeros. Rows without edges stay empty.

    Raises
    ------
    InputError
        If `how` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> graph.normalize(csr_matrix(np.array([[1.0, 3.0], [2.0, 0.0]])), how="row").toarray().tolist()
    [[0.25, 0.75], [1.0, 0.0]]
    """
    one_of(how, ("sym", "row"), "`how`")
    a = canonical(a)
    rows = np.asarray(a.sum(axis=1, dtype=np.float64)).ravel()
    if how == "row":
        return canonical(diags_array(_inverse(rows)) @ a)
    columns = np.asarray(a.sum(axis=0, dtype=np.float64)).ravel()
    return canonical(diags_array(np.sqrt(_inverse(rows))) @ a @ diags_array(np.sqrt(_inverse(columns))))


def canonical(a: Any) -> csr_matrix:
    """CSR float32 with sorted columns, no duplicates and no stored zeros; the input is left as it is."""
    out = csr_matrix(a).astype(np.float32)
    out.sum_duplicates()
    out.eliminate_zeros()
    return out


def _inverse(degrees: np.ndarray) -> np.ndarray:
    return np.divide(1.0, degrees, out=np.zeros_like(degrees), where=degrees > 0)
