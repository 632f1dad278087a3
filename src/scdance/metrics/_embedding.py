"""How well a space keeps known types apart: k-means or silhouettes in it against the truth.

Cells whose truth is missing (NaN, None or "") are left out before anything is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance import graph

from ._clustering import _codes, _finite_matrix, _known, _same_length, ari, nmi, silhouette
from ._metric import metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_matrix

N_NEIGHBORS = 15  # of a cell in a graph, itself counted
N_INIT = 10  # starts of k-means
DANCE_K, DANCE_N_INIT, DANCE_SEED = 10, 5, 200  # table 9 of DANCE, whatever the number of types


@metric(higher_is_better=True, range=(-0.5, 1.0))
def kmeans_ari(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """Adjusted Rand index of k-means in the embedding, with as many clusters as known types.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of the ten starts of k-means.

    Returns
    -------
    Score, -0.5 to 1; 0 is chance.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.kmeans_ari(["T", "T", "B", "B"], [[0.0], [0.1], [5.0], [5.1]])
    1.0
    """
    true, x = _labelled(truth, embedding)
    return ari(true, _kmeans_by_types(true, x, random_state))


@metric(higher_is_better=True, range=(0.0, 1.0))
def kmeans_nmi(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """Mutual information over the mean entropy, for k-means with as many clusters as known types.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of the ten starts of k-means.

    Returns
    -------
    Score, 0 to 1; chance is above 0.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.kmeans_nmi(["T", "T", "B", "B"], [[0.0], [0.1], [5.0], [5.1]])
    1.0
    """
    true, x = _labelled(truth, embedding)
    return nmi(true, _kmeans_by_types(true, x, random_state))


@metric(higher_is_better=True, range=(0.0, 1.0))
def asw(truth: ArrayLike, embedding: ArrayLike, *, random_state: int = 0) -> float:
    """Cell-type silhouette width brought to 0 to 1: (mean silhouette + 1) / 2.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    embedding
        Coordinates, (n_obs, n_dims), finite.
    random_state
        Seed of the 10,000 labelled cells that are drawn where there are more.

    Returns
    -------
    Score, 0 to 1; 0.5 where the types lie over each other, NaN for a single type or where every cell is its own.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.asw(["T", "T", "B", "B"], [[0.0], [0.0], [5.0], [5.0]])
    1.0
    """
    true, x = _labelled(truth, embedding)
    return (silhouette(x, true, random_state=random_state) + 1) / 2


@metric(higher_is_better=True, range=(-0.5, 1.0))
def dance_kmeans_ari(truth: ArrayLike, embedding: ArrayLike) -> float:
    """Adjusted Rand index of k-means with 10 clusters, whatever the number of types, as in DANCE.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite; at least 10 cells.

    Returns
    -------
    Score, -0.5 to 1; below 1 for another number of types than 10, however good the space. For comparison with
    published tables only; :func:`kmeans_ari` judges the space.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or fewer than 10 cells have a known truth.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> types = np.repeat(np.arange(10), 3)
    >>> sd.metrics.dance_kmeans_ari(types, types[:, None] * 5.0)
    1.0
    """
    true, x = _labelled(truth, embedding)
    return ari(true, _dance_kmeans(x))


@metric(higher_is_better=True, range=(0.0, 1.0))
def dance_kmeans_nmi(truth: ArrayLike, embedding: ArrayLike) -> float:
    """Mutual information over the larger entropy, for k-means with 10 clusters, as in DANCE.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out, also of the clustering.
    embedding
        Coordinates, (n_obs, n_dims), finite; at least 10 cells.

    Returns
    -------
    Score, 0 to 1; below 1 for another number of types than 10, however good the space. For comparison with
    published tables only; :func:`kmeans_nmi` judges the space.

    Raises
    ------
    InputError
        If the lengths differ, the embedding is not a finite matrix, or fewer than 10 cells have a known truth.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> types = np.repeat(np.arange(10), 3)
    >>> round(sd.metrics.dance_kmeans_nmi(types, types[:, None] * 5.0), 6)
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    true, x = _labelled(truth, embedding)
    return float(normalized_mutual_info_score(true, _dance_kmeans(x), average_method="max"))


def _labelled(truth: ArrayLike, embedding: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """Codes of the truth and coordinates of the cells whose truth is known."""
    x, codes = _finite_matrix(embedding), _codes(truth)
    _same_length(len(codes), len(x), "truth", "embedding")
    known = _known(codes)
    return codes[known], x[known]


def _neighbours(x: NDArray[np.floating]) -> csr_matrix:
    """Weights of the neighbour graph, (n_obs, n_obs) CSR, as of ``scanpy.pp.neighbors(n_neighbors=15)``."""
    return graph.fuzzy(graph.knn(x, N_NEIGHBORS - 1))


def _kmeans_by_types(true: NDArray[np.intp], x: NDArray[np.floating], random_state: int) -> NDArray[np.int32]:
    return graph.kmeans(x, len(np.unique(true)), n_init=N_INIT, random_state=random_state)[0]


def _dance_kmeans(x: NDArray[np.floating]) -> NDArray[np.int32]:
    return graph.kmeans(x, DANCE_K, n_init=DANCE_N_INIT, random_state=DANCE_SEED)[0]
