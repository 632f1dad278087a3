"""Neighbour graphs of cells."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import InputError
from scdance._settings import torch_threads

EXACT_UP_TO = 50_000  # cells; above, pynndescent, which compiles for half a minute in each process
_BLOCK = 2**14  # pairs measured at once
_CLOSE = 1e-6  # squared distance as part of the squared norms, below which |x|² + |y|² − 2xy is inexact
_MIN_SCALE = 1e-3  # of UMAP: sigma is at least this part of the mean distance


def knn(x: np.ndarray, k: int = 15, *, random_state: int = 0) -> csr_matrix:
    """K nearest neighbours of each row of `x` by Euclidean distance.

    Exact up to 50,000 rows and by nearest-neighbour descent above; never builds an n × n array.

    Parameters
    ----------
    x
        Points, (n, d).
    k
        Neighbours of each point without the point itself; n − 1 if there are only n ≤ k points.
        (The `n_neighbors` of scanpy counts the cell itself: it is k + 1.)
    random_state
        Seed of the approximate search; the exact one has no randomness.

    Returns
    -------
    Distances, (n, n), CSR float32, exactly k stored values in a row, columns ascending, nothing on the
    diagonal. Duplicated points are neighbours at a stored distance of 0.

    Raises
    ------
    InputError
        If `k` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> graph.knn(np.array([[0.0], [1.0], [3.0]]), k=1).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    """
    x = np.ascontiguousarray(x, dtype=np.float32)
    n = x.shape[0]
    if k < 1:
        msg = f"`k` is {k}, but a cell needs at least one neighbour."
        raise InputError(msg)
    k = min(k, n - 1)
    if k < 1:
        return csr_matrix((n, n), dtype=np.float32)
    found, distances = _exact(x, k) if n <= EXACT_UP_TO else _approximate(x, k, random_state)
    order = np.argsort(found, axis=1)
    found = np.take_along_axis(found, order, axis=1).astype(np.int32)
    distances = np.take_along_axis(distances, order, axis=1).astype(np.float32)
    _measure_the_close(x, found, distances)
    indptr = np.arange(0, n * k + 1, k, dtype=np.int32 if n * k < 2**31 else np.int64)
    return csr_matrix((distances.ravel(), found.ravel(), indptr), shape=(n, n))


def _exact(x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    # Without a query each point is left out of its own neighbours, also among duplicates.
    distances, found = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    return found, distances


def _approximate(x: np.ndarray, k: int, random_state: int) -> tuple[np.ndarray, np.ndarray]:
    with torch_threads():  # numba's thread layer sets torch back to all threads
        from pynndescent import NNDescent

        found, distances = NNDescent(x, n_neighbors=k + 1, random_state=random_state).neighbor_graph
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):  # the descent gave up on these points
        from sklearn.neighbors import NearestNeighbors

        distances[short], found[short] = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x[short])
    others = found != np.arange(len(x))[:, None]
    others[others.all(axis=1), -1] = False  # among more than k duplicates the last one goes instead
    return found[others].reshape(len(x), k), distances[others].reshape(len(x), k)


def _measure_the_close(x: np.ndarray, found: np.ndarray, distances: np.ndarray) -> None:
    """Correct the distances of near-duplicates in place, so that a duplicate is at exactly 0."""
    norms = np.einsum("ij,ij->i", x, x)
    rows, places = np.nonzero(distances**2 <= _CLOSE * (norms[:, None] + norms[found]))
    for start in range(0, len(rows), _BLOCK):
        i, j = rows[start : start + _BLOCK], places[start : start + _BLOCK]
        distances[i, j] = np.linalg.norm(x[i] - x[found[i, j]], axis=1)


def fuzzy(distances: csr_matrix) -> csr_matrix:
    """Turn neighbour distances into the symmetric weights of UMAP.

    Each cell gets its own scale, such that its weights sum to log2(k + 1); the two directions of an edge
    are then joined as a ∪ b = a + b − ab. ``fuzzy(knn(x, 14))`` equals the connectivities of
    ``scanpy.pp.neighbors(n_neighbors=15)`` on an exact graph.

    Parameters
    ----------
    distances
        (n, n), CSR, as :func:`knn` gives it; rows may have different numbers of neighbours.

    Returns
    -------
    Weights in (0, 1], (n, n), symmetric CSR float32 without a diagonal and without stored zeros.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> weights = graph.fuzzy(graph.knn(np.random.default_rng(0).normal(size=(50, 3)), k=14))
    >>> weights.shape, bool((abs(weights - weights.T) > 0).nnz)
    ((50, 50), False)
    """
    n = distances.shape[0]
    counts = np.diff(distances.indptr)
    rows = np.repeat(np.arange(n), counts)
    d = distances.data.astype(np.float64)

    rho = np.full(n, np.inf)  # distance of the nearest neighbour that is not a duplicate
    np.minimum.at(rho, rows[d > 0], d[d > 0])
    rho[np.isinf(rho)] = 0
    excess = np.maximum(d - rho[rows], 0)

    sigma = _scales(excess, rows, np.log2(counts + 1.0))
    means = np.bincount(rows, d, minlength=n) / (counts + 1.0)  # UMAP counts the cell itself, at distance 0
    floor = np.where(rho > 0, means, d.sum() / max(1, len(d) + n))
    sigma = np.maximum(sigma, _MIN_SCALE * floor)

    scale = sigma[rows]
    weights = np.exp(-excess / np.where(scale > 0, scale, 1))
    a = csr_matrix((weights.astype(np.float32), distances.indices, distances.indptr), shape=(n, n))
    out = (a + a.T - a.multiply(a.T)).tocsr()
    out.eliminate_zeros()
    out.sort_indices()
    return out


def _scales(excess: np.ndarray, rows: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Scale of each row, by bisection, at which Σ exp(−excess / scale) reaches its target."""
    n = len(target)
    low, high, mid = np.zeros(n), np.full(n, np.inf), np.ones(n)
    for _ in range(64):
        total = np.bincount(rows, np.exp(-excess / mid[rows]), minlength=n)
        wrong = np.abs(total - target) >= 1e-5  # a row that is right rests, as in UMAP
        if not wrong.any():
            break
        too_wide = total > target
        high[too_wide] = mid[too_wide]
        low[~too_wide] = mid[~too_wide]
        mid = np.where(wrong, np.where(np.isinf(high), 2 * mid, (low + high) / 2), mid)
    return mid
