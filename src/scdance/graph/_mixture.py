"""Gaussian mixtures of cells, always with the largest component first."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._partition import by_size, points

WARD_UP_TO = 1000  # points: the tree of Ward takes memory with the square, so that of more is made from a sample
TOL = 2e-4  # gain of the mean log-likelihood below which a start has converged
RIDGE = 1.5e-4  # on the diagonal of the shared covariance, as part of the mean variance


def mixture(
    x: np.ndarray, k: int, *, n_init: int = 5, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixture of k Gaussians with diagonal covariance, the best of `n_init` starts.

    Parameters
    ----------
    x
        Points, (n, d).
    k
        Number of components, at most n.
    n_init
        Starts.
    random_state
        Seed of the starts.

    Returns
    -------
    Most probable component of each point, (n,), int32, 0 is the largest; the means, (k, d), and the
    probabilities, (n, k), rows sum to 1, both float32 and in the same order.

    Raises
    ------
    InputError
        If `k` is below 1 or above n.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> x = np.random.default_rng(0).normal(np.repeat([0, 20], [40, 20])[:, None], size=(60, 2))
    >>> labels, means, proba = graph.mixture(x, 2)
    >>> np.bincount(labels).tolist(), means.shape, proba.shape
    ([40, 20], (2, 2), (60, 2))
    """
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    x = points(x, k).astype(np.float64)  # the log-densities of hundreds of dimensions are long sums
    model = GaussianMixture(k, covariance_type="diag", n_init=n_init, max_iter=1000, random_state=random_state)
    with threadpool_limits(limits=1):
        return _by_size(model.fit(x), x, k)


def tied_mixture(
    x: np.ndarray, k: int, *, n_init: int = 10, random_state: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mixture of k Gaussians that share one full covariance, the likeliest of `n_init` starts.

    Components of equal shape that may lie along any direction: what layers of a tissue look like in a latent space
    that varies smoothly along them. The first two starts are Ward's partitions (of 1,000 points, the others going to
    the nearest mean), the others k-means; every other start is found among whitened points, where thin layers lie
    as far apart as they are long.

    Parameters
    ----------
    x
        Points, (n, d).
    k
        Number of components, at most n.
    n_init
        Starts.
    random_state
        Seed of the starts.

    Returns
    -------
    Most probable component of each point, (n,), int32, 0 is the largest; the means, (k, d), and the
    probabilities, (n, k), rows sum to 1, both float32 and in the same order.

    Raises
    ------
    InputError
        If `k` is below 1 or above n.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(90, 2)) * [9, 0.3] + np.repeat([[0, 0], [0, 4]], [60, 30], axis=0)  # two long layers
    >>> np.bincount(graph.tied_mixture(x, 2)[0]).tolist()
    [60, 30]
    """
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits

    x = points(x, k).astype(np.float64)
    ridge = RIDGE * max(float(x.var(axis=0).mean()), np.finfo(float).tiny)
    best: Any = None
    with threadpool_limits(limits=1):
        for i in range(n_init):
            given, seed = (x, _whitened(x, ridge))[i % 2], random_state + i
            labels = _ward(given, k, seed) if i < 2 else KMeans(k, n_init=1, random_state=seed).fit(given).labels_
            start = _start(x, labels, k, ridge)
            how = {"covariance_type": "tied", "reg_covar": ridge, "tol": TOL, "max_iter": 1000}
            model = GaussianMixture(k, **how, random_state=random_state, **start).fit(x)
            if best is None or model.lower_bound_ > best.lower_bound_:
                best = model
        return _by_size(best, x, k)


def _whitened(x: np.ndarray, ridge: float) -> np.ndarray:
    """The points with unit covariance."""
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], -1) + ridge * np.eye(x.shape[1]))
    return x @ (vectors / np.sqrt(values))


def _ward(x: np.ndarray, k: int, random_state: int) -> np.ndarray:
    """Ward's partition into k clusters, that of a sample where there are many points."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.neighbors import NearestCentroid

    if k == 1:
        return np.zeros(len(x), dtype=int)
    tree = AgglomerativeClustering(n_clusters=k)
    if len(x) <= max(WARD_UP_TO, 2 * k):
        return tree.fit_predict(x)
    some = x[np.random.default_rng(random_state).choice(len(x), max(WARD_UP_TO, 2 * k), replace=False)]
    return NearestCentroid().fit(some, tree.fit_predict(some)).predict(x)


def _start(x: np.ndarray, labels: np.ndarray, k: int, ridge: float) -> dict[str, np.ndarray]:
    """Weights, means and shared precision of a partition."""
    n = np.bincount(labels, minlength=k)
    means = np.stack([x[labels == j].mean(axis=0) for j in range(k)])
    off = x - means[labels]
    covariance = off.T @ off / len(x) + ridge * np.eye(x.shape[1])
    return {"weights_init": n / n.sum(), "means_init": means, "precisions_init": np.linalg.inv(covariance)}


def _by_size(model: Any, x: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, means and probabilities of a fitted mixture, the largest component first."""
    proba = model.predict_proba(x)
    codes, order = by_size(proba.argmax(axis=1), k)
    return codes, model.means_[order].astype(np.float32), proba[:, order].astype(np.float32)
