"""How well clusters match known types, and how well they part in a space.

Cells whose truth is missing (NaN, None or "") are left out. A cell without a cluster stays in, as a member of
one more cluster: leaving out the hard cells must not raise a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError

from ._metric import metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

MOST_CELLS = 10_000  # silhouette compares all pairs


@metric(higher_is_better=True, range=(-0.5, 1.0))
def ari(truth: ArrayLike, labels: ArrayLike) -> float:
    """Adjusted Rand index: share of cell pairs on which both agree; 0 is chance, 1 is the same partition.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Clusters, (n_obs,). Cells without one count as one more cluster.

    Returns
    -------
    Score, -0.5 to 1.

    Raises
    ------
    InputError
        If the lengths differ, two Series are indexed by different cells, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.ari(["T", "T", "B", "B"], ["0", "0", "1", "1"])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_comparable(truth, labels)))


@metric(higher_is_better=True, range=(0.0, 1.0))
def nmi(truth: ArrayLike, labels: ArrayLike) -> float:
    """Mutual information over the mean of both entropies; 1 is the same partition, chance is above 0.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Clusters, (n_obs,). Cells without one count as one more cluster.

    Returns
    -------
    Score, 0 to 1. It rises with the number of clusters; :func:`ami` corrects for that.

    Raises
    ------
    InputError
        If the lengths differ, two Series are indexed by different cells, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.nmi(["T", "T", "B", "B"], ["0", "0", "1", "2"]), 6)
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_comparable(truth, labels), average_method="arithmetic"))


@metric(higher_is_better=True, range=(-1.0, 1.0))
def ami(truth: ArrayLike, labels: ArrayLike) -> float:
    """Mutual information adjusted for chance: 0 is chance, 1 is the same partition.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Clusters, (n_obs,). Cells without one count as one more cluster.

    Returns
    -------
    Score, at most 1; slightly below 0 where worse than chance.

    Raises
    ------
    InputError
        If the lengths differ, two Series are indexed by different cells, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.ami(["T", "T", "B", "B"], ["1", "1", "0", "0"]), 6)
    1.0
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(*_comparable(truth, labels), average_method="arithmetic"))


@metric(higher_is_better=True, range=(0.0, 1.0))
def accuracy_matched(truth: ArrayLike, labels: ArrayLike) -> float:
    """Share of cells that are right under the best one-to-one match of clusters and types.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Clusters, (n_obs,). Cells without one count as one more cluster.

    Returns
    -------
    Score, 0 to 1; NaN unless there are as many clusters as types, for it would punish the number, not the
    partition.

    Raises
    ------
    InputError
        If the lengths differ, two Series are indexed by different cells, or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.accuracy_matched(["T", "T", "B", "B"], ["0", "0", "0", "1"])
    0.75
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(*_comparable(truth, labels))
    if counts.shape[0] != counts.shape[1]:
        return float("nan")
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


@metric(higher_is_better=True, range=(-1.0, 1.0))
def silhouette(embedding: ArrayLike, labels: ArrayLike, *, random_state: int = 0) -> float:
    """Mean silhouette width: how much nearer each cell lies to its own cluster than to the next one.

    Parameters
    ----------
    embedding
        Coordinates, (n_obs, n_dims). A space that did not make the clusters is the fairer judge, such as the
        PCA of the log-normalised counts.
    labels
        Clusters or types, (n_obs,). Cells without one count as one more cluster.
    random_state
        Seed of the 10,000 cells that are drawn where there are more.

    Returns
    -------
    Score, -1 to 1; NaN for a single cluster, or where every cell is its own.

    Raises
    ------
    InputError
        If the lengths differ, or the embedding is not a finite matrix.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.silhouette([[0.0], [1.0], [9.0], [10.0]], ["a", "a", "b", "b"]), 2)
    0.89
    """
    from sklearn.metrics import silhouette_score

    x, codes = _finite_matrix(embedding), _codes(labels)
    _same_length(len(x), len(codes), "embedding", "labels")
    if len(x) > MOST_CELLS:
        rows = np.random.default_rng(random_state).choice(len(x), MOST_CELLS, replace=False)
        x, codes = x[rows], codes[rows]
    if not 1 < len(np.unique(codes)) < len(codes):
        return float("nan")
    return float(silhouette_score(x, codes))


def _comparable(truth: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Codes of both on the cells whose truth is known."""
    _same_cells(truth, labels)
    true, found = _codes(truth), _codes(labels)
    _same_length(len(true), len(found), "truth", "labels")
    known = _known(true)
    return true[known], found[known]


def _known(codes: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which cells have a known truth, (n_obs,) bool; at least one must."""
    known = codes >= 0
    if not known.any():
        msg = f'The truth of all {len(codes)} cells is missing (NaN or ""); there is nothing to compare with.'
        raise InputError(msg)
    return known


def _finite_matrix(embedding: ArrayLike) -> NDArray[np.floating]:
    """The embedding as an array, (n_obs, n_dims), refused where a number is missing or infinite."""
    x = np.asarray(embedding)
    if x.ndim != 2:
        msg = f"The embedding must be a matrix of finite numbers, one row per cell; found shape {x.shape}."
        raise InputError(msg)
    holes = int((~np.isfinite(x).all(axis=1)).sum())
    if holes:
        msg = (
            f"The embedding must be a matrix of finite numbers, one row per cell; {holes} of {len(x)} rows have a "
            "NaN or an infinite number. Leave these cells out of both arguments."
        )
        raise InputError(msg)
    return x


def _codes(values: ArrayLike) -> NDArray[np.intp]:
    """Numbers for the different values; -1 where it is missing (NaN, None or "")."""
    import pandas as pd

    if np.ndim(values) != 1:
        msg = f"Labels must be one value per cell; found an array of shape {np.shape(values)}."
        raise InputError(msg)
    codes, found = pd.factorize(pd.Series(values))
    blank = np.flatnonzero([isinstance(value, str) and not value for value in found])
    return np.where(np.isin(codes, blank), -1, codes)


def _same_length(one: int, other: int, name: str, other_name: str) -> None:
    if one != other:
        msg = f"{name} has {one} cells and {other_name} has {other}; pass both for the same cells."
        raise InputError(msg)


def _same_cells(truth: Any, labels: Any) -> None:
    """Refuse two Series that name different cells, or the same in another order."""
    import pandas as pd

    if not (isinstance(truth, pd.Series) and isinstance(labels, pd.Series)):
        return
    if isinstance(truth.index, pd.RangeIndex) or isinstance(labels.index, pd.RangeIndex):
        return
    if len(truth) == len(labels) and not truth.index.equals(labels.index):
        msg = (
            "truth and labels are indexed by different cells, or in another order; "
            "pass labels.reindex(truth.index), or .to_numpy() of both if the order is right."
        )
        raise InputError(msg)
