"""How near a predicted modality is to what was measured, over all cells and features that were asked.

Zeros are measured values and count as such. The mean of each feature over the cells that taught is the predictor to
beat, since an error alone says little: of sparse targets the mean is nearly as good as the best.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError

from ._metric import metric

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

ROWS = 1024  # made dense at once


@metric(higher_is_better=True, range=(-np.inf, 1.0))
def skill(truth: ArrayLike, prediction: ArrayLike, mean: ArrayLike) -> float:
    """Share of the mean predictor's squared error that is explained; 1 is the truth, 0 no better than the mean.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.
    mean
        Mean of each feature over the cells that taught, (n_features,).

    Returns
    -------
    1 − error / error of the mean, at most 1; below 0 where the mean is better. NaN where the mean makes no error.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.skill([[0.0, 2.0], [2.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]], [1.0, 1.0])
    0.5
    """
    mean = np.asarray(mean, dtype=np.float64)
    of_it = of_mean = 0.0
    for true, said in _blocks(truth, prediction):
        of_it += float(((true - said) ** 2).sum())
        of_mean += float(((true - mean) ** 2).sum())
    return 1 - of_it / of_mean if of_mean else float("nan")


@metric(higher_is_better=False, range=(0.0, np.inf))
def modality_rmse(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Root mean squared error over all cells and features, zeros included; 0 is the truth.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Error, at least 0, in the unit of the values.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.modality_rmse([[0.0, 2.0]], [[0.0, 0.0]])
    1.4142135623730951
    """
    return float(np.sqrt(_mean_of(truth, prediction, lambda off: off**2)))


@metric(higher_is_better=False, range=(0.0, np.inf))
def modality_mae(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean absolute error over all cells and features, zeros included; 0 is the truth.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Error, at least 0, in the unit of the values.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.modality_mae([[0.0, 2.0]], [[0.0, 0.0]])
    1.0
    """
    return _mean_of(truth, prediction, np.abs)


@metric(higher_is_better=True, range=(-1.0, 1.0))
def modality_pearson(truth: ArrayLike, prediction: ArrayLike) -> float:
    """Mean over cells of the correlation over features; 1 has the features of every cell in proportion.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.

    Returns
    -------
    Correlation, -1 to 1. A cell whose values are all the same in either counts 0. Features differ in their means, so
    the mean predictor scores high too.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.modality_pearson([[0.0, 1.0, 2.0]], [[1.0, 3.0, 5.0]]), 6)
    1.0
    """
    total, n = 0.0, 0
    for true, said in _blocks(truth, prediction):
        true = true - true.mean(axis=1, keepdims=True)
        said = said - said.mean(axis=1, keepdims=True)
        norm = np.sqrt((true**2).sum(axis=1) * (said**2).sum(axis=1))
        total += float(np.divide((true * said).sum(axis=1), norm, out=np.zeros_like(norm), where=norm > 0).sum())
        n += len(true)
    return total / n


@metric(higher_is_better=True, range=(0.0, 1.0))
def interval_coverage(truth: ArrayLike, prediction: ArrayLike, half_width: ArrayLike) -> float:
    """Share of the measured values that lie in the interval of their feature; it should be what was asked for.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.
    half_width
        Half the width of each feature's interval, (n_features,).

    Returns
    -------
    Share, 0 to 1. Score the cells of one batch at a time to see where it falls short.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.interval_coverage([[0.0, 2.0], [3.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]], [1.0, 1.0])
    0.75
    """
    half_width = np.asarray(half_width, dtype=np.float64)
    return _mean_of(truth, prediction, lambda off: np.abs(off) <= half_width)


def _mean_of(truth: Any, prediction: Any, of: Any) -> float:
    """Mean of a function of the errors over all entries."""
    total, n = 0.0, 0
    for true, said in _blocks(truth, prediction):
        total += float(of(true - said).sum())
        n += true.size
    return total / n


def _blocks(truth: Any, prediction: Any) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Rows of both, dense, 1,024 at a time."""
    both: list[Any] = [truth, prediction]
    both = [each.tocsr() if hasattr(each, "tocsr") else np.atleast_2d(np.asarray(each)) for each in both]
    if both[0].shape != both[1].shape or 0 in both[0].shape:
        msg = f"The truth has shape {both[0].shape}, the prediction {both[1].shape}: expected the same, and not empty."
        raise InputError(msg)
    for start in range(0, both[0].shape[0], ROWS):
        rows = [each[start : start + ROWS] for each in both]
        true, said = (np.asarray(each.toarray() if hasattr(each, "toarray") else each, np.float64) for each in rows)
        yield true, said


def skill_of_features(truth: ArrayLike, prediction: ArrayLike, mean: ArrayLike) -> NDArray[np.float64]:
    """Skill of each feature by itself: the share of the mean predictor's squared error that is explained.

    Parameters
    ----------
    truth
        Measured values, (n_obs, n_features), dense or CSR, in the unit of the prediction.
    prediction
        Predicted ones, of the same shape.
    mean
        Mean of each feature over the cells that taught, (n_features,).

    Returns
    -------
    (n_features,), at most 1; NaN for a feature whose mean makes no error.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.skill_of_features([[0.0, 2.0], [2.0, 0.0]], [[0.0, 1.0], [2.0, 1.0]], [1.0, 1.0]).tolist()
    [1.0, 0.0]
    """
    mean = np.asarray(mean, dtype=np.float64)
    of_it, of_mean = np.zeros(len(mean)), np.zeros(len(mean))
    for true, said in _blocks(truth, prediction):
        of_it += ((true - said) ** 2).sum(axis=0)
        of_mean += ((true - mean) ** 2).sum(axis=0)
    return 1 - np.divide(of_it, of_mean, out=np.full(len(mean), np.nan), where=of_mean > 0)
