"""Partitions of cells, always with the largest cluster first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from scdance._checks import InputError, one_of, package

from ._cells import fuzzy, knn

RESOLUTIONS = np.round(np.linspace(0.2, 2.0, 10), 1)  # tried by choose_k(how="stability")


class Choice(NamedTuple):
    """A number of clusters that was estimated.

    Attributes
    ----------
    k
        The number of clusters.
    labels
        A partition into k clusters, (n,), int32 codes by size.
    table
        The candidates that were looked at: columns of equal length, by name. Where there are several, ``"taken"``
        says which one it is.
    """

    k: int
    labels: np.ndarray
    table: dict[str, np.ndarray]


def by_size(codes: np.ndarray, k: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Number clusters by size, so that 0 is the largest.

    Parameters
    ----------
    codes
        Cluster of each cell, (n,), whole numbers ≥ 0.
    k
        Number of clusters, those without a cell included, which come last; None: those that have cells.

    Returns
    -------
    The new codes, (n,), int32, and the old code of each new one, (k,); clusters of equal size keep the
    order in which they first appear.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> codes, old = graph.by_size(np.array([5, 2, 2]))
    >>> codes.tolist(), old.tolist()
    ([1, 0, 0], [2, 5])
    """
    old, first, inverse, sizes = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    empty = np.setdiff1d(np.arange(k or 0), old)
    return rank[inverse], np.concatenate([old[order], empty])


class _Stream:
    """A private stream of random numbers behind the four functions that igraph calls.

    It deals the same numbers as scanpy's, so a partition is the one that the user has today.
    """

    def __init__(self, random_state: int) -> None:
        numbers = np.random.RandomState(random_state)
        self.random, self.gauss = numbers.random_sample, numbers.normal
        self.getrandbits = lambda k: numbers.tomaxint() & ((1 << k) - 1)
        self.randint = lambda low, high: numbers.randint(low, high + 1)


@contextmanager
def _igraph(random_state: int, why: str) -> Iterator[Any]:
    """Give igraph with a private random generator; afterwards it uses the module `random` again."""
    import random

    igraph = package("igraph", extra="leiden", why=why)
    try:
        igraph.set_random_number_generator(_Stream(random_state))
        yield igraph
    finally:
        igraph.set_random_number_generator(random)


def _undirected(igraph: Any, a: csr_matrix) -> Any:
    edges = a.tocoo()
    graph = igraph.Graph(n=a.shape[0], directed=False)
    graph.add_edges(np.column_stack([edges.row, edges.col]))
    graph.es["weight"] = edges.data.astype(float)
    return graph


def leiden(a: csr_matrix, *, resolution: float = 1.0, n_iterations: int = 2, random_state: int = 0) -> np.ndarray:
    """Leiden communities by modularity, as ``scanpy.tl.leiden(flavor="igraph", directed=False)``.

    Parameters
    ----------
    a
        Symmetric weights, (n, n), CSR.
    resolution
        Higher gives more clusters.
    n_iterations
        Rounds; −1 for "until nothing changes".
    random_state
        Seed of the order in which cells are visited.

    Returns
    -------
    Cluster of each cell, (n,), int32, 0 is the largest.

    Raises
    ------
    MissingPackageError
        If igraph is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> x = np.random.default_rng(0).normal(np.repeat([0, 20], 30)[:, None], size=(60, 2))
    >>> labels = graph.leiden(graph.fuzzy(graph.knn(x)), resolution=0.1)
    >>> np.bincount(labels).tolist()
    [30, 30]
    """
    with _igraph(random_state, "Leiden clustering") as igraph:
        found = _undirected(igraph, a).community_leiden(
            objective_function="modularity",
            weights="weight",
            resolution=resolution,
            n_iterations=n_iterations,
        )
    return by_size(np.asarray(found.membership))[0]


def louvain(a: csr_matrix, *, resolution: float = 1.0, random_state: int = 0) -> np.ndarray:
    """Louvain communities by modularity.

    Parameters
    ----------
    a
        Symmetric weights, (n, n), CSR.
    resolution
        Higher gives more clusters.
    random_state
        Seed of the order in which cells are visited.

    Returns
    -------
    Cluster of each cell, (n,), int32, 0 is the largest.

    Raises
    ------
    MissingPackageError
        If igraph is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> x = np.random.default_rng(0).normal(np.repeat([0, 20], 30)[:, None], size=(60, 2))
    >>> labels = graph.louvain(graph.fuzzy(graph.knn(x)), resolution=0.1)
    >>> np.bincount(labels).tolist()
    [30, 30]
    """
    with _igraph(random_state, "Louvain clustering") as igraph:
        found = _undirected(igraph, a).community_multilevel(weights="weight", resolution=resolution)
    return by_size(np.asarray(found.membership))[0]


def with_n_clusters(
    partition: Callable[..., np.ndarray], a: csr_matrix, k: int, *, random_state: int = 0, most: int = 20
) -> tuple[np.ndarray, float]:
    """Search the resolution at which a graph falls into k communities.

    Parameters
    ----------
    partition
        :func:`leiden` or :func:`louvain`.
    a
        Weights, (n, n), symmetric CSR.
    k
        Number of communities that is wanted.
    random_state
        Seed of every trial.
    most
        Trials; the number of communities need not hit `k`, as it can jump over it.

    Returns
    -------
    The partition with the number of communities nearest to `k`, (n,), int32 codes by size, and its resolution.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> x = np.random.default_rng(0).normal(np.repeat([0, 9, 20], 30)[:, None], size=(90, 2))
    >>> labels, _ = graph.with_n_clusters(graph.leiden, graph.fuzzy(graph.knn(x)), 3)
    >>> np.bincount(labels).tolist()
    [30, 30, 30]
    """
    low, high, resolution = 0.0, np.inf, 1.0
    best: tuple[int, np.ndarray, float] | None = None
    for _ in range(most):
        labels = partition(a, resolution=resolution, random_state=random_state)
        n = int(labels.max()) + 1
        if best is None or abs(n - k) < best[0]:
            best = abs(n - k), labels, resolution
        if n == k:
            break
        low, high = (resolution, high) if n < k else (low, resolution)
        resolution = 2 * resolution if np.isinf(high) else (low + high) / 2
    assert best is not None
    return best[1], best[2]


def kmeans(x: np.ndarray, k: int, *, n_init: int = 20, random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """k-means, the best of `n_init` starts, in one thread (more are not reproducible).

    Parameters
    ----------
    x
        Points, (n, d).
    k
        Number of clusters, at most n.
    n_init
        Starts.
    random_state
        Seed of the starts.

    Returns
    -------
    Cluster of each point, (n,), int32, 0 is the largest, and the centres in the same order, (k, d),
    float32.

    Raises
    ------
    InputError
        If `k` is below 1 or above n.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> labels, centers = graph.kmeans(np.array([[0.0], [1.0], [9.0]]), 2)
    >>> labels.tolist(), centers.tolist()
    ([0, 0, 1], [[0.5], [9.0]])
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    x = points(x, k)
    with threadpool_limits(limits=1):
        fitted = KMeans(n_clusters=k, n_init=n_init, random_state=random_state).fit(x)
    codes, order = by_size(fitted.labels_, k)
    return codes, fitted.cluster_centers_[order].astype(np.float32)


def points(x: np.ndarray, k: int) -> np.ndarray:
    """The points as float32, refusing a number of clusters that they cannot have."""
    if not 1 <= k <= len(x):
        msg = f"{k} clusters asked of {len(x)} cells; the number must lie between 1 and {len(x)}."
        raise InputError(msg)
    return np.ascontiguousarray(x, dtype=np.float32)


def choose_k(
    z: np.ndarray,
    *,
    how: str = "leiden",
    random_state: int = 0,
    n_neighbors: int = 20,
    resolution: float = 0.8,
) -> Choice:
    """Estimate the number of clusters from an embedding, without labels.

    Parameters
    ----------
    z
        Embedding, (n, d).
    how
        ``"leiden"``: the Leiden clusters of the neighbour graph that have at least max(10, 0.002 n)
        cells; smaller ones join the nearest centre. ``"stability"``: of ten resolutions from 0.2 to 2.0,
        the most clusters whose partition of five subsamples of 80 % agrees within 5 % as well as the most
        stable one. ``"scgnn"``: a share of the number of Louvain clusters (0.8 below 2,000 cells, else
        0.5), at least 2, filled by k-means.
    random_state
        Seed of partitions and subsamples.
    n_neighbors
        Size of a cell's neighbourhood, the cell included (as in scanpy).
    resolution
        Resolution of ``"leiden"`` (and of Louvain).

    Returns
    -------
    The number, a partition into that many clusters, and the table of candidates.

    Raises
    ------
    InputError
        If `how` is something else.
    MissingPackageError
        If igraph is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> x = np.random.default_rng(0).normal(np.repeat([0, 20, 40], 30)[:, None], size=(90, 2))
    >>> graph.choose_k(x, resolution=0.1).k
    3
    """
    one_of(how, ("leiden", "stability", "scgnn"), "`how`")
    z = np.ascontiguousarray(z, dtype=np.float32)
    if how == "stability":
        return _most_stable(z, n_neighbors, random_state)
    a = _neighbours(z, n_neighbors, random_state)
    if how == "scgnn":
        return _share_of_louvain(z, a, resolution, random_state)
    raw = leiden(a, resolution=resolution, random_state=random_state)
    labels = _merge_small(z, raw)
    k = int(labels.max()) + 1
    table = {"resolution": [resolution], "n_communities": [raw.max() + 1], "n_clusters": [k]}
    return Choice(k, labels, {name: np.asarray(column) for name, column in table.items()})


def _neighbours(z: np.ndarray, n_neighbors: int, random_state: int) -> csr_matrix:
    return fuzzy(knn(z, max(1, n_neighbors - 1), random_state=random_state))


def _merge_small(z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Give the cells of small clusters to the cluster with the nearest centre."""
    sizes = np.bincount(codes)
    n_kept = max(1, int(np.sum(sizes >= max(10, 0.002 * len(codes)))))  # codes are by size
    small = codes >= n_kept
    if not small.any():
        return codes
    centers = np.stack([z[codes == c].mean(axis=0) for c in range(n_kept)])
    squared = (centers**2).sum(axis=1) - 2 * z[small] @ centers.T
    codes = codes.copy()
    codes[small] = squared.argmin(axis=1)
    return by_size(codes)[0]


def _most_stable(z: np.ndarray, n_neighbors: int, random_state: int) -> Choice:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(random_state)
    n = len(z)
    subsamples = [np.sort(rng.choice(n, size=max(2, round(0.8 * n)), replace=False)) for _ in range(5)]
    graphs = [_neighbours(z[rows], n_neighbors, random_state) for rows in subsamples]
    a = _neighbours(z, n_neighbors, random_state)

    partitions, stability = [], []
    for resolution in RESOLUTIONS:
        partitions.append(_merge_small(z, leiden(a, resolution=resolution, random_state=random_state)))
        parts = np.full((len(subsamples), n), -1)
        for part, rows, graph in zip(parts, subsamples, graphs, strict=True):
            part[rows] = leiden(graph, resolution=resolution, random_state=random_state)
        scores = []
        for one, other in combinations(parts, 2):
            shared = (one >= 0) & (other >= 0)
            scores.append(adjusted_rand_score(one[shared], other[shared]))
        stability.append(np.mean(scores))

    n_clusters = np.array([labels.max() + 1 for labels in partitions])
    table = {"resolution": RESOLUTIONS.copy(), "n_clusters": n_clusters, "stability": np.array(stability)}
    chosen = _taken(n_clusters, table["stability"])
    table["taken"] = np.arange(len(n_clusters)) == chosen
    return Choice(int(n_clusters[chosen]), partitions[chosen], table)


def _taken(n_clusters: np.ndarray, stability: np.ndarray) -> int:
    """Position of the most clusters that are within 5 % as stable as the most stable number."""
    # One cluster agrees with itself by definition, so it sets no standard for the others.
    able = n_clusters > 1 if (n_clusters > 1).any() else np.full(len(n_clusters), True)
    stable = np.flatnonzero(able & (stability >= 0.95 * stability[able].max()))
    return int(stable[n_clusters[stable].argmax()])


def _share_of_louvain(z: np.ndarray, a: csr_matrix, resolution: float, random_state: int) -> Choice:
    n_communities = int(louvain(a, resolution=resolution, random_state=random_state).max()) + 1
    k = min(len(z), round(max(2, n_communities * (0.8 if len(z) < 2000 else 0.5))))
    labels, _ = kmeans(z, k, random_state=random_state)
    table = {"resolution": [resolution], "n_communities": [n_communities], "n_clusters": [k]}
    return Choice(k, labels, {name: np.asarray(column) for name, column in table.items()})
