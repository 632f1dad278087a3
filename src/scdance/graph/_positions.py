"""Positional encodings: where a node lies in its graph, as a few numbers."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, sparray, spmatrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh

from scdance._checks import InputError, whole_number

from ._ops import canonical, normalize

SMALL = 200  # nodes up to which all eigenvectors are computed at once
EXACT = 20_000  # nodes up to which walks are followed from each of them
PROBES = 256  # random vectors beyond that
COLUMNS = 256  # nodes whose walks are followed together


def laplacian_positions(a: spmatrix | sparray, k: int = 10, *, random_state: int = 0) -> np.ndarray:
    """Smooth functions on a graph: the first eigenvectors of its Laplacian.

    Those of L = I − D⁻½ A D⁻½ with the smallest eigenvalues above 0, of each connected component by itself: the vector
    of eigenvalue 0, of which each component has one, tells nothing and is left out.

    Parameters
    ----------
    a
        Weights ≥ 0, (n, n), sparse and symmetric.
    k
        Eigenvectors of each component, at least 1.
    random_state
        Seed of the vector that the iteration starts from.

    Returns
    -------
    (n, k) float32. In the rows of a component each column has length 1 and its largest entry in size is positive. A
    component of m nodes has only m − 1 such vectors: the columns beyond are 0, and so is the row of an isolated node.

    Raises
    ------
    InputError
        If a weight is negative, or `a` is not symmetric.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> path = csr_matrix(np.array([[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]))
    >>> abs(graph.laplacian_positions(path, k=1)).ravel().astype(float).round(2).tolist()
    [0.71, 0.0, 0.71, 0.0]
    """
    whole_number(k, "k", least=1)
    s = normalize(_checked(a)).astype(np.float64)
    out = np.zeros((s.shape[0], k), dtype=np.float32)
    _, component = connected_components(s, directed=False)
    order = np.argsort(component, kind="stable")
    for nodes in np.split(order, np.cumsum(np.bincount(component))[:-1]):
        if len(nodes) > 1:
            found = _largest(s[nodes][:, nodes], min(k + 1, len(nodes)), random_state)[:, 1:]
            top = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)
            out[nodes, : found.shape[1]] = found * np.sign(top)
    return out


def walk_positions(a: spmatrix | sparray, k: int = 10, *, random_state: int = 0) -> np.ndarray:
    """How likely a random walk is back where it set out, after each of its first steps.

    Step t has the diagonal of (D⁻¹ A)ᵗ. Beyond 20,000 nodes it is estimated by 256 random vectors of ±1, with an error
    of at most one sixteenth of the root of the value at step 2 t.

    Parameters
    ----------
    a
        Weights ≥ 0, (n, n), sparse and symmetric.
    k
        Steps, at least 1.
    random_state
        Seed of the random vectors.

    Returns
    -------
    (n, k) float32, in [0, 1]; 0 for an isolated node.

    Raises
    ------
    InputError
        If a weight is negative, or `a` is not symmetric.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance import graph
    >>> triangle = csr_matrix(np.ones((3, 3)) - np.eye(3))
    >>> graph.walk_positions(triangle, k=3)[0].tolist()
    [0.0, 0.5, 0.25]
    """
    whole_number(k, "k", least=1)
    s = normalize(_checked(a)).astype(np.float64)  # D⁻¹ A = D⁻½ S D½, so that their powers share the diagonal
    n = s.shape[0]
    out = np.zeros((n, k), dtype=np.float32)
    if n > EXACT:
        start = np.random.default_rng(random_state).choice([-1.0, 1.0], (n, PROBES))
        after = start
        for step in range(k):
            after = s @ after
            out[:, step] = np.clip((start * after).mean(axis=1), 0, 1)
        return out
    for first in range(0, n, COLUMNS):
        at = slice(first, min(first + COLUMNS, n))
        before = np.eye(n, at.stop - first, -first)
        for step in range(0, k, 2):  # S is symmetric: half the steps from either end
            after = s @ before
            out[at, step] = (before * after).sum(axis=0)
            if step + 1 < k:
                out[at, step + 1] = (after * after).sum(axis=0)
            before = after
    return out


def _largest(s: csr_matrix, k: int, random_state: int) -> np.ndarray:
    """Eigenvectors of the k largest eigenvalues, largest first, (n, k)."""
    n = s.shape[0]
    if n <= max(SMALL, 4 * k):
        return np.linalg.eigh(s.toarray())[1][:, ::-1][:, :k]  # type: ignore[no-any-return]
    start = np.random.default_rng(random_state).standard_normal(n)
    values, vectors = eigsh(s, k=k, which="LA", v0=start, ncv=min(n, max(4 * k, 64)), tol=1e-8)
    return vectors[:, np.argsort(-values)]  # type: ignore[no-any-return]


def _checked(a: spmatrix | sparray) -> csr_matrix:
    a = canonical(a)
    if a.nnz and a.data.min() < 0:
        msg = f"The weights of a graph must not be negative for positional encodings, but one is {a.data.min():.3g}."
        raise InputError(msg)
    if a.shape[0] != a.shape[1] or abs(a - a.T).max() > 1e-6 * max(a.max(), 1e-30):
        msg = f"Positional encodings need a symmetric graph, but this one, {a.shape}, is not. Use `graph.symmetric`."
        raise InputError(msg)
    return a
