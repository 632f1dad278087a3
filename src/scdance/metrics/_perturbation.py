"""How near predicted responses to perturbations are to measured ones: means of cells, by perturbation and gene.

What the cells of any perturbation have in common is much of every response, and most genes do not respond at all. So
an error alone says little, and all is to be seen beside what predicts no change, or the mean of other perturbations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._metric import metric, tables

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@metric(higher_is_better=True, range=(-np.inf, 1.0))
def perturbation_skill(truth: ArrayLike, profile: ArrayLike, control: ArrayLike) -> float:
    """Share of the squared change against the control that is explained; 1 is the truth, 0 no better than no change.

    Parameters
    ----------
    truth
        Mean expression of the measured cells, (n_targets, n_genes).
    profile
        Predicted one, of the same shape.
    control
        Mean expression of the control cells, (n_genes,).

    Returns
    -------
    1 − squared error / squared change, both over all perturbations and genes, at most 1; below 0 where the control
    is nearer to the truth. NaN where nothing changes.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.perturbation_skill([[0.0, 2.0], [2.0, 0.0]], [[0.0, 2.0], [1.0, 1.0]], [1.0, 1.0])
    0.5
    """
    true, said = tables(truth, profile)
    change = float(((true - np.asarray(control, dtype=np.float64)) ** 2).sum())
    return 1 - float(((true - said) ** 2).sum()) / change if change else float("nan")


@metric(higher_is_better=False, range=(0.0, np.inf))
def perturbation_rmse(truth: ArrayLike, profile: ArrayLike) -> float:
    """Root mean squared error over the genes of a perturbation, mean over the perturbations; 0 is the truth.

    Parameters
    ----------
    truth
        Mean expression of the measured cells, (n_targets, n_genes).
    profile
        Predicted one, of the same shape.

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
    >>> sd.metrics.perturbation_rmse([[0.0, 0.0], [1.0, 1.0]], [[1.0, 1.0], [4.0, 4.0]])
    2.0
    """
    true, said = tables(truth, profile)
    return float(np.sqrt(((true - said) ** 2).mean(axis=1)).mean())


@metric(higher_is_better=False, range=(0.0, np.inf))
def perturbation_rmse_top(truth: ArrayLike, profile: ArrayLike, top: ArrayLike) -> float:
    """Root mean squared error over the genes that respond most, mean over the perturbations; 0 is the truth.

    Parameters
    ----------
    truth
        Mean expression of the measured cells, (n_targets, n_genes).
    profile
        Predicted one, of the same shape.
    top
        Positions of the genes of each perturbation that tell measured cells from control cells best, (n_targets, n).

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
    >>> sd.metrics.perturbation_rmse_top([[0.0, 3.0, 0.0]], [[9.0, 1.0, 9.0]], [[1]])
    2.0
    """
    true, said = tables(truth, profile)
    which = np.asarray(top, dtype=int)
    return perturbation_rmse(np.take_along_axis(true, which, 1), np.take_along_axis(said, which, 1))


@metric(higher_is_better=True, range=(-1.0, 1.0))
def change_pearson(truth: ArrayLike, change: ArrayLike, control: ArrayLike) -> float:
    """Pearson correlation of measured and predicted change over the genes, mean over the perturbations.

    Parameters
    ----------
    truth
        Mean expression of the measured cells, (n_targets, n_genes).
    change
        Predicted change from the control, of the same shape.
    control
        Mean expression of the control cells, (n_genes,).

    Returns
    -------
    Correlation, −1 to 1; a perturbation for which all genes change alike, as where none does, counts as 0.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.change_pearson([[1.0, 2.0, 4.0]], [[0.0, 2.0, 6.0]], [1.0, 1.0, 1.0]), 6)
    1.0
    """
    true, said = tables(truth, change)
    true = true - np.asarray(control, dtype=np.float64)
    true, said = (each - each.mean(axis=1, keepdims=True) for each in (true, said))
    norm = np.sqrt((true**2).sum(axis=1) * (said**2).sum(axis=1))
    return float(np.divide((true * said).sum(axis=1), norm, out=np.zeros_like(norm), where=norm > 0).mean())
