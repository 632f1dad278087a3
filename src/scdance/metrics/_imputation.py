"""Scores of imputed expression on entries that the method has not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from scdance._checks import InputError
from scdance.pp import HeldOut, canonical

from ._metric import metric

ROWS = 1024


class _Hidden(NamedTuple):
    """Hidden non-zero entries, as many zeros drawn at random, and both together: truth and prediction."""

    truth: np.ndarray
    predicted: np.ndarray
    at_zeros: np.ndarray


def _matrices(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Counts, those that the method saw, and what was held out."""
    truth, observed = canonical(truth), canonical(observed)
    if truth.shape != observed.shape:
        msg = f"The truth has shape {truth.shape}, what was observed {observed.shape}; they must be the same cells."
        raise InputError(msg)
    held_out = canonical(truth - observed)
    if held_out.nnz == 0 or held_out.data.min() < 0:
        msg = (
            "Nothing was held out: what was observed must be the truth without some of its counts, as "
            "`scdance.tl.hold_out` makes it."
        )
        raise InputError(msg)
    return observed, held_out


def _thinned(observed: sp.csr_matrix, held_out: sp.csr_matrix) -> bool:
    """Whether molecules rather than whole entries were held out."""
    return bool(observed.multiply(held_out > 0).nnz)


def _hidden(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None
) -> _Hidden | None:
    """What the scores compare; None where single molecules were held out, or the prediction has another unit."""
    observed, held_out = _matrices(truth, observed)
    if logs is None or _thinned(observed, held_out):
        return None
    row = np.repeat(np.arange(held_out.shape[0]), np.diff(held_out.indptr))
    logs = np.asarray(logs)
    zero_row, zero_column = _zeros(observed, held_out, held_out.nnz)
    return _Hidden(
        np.log1p(held_out.data).astype(np.float64),
        logs[row, held_out.indices].astype(np.float64),
        logs[zero_row, zero_column].astype(np.float64),
    )


def _zeros(observed: sp.csr_matrix, held_out: sp.csr_matrix, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of `n` entries that are zero in truth, drawn at random, the same for every prediction."""
    n_obs, n_vars = observed.shape
    counts = canonical(observed + held_out)
    code = np.repeat(np.arange(n_obs), np.diff(counts.indptr)) * n_vars + counts.indices
    n = min(n, n_obs * n_vars - len(code))
    rng, found = np.random.default_rng(0), np.zeros(0, dtype=np.int64)
    while len(found) < n:
        drawn = rng.integers(n_obs * n_vars, size=2 * n)
        found = np.unique(np.concatenate([found, drawn[~np.isin(drawn, code)]]))
    found = rng.permutation(found)[:n]
    return found // n_vars, found % n_vars


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_nonzero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Root mean squared error of log(1 + count) on entries that were hidden, none of which is zero.

    The prediction must not know that they are not zero; what does is scored by :func:`rmse_known_nonzero`.

    Parameters
    ----------
    truth
        Counts, (n_obs, n_vars), dense or sparse.
    observed
        What the method saw: the same with hidden entries set to zero.
    logs
        Predicted log(1 + count), (n_obs, n_vars); None: there is no such prediction.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth = np.array([[3.0, 1.0], [2.0, 0.0]])
    >>> seen = np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> round(sd.metrics.rmse_nonzero(truth, seen, np.log1p(seen + 1)), 3)
    0.693
    """
    hidden = _hidden(truth, observed, logs)
    return float("nan") if hidden is None else _rmse(hidden.truth - hidden.predicted)


@metric(higher_is_better=False, range=(0.0, float("inf")))
def mae_nonzero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Mean absolute error of log(1 + count) on entries that were hidden, none of which is zero.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> round(sd.metrics.mae_nonzero(truth, seen, np.log1p(seen)), 3)
    1.386
    """
    hidden = _hidden(truth, observed, logs)
    return float("nan") if hidden is None else float(np.abs(hidden.truth - hidden.predicted).mean())


@metric(higher_is_better=True, range=(-1.0, 1.0))
def pearson_nonzero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Correlation of predicted and true log(1 + count) over entries that were hidden, none of which is zero.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`.

    Returns
    -------
    Correlation over all genes and cells together; NaN without a prediction, where single molecules were held out, or
    where one of both does not vary.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    >>> round(sd.metrics.pearson_nonzero(truth, seen, np.log1p(truth)), 3)
    1.0
    """
    hidden = _hidden(truth, observed, logs)
    if hidden is None:
        return float("nan")
    x, y = hidden.truth - hidden.truth.mean(), hidden.predicted - hidden.predicted.mean()
    return _ratio(float(x @ y), float(np.sqrt((x @ x) * (y @ y))))


@metric(higher_is_better=True, range=(-1.0, 1.0))
def cosine_nonzero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Cosine of predicted and true log(1 + count) over entries that were hidden, none of which is zero.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`.

    Returns
    -------
    Cosine over all genes and cells together; NaN without a prediction, where single molecules were held out, or where
    the prediction is 0 everywhere.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 0.0]])
    >>> round(sd.metrics.cosine_nonzero(truth, seen, np.ones((2, 2))), 3)
    0.993
    """
    hidden = _hidden(truth, observed, logs)
    if hidden is None:
        return float("nan")
    x, y = hidden.truth, hidden.predicted
    return _ratio(float(x @ y), float(np.sqrt((x @ x) * (y @ y))))


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_zero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Root mean squared log(1 + count) that is predicted at zeros, as many as entries were hidden: what is made up.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`. The zeros are drawn at random among those of the truth, by a fixed seed.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> sd.metrics.rmse_zero(truth, seen, np.ones((2, 2)))
    1.0
    """
    hidden = _hidden(truth, observed, logs)
    return float("nan") if hidden is None else _rmse(hidden.at_zeros)


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_both(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Root mean squared error of log(1 + count) on hidden entries and as many zeros.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`. The zeros are drawn at random among those of the truth, by a fixed seed.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> sd.metrics.rmse_both(truth, seen, np.log1p(truth))
    0.0
    """
    hidden = _hidden(truth, observed, logs)
    if hidden is None:
        return float("nan")
    return _rmse(np.concatenate([hidden.truth - hidden.predicted, hidden.at_zeros]))


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_known_nonzero(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs_of_nonzero: ArrayLike | None
) -> float:
    """Root mean squared error of log(1 + count) on hidden entries, of which the prediction knows that none is zero.

    Not to be compared with :func:`rmse_nonzero`: knowing that an entry is not zero is much of the answer.

    Parameters
    ----------
    truth, observed
        As in :func:`rmse_nonzero`.
    logs_of_nonzero
        Predicted log(1 + count) of entries that are not zero, (n_obs, n_vars); None: there is no such prediction.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.0], [2.0, 0.0]])
    >>> round(sd.metrics.rmse_known_nonzero(truth, seen, np.log1p(np.full((2, 2), 2.0))), 3)
    0.288
    """
    return rmse_nonzero(truth, observed, logs_of_nonzero)


@metric(higher_is_better=False, range=(0.0, float("inf")))
def poisson_loss(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, rates: ArrayLike | None) -> float:
    """Mean negative log-likelihood of held-out molecules, were they Poisson with the predicted rates.

    Parameters
    ----------
    truth
        Counts, (n_obs, n_vars), dense or sparse.
    observed
        What the method saw: the same without some of the molecules.
    rates
        Expected counts at the depth of what was observed, (n_obs, n_vars); None: there is no such prediction. They
        are scaled to the share that was held out; below 1e-8 they count as 1e-8.

    Returns
    -------
    Mean over all entries, in nats; NaN without a prediction, or where whole entries were hidden.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[2.0, 1.0], [1.0, 0.0]])
    >>> round(sd.metrics.poisson_loss(truth, seen, seen), 3)
    0.847
    """
    scores = _scored(truth, observed, rates)
    return float("nan") if scores is None else scores.loss


@metric(higher_is_better=False, range=(-1.0, float("inf")))
def poisson_gain(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, rates: ArrayLike | None) -> float:
    """Poisson loss of held-out molecules relative to that of the mean share of each gene times the depth of the cell.

    Parameters
    ----------
    truth, observed, rates
        As in :func:`poisson_loss`.

    Returns
    -------
    Relative change: −0.15 is a loss 15 % smaller, 0 is as if cells did not differ; NaN without a prediction, or where
    whole entries were hidden.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 0.0]]), np.array([[2.0, 1.0], [1.0, 0.0]])
    >>> rates = np.outer(seen.sum(axis=1), seen.sum(axis=0)) / seen.sum()
    >>> round(abs(sd.metrics.poisson_gain(truth, seen, rates)), 6)
    0.0
    """
    scores = _scored(truth, observed, rates)
    return float("nan") if scores is None else scores.gain


def _scored(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, rates: ArrayLike | None
) -> HeldOut | None:
    observed, held_out = _matrices(truth, observed)
    if rates is None or not _thinned(observed, held_out):
        return None
    rates, scores = np.asarray(rates), HeldOut(observed, held_out)
    for start in range(0, len(rates), ROWS):
        rows = slice(start, min(start + ROWS, len(rates)))
        scores.add(rows, rates[rows])
    return scores


def _rmse(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else float("nan")
