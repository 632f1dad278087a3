"""Scores of imputed expression on entries that the method has not seen."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike

from scdance._checks import InputError, whole_number
from scdance.pp import HeldOut, canonical

from ._clustering import _codes, _same_length
from ._metric import metric

ROWS = 1024
LEAST_FOLD = 0.25  # log fold change from which a gene is a marker: the ratio to a smaller one is noise
DEPTH = 250.0  # as that of cells of a tissue with some hundred genes, and of the published numbers
WHOLE = 1e-3  # how far a difference of counts in float32 may be from a whole number


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
    if held_out.nnz == 0:
        msg = "Nothing was held out: truth and observed counts are the same. Hide some with `scdance.tl.hold_out`."
        raise InputError(msg)
    has_fractions = (np.abs(held_out.data - np.rint(held_out.data)) > WHOLE).any()
    if held_out.data.min() < 0 or (has_fractions and _thinned(observed, held_out)):
        msg = (
            "What was observed is not the truth without some of its counts: one of both was changed, perhaps "
            "normalised, since `scdance.tl.hold_out` made it. Pass raw counts as the truth."
        )
        raise InputError(msg)
    return observed, held_out


def _dense(values: Any) -> np.ndarray:
    dense: np.ndarray = cast("Any", values).toarray() if sp.issparse(values) else np.asarray(values)
    return dense


def _prediction(given: ArrayLike | sp.spmatrix, shape: tuple[int, ...]) -> np.ndarray:
    values = _dense(given)
    if values.shape != shape:
        msg = f"The prediction has shape {values.shape}, the truth {shape}; they must be the same cells and genes."
        raise InputError(msg)
    return values


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
    logs = _prediction(logs, observed.shape)
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
    code = np.repeat(np.arange(n_obs, dtype=np.int64), np.diff(counts.indptr)) * n_vars + counts.indices
    n_zeros = n_obs * n_vars - len(code)
    drawn = np.random.default_rng(0).choice(n_zeros, min(n, n_zeros), replace=False, shuffle=False)
    # before the i-th count lie code[i] − i zeros, so this many counts lie before a zero
    found = drawn + np.searchsorted(code - np.arange(len(code)), drawn, side="right")
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
    return _cosine(hidden.truth - hidden.truth.mean(), hidden.predicted - hidden.predicted.mean())


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
    return _cosine(hidden.truth, hidden.predicted)


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_zero(truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs: ArrayLike | None) -> float:
    """Root mean squared log(1 + count) that is predicted at zeros, as many as entries were hidden: what is made up.

    Parameters
    ----------
    truth, observed, logs
        As in :func:`rmse_nonzero`. The zeros are drawn at random among those of the truth, by a fixed seed.

    Returns
    -------
    Error in units of log(1 + count); NaN without a prediction or a zero, or where single molecules were held out.

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
    >>> round(sd.metrics.rmse_both(truth, seen, np.log1p(truth)), 6)
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


def _masked(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs_at_250: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Truth and prediction of the entries that were hidden, zeros included; None where the prediction has another unit.

    A zero that is hidden looks like one that is not, so which ones were is drawn here, as many as of the others.
    """
    observed, held_out = _matrices(truth, observed)
    if logs_at_250 is None or _thinned(observed, held_out):
        return None
    logs = _prediction(logs_at_250, observed.shape)
    scale = DEPTH / np.maximum(np.asarray(observed.sum(axis=1, dtype=np.float64)).ravel(), 1e-12)
    row = np.repeat(np.arange(held_out.shape[0]), np.diff(held_out.indptr))
    n_there = held_out.nnz + observed.nnz
    n_zeros = round((np.prod(observed.shape, dtype=float) - n_there) * held_out.nnz / n_there)
    zero_row, zero_column = _zeros(observed, held_out, n_zeros)
    values = np.concatenate([np.log1p(held_out.data * scale[row]), np.zeros(len(zero_row))])
    found = np.concatenate([logs[row, held_out.indices], logs[zero_row, zero_column]])
    return values, found.astype(np.float64)


@metric(higher_is_better=False, range=(0.0, float("inf")))
def rmse_masked(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs_at_250: ArrayLike | None
) -> float:
    """Root mean squared error of log(1 + count at a depth of 250) on hidden entries, zeros included [Wen2023]_.

    The depth of a cell is that of what was seen, for nothing else is known of it.

    Parameters
    ----------
    truth
        Counts, (n_obs, n_vars), dense or sparse.
    observed
        What the method saw: the same with hidden entries set to zero. Of the zeros the same share is drawn by a fixed
        seed, as hidden ones look like the others.
    logs_at_250
        Predicted log(1 + 250 · count / depth), (n_obs, n_vars); None: there is no such prediction.

    Returns
    -------
    Error in units of the logarithm; NaN without a prediction, or where single molecules were held out.

    Raises
    ------
    InputError
        If the shapes differ, or nothing was held out.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> truth, seen = np.array([[3.0, 1.0], [250.0, 0.0]]), np.array([[0.0, 1.0], [250.0, 0.0]])
    >>> round(sd.metrics.rmse_masked(truth, seen, np.zeros((2, 2))), 3)
    6.621
    """
    given = _masked(truth, observed, logs_at_250)
    return float("nan") if given is None else _rmse(given[0] - given[1])


@metric(higher_is_better=True, range=(-1.0, 1.0))
def pearson_masked(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs_at_250: ArrayLike | None
) -> float:
    """Correlation of predicted and true log(1 + count at a depth of 250) over hidden entries, zeros included.

    Parameters
    ----------
    truth, observed, logs_at_250
        As in :func:`rmse_masked`.

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
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 2.0]])
    >>> round(sd.metrics.pearson_masked(truth, seen, np.array([[2.0, 0.0], [1.0, 0.0]])), 3)
    1.0
    """
    given = _masked(truth, observed, logs_at_250)
    return float("nan") if given is None else _cosine(*(each - each.mean() for each in given))


@metric(higher_is_better=True, range=(-1.0, 1.0))
def cosine_masked(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, logs_at_250: ArrayLike | None
) -> float:
    """Cosine of predicted and true log(1 + count at a depth of 250) over hidden entries, zeros included.

    Parameters
    ----------
    truth, observed, logs_at_250
        As in :func:`rmse_masked`.

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
    >>> truth, seen = np.array([[3.0, 1.0], [2.0, 2.0]]), np.array([[0.0, 1.0], [0.0, 2.0]])
    >>> round(sd.metrics.cosine_masked(truth, seen, np.ones((2, 2))), 3)
    0.996
    """
    given = _masked(truth, observed, logs_at_250)
    return float("nan") if given is None else _cosine(*given)


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
    0.673
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


@metric(higher_is_better=False, range=(-1.0, 1.0))
def correlation_inflation(
    before: ArrayLike | sp.spmatrix,
    after: ArrayLike | sp.spmatrix | None,
    *,
    n_genes: int = 200,
    random_state: int = 0,
) -> float:
    """Mean absolute correlation of genes drawn at random after imputation, less that before it.

    Averaging over similar cells makes all genes follow the same few axes of variation: what rises by much more than
    the noise can hide is made up, so a large value is an alarm of too much smoothing.

    Parameters
    ----------
    before, after
        Log-normalised values that the method saw and that it gave, (n_obs, n_vars), dense or sparse, finite. None:
        there are no such values.
    n_genes
        Genes that are drawn among those that vary before and after, at least 2; all pairs of them are compared.
    random_state
        Seed of the draw.

    Returns
    -------
    Difference of the mean absolute correlations (Pearson): 0 as if nothing was imputed, near 1 if all genes follow
    one axis; NaN without a prediction, or where fewer than two genes vary.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, or `n_genes` is below 2.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> rng = np.random.default_rng(0)
    >>> before, axis = rng.random((300, 5)), rng.random((300, 1))
    >>> round(sd.metrics.correlation_inflation(before, axis * np.arange(1, 6)), 1)
    1.0
    """
    whole_number(n_genes, "n_genes", least=2)
    if after is None:
        return float("nan")
    before, after = _values(before, after)
    genes = np.flatnonzero(_varies(before) & _varies(after))
    if len(genes) < 2:
        return float("nan")
    if len(genes) > n_genes:
        genes = np.random.default_rng(random_state).choice(genes, n_genes, replace=False)
    return _mean_correlation(after[:, genes]) - _mean_correlation(before[:, genes])


@metric(higher_is_better=False, range=(float("-inf"), float("inf")))
def marker_inflation(
    labels: ArrayLike, before: ArrayLike | sp.spmatrix, after: ArrayLike | sp.spmatrix | None, *, n_markers: int = 20
) -> float:
    """Log fold change of the markers of groups after imputation, relative to that before it.

    The fold change of a gene is that of its mean, of counts per 10,000 with 1 added to each, in a group over that in
    all other cells. A method that keeps the means of the groups keeps it, however much it smooths within them; one
    that moves them apart makes every test between them too sure.

    Parameters
    ----------
    labels
        Group of each cell, (n_obs,). Cells where it is NaN, None or "" are left out.
    before, after
        Log-normalised values that the method saw and that it gave, log(1 + counts per 10,000), (n_obs, n_vars), dense
        or sparse, finite. None: there are no such values.
    n_markers
        Genes of each group, those with the largest fold change before, of those above e^0.25. As they are the largest
        they contain some luck, so a little less than 1 is what an honest method gives.

    Returns
    -------
    Median over the markers of all groups of the ratio of log fold changes, after to before: 1 is unchanged, above 1
    is inflated, below 1 is shrunk; NaN without a prediction, or where no gene is a marker.

    Raises
    ------
    InputError
        If the shapes differ, a value is not finite, `n_markers` is below 1, or there are fewer than two groups.

    Examples
    --------
    >>> import numpy as np
    >>> import scdance as sd
    >>> before = np.log1p([[8.0, 1.0], [6.0, 1.0], [0.0, 2.0], [2.0, 2.0]])
    >>> means = np.log1p([[7.0, 1.0], [7.0, 1.0], [1.0, 2.0], [1.0, 2.0]])
    >>> round(sd.metrics.marker_inflation(["B", "B", "T", "T"], before, means), 6)
    1.0
    """
    whole_number(n_markers, "n_markers", least=1)
    if after is None:
        return float("nan")
    before, after = _values(before, after)
    codes = _codes(labels)
    _same_length(len(codes), len(before), "labels", "before")
    known = codes >= 0
    groups = np.unique(codes[known])
    if len(groups) < 2:
        msg = f"There is {len(groups)} group among the cells with a label; at least 2 are needed."
        raise InputError(msg)
    first, second = np.expm1(before[known]), np.expm1(after[known])
    ratios = []
    for group in groups:
        inside = codes[known] == group
        one, other = _fold_change(first, inside), _fold_change(second, inside)
        markers = np.argsort(-one, kind="stable")[:n_markers]
        markers = markers[one[markers] > LEAST_FOLD]
        ratios.append(other[markers] / one[markers])
    found = np.concatenate(ratios)
    return float(np.median(found)) if len(found) else float("nan")


def _values(before: ArrayLike | sp.spmatrix, after: ArrayLike | sp.spmatrix) -> tuple[np.ndarray, np.ndarray]:
    """Both matrices, dense float64."""
    both = [_dense(x) for x in (before, after)]
    if both[0].ndim != 2 or both[0].shape != both[1].shape:
        msg = f"Values have shape {both[0].shape} before and {both[1].shape} after; they must be the same cells."
        raise InputError(msg)
    n_bad = int(sum((~np.isfinite(x)).sum() for x in both))
    if n_bad:
        msg = f"{n_bad} values are NaN or infinite. Leave these genes or cells out before and after."
        raise InputError(msg)
    return both[0].astype(np.float64), both[1].astype(np.float64)


def _varies(x: np.ndarray) -> np.ndarray:
    """Whether a gene varies by more than the rounding of float32, (n_vars,) bool."""
    return x.std(axis=0) > 1e-5 * np.abs(x).mean(axis=0)


def _mean_correlation(x: np.ndarray) -> float:
    """Mean |r| over all pairs of columns."""
    r = np.abs(np.corrcoef(x, rowvar=False))
    return float(r[np.triu_indices(len(r), 1)].mean())


def _fold_change(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Log fold change of each gene in some cells over the others, (n_vars,)."""
    return np.log1p(x[inside].mean(axis=0)) - np.log1p(x[~inside].mean(axis=0))


def _scored(
    truth: ArrayLike | sp.spmatrix, observed: ArrayLike | sp.spmatrix, rates: ArrayLike | None
) -> HeldOut | None:
    observed, held_out = _matrices(truth, observed)
    if rates is None or not _thinned(observed, held_out):
        return None
    rates, scores = _prediction(rates, observed.shape), HeldOut(observed, held_out)
    for start in range(0, len(rates), ROWS):
        rows = slice(start, min(start + ROWS, len(rates)))
        scores.add(rows, rates[rows])
    return scores


def _rmse(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error)))) if len(error) else float("nan")


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    norms = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norms if norms > 0 else float("nan")
