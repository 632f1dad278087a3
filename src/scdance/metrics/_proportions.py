"""How well estimated proportions match known ones, such as those of cell types in the spots of a tissue.

Two DataFrames are matched by name: columns are types, rows are spots. A type that the result lacks was
estimated as 0, one that the truth lacks is 0 there. A spot with NaN in either is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, listed

from ._metric import metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray


@metric(higher_is_better=False, range=(0.0, 1.0))
def rmse(truth: pd.DataFrame | ArrayLike, proportions: pd.DataFrame | ArrayLike) -> float:
    """Root mean squared error over all spots and types; 0 is the truth.

    Parameters
    ----------
    truth
        Known proportions, (n_spots, n_types), 0 to 1: a DataFrame whose columns are types, or an array.
    proportions
        Estimated ones, matched by name if both are DataFrames, else an array of the same shape.

    Returns
    -------
    Error, 0 to 1, in units of proportion. It falls with the number of types, so compare it on one data set only.

    Raises
    ------
    InputError
        If the shapes differ, the spots are not the same, or no spot is known in both.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.rmse([[1.0, 0.0], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]])
    0.1414213562373095
    """
    true, found, _ = _comparable(truth, proportions)
    return float(np.sqrt(np.mean((true - found) ** 2)))


@metric(higher_is_better=False, range=(0.0, 1.0))
def jsd(truth: pd.DataFrame | ArrayLike, proportions: pd.DataFrame | ArrayLike) -> float:
    """Mean Jensen-Shannon divergence of the spots, in bits: 0 is the truth, 1 shares no type with it.

    Parameters
    ----------
    truth
        Known proportions, (n_spots, n_types), at least 0: a DataFrame whose columns are types, or an array.
        Every row is divided by its sum.
    proportions
        Estimated ones, matched by name if both are DataFrames, else an array of the same shape.

    Returns
    -------
    Divergence, 0 to 1; a spot whose row is all zeros in either counts 1.

    Raises
    ------
    InputError
        If a value is negative, the shapes differ, the spots are not the same, or no spot is known in both.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.jsd([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]])
    0.5
    """
    true, found, _ = _comparable(truth, proportions)
    return float(_divergence(true, found).mean())


@metric(higher_is_better=True, range=(-1.0, 1.0))
def pearson(truth: pd.DataFrame | ArrayLike, proportions: pd.DataFrame | ArrayLike) -> float:
    """Mean over types of the correlation over spots; 1 has every type in the right places.

    Parameters
    ----------
    truth
        Known proportions, (n_spots, n_types): a DataFrame whose columns are types, or an array.
    proportions
        Estimated ones, matched by name if both are DataFrames, else an array of the same shape.

    Returns
    -------
    Correlation, -1 to 1. A type that is estimated the same everywhere counts 0; one that truly is the same
    everywhere, such as one that does not occur, is left out. NaN if that leaves none.

    Raises
    ------
    InputError
        If the shapes differ, the spots are not the same, or no spot is known in both.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.pearson([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], [[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]), 6)
    1.0
    """
    true, found, _ = _comparable(truth, proportions)
    return _mean_of_defined(_correlation(true, found))


@metric(higher_is_better=True, range=(0.0, 1.0))
def auprc(truth: pd.DataFrame | ArrayLike, proportions: pd.DataFrame | ArrayLike) -> float:
    """Mean over types of the average precision of finding the spots where the type is present.

    Parameters
    ----------
    truth
        Known proportions, (n_spots, n_types); a type is present where it is above 0. A DataFrame whose
        columns are types, or an array.
    proportions
        Estimated ones, matched by name if both are DataFrames, else an array of the same shape.

    Returns
    -------
    Precision, 0 to 1; chance is the share of spots that have the type. Types that are in all spots or in
    none are left out; NaN if that leaves none.

    Raises
    ------
    InputError
        If the shapes differ, the spots are not the same, or no spot is known in both.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.auprc([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], [[0.9, 0.1], [0.6, 0.4], [0.1, 0.9]])
    1.0
    """
    true, found, _ = _comparable(truth, proportions)
    return _mean_of_defined(_precision(true, found))


def per_type(truth: pd.DataFrame | ArrayLike, proportions: pd.DataFrame | ArrayLike) -> pd.DataFrame:
    """The scores of each type by itself, over the spots.

    Shows which types carry a good mean and which a method confuses.

    Parameters
    ----------
    truth
        Known proportions, (n_spots, n_types), at least 0: a DataFrame whose columns are types, or an array.
    proportions
        Estimated ones, matched by name if both are DataFrames, else an array of the same shape.

    Returns
    -------
    One row per type, indexed by its name, or its position for arrays. ``rmse``, 0 to 1; ``pearson``, -1 to
    1, NaN where the truth is the same in all spots; ``jsd``, 0 to 1, between the distributions of the type
    over the spots, 1 where it was never found, NaN where it truly does not occur; ``auprc``, 0 to 1, NaN
    where it is in all spots or in none.

    Raises
    ------
    InputError
        If a value is negative, the shapes differ, the spots are not the same, or no spot is known in both.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.per_type([[1.0, 0.0], [0.5, 0.5]], [[0.8, 0.2], [0.5, 0.5]])["rmse"].round(3).tolist()
    [0.141, 0.141]
    """
    import pandas as pd

    true, found, types = _comparable(truth, proportions)
    scores = {
        "rmse": np.sqrt(np.mean((true - found) ** 2, axis=0)),
        "pearson": _correlation(true, found),
        "jsd": np.where(true.any(axis=0), _divergence(true.T, found.T), np.nan),
        "auprc": _precision(true, found),
    }
    return pd.DataFrame(scores, index=pd.Index(types, name="type"))


def _divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of each row, base 2; 1 where either row is all zeros."""
    from scipy.special import rel_entr

    if min(p.min(), q.min()) < 0:
        msg = f"Proportions must be at least 0 to be compared by jsd; found {min(p.min(), q.min()):.3g}."
        raise InputError(msg)
    sums = np.stack([p.sum(axis=1), q.sum(axis=1)])
    out = np.ones(len(p))
    is_defined = np.all(sums > 0, axis=0)
    p, q = p[is_defined] / sums[0, is_defined, None], q[is_defined] / sums[1, is_defined, None]
    m = (p + q) / 2
    out[is_defined] = np.clip((rel_entr(p, m) + rel_entr(q, m)).sum(axis=1) / (2 * np.log(2)), 0, 1)
    return out


def _correlation(true: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pearson correlation of each column; NaN where the truth is constant, 0 where only the estimate is."""
    x, y = true - true.mean(axis=0), found - found.mean(axis=0)
    is_flat = np.ptp(found, axis=0) == 0
    scale = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    r = np.where(is_flat, 0.0, (x * y).sum(axis=0) / np.where(scale > 0, scale, 1.0))
    return np.where(np.ptp(true, axis=0) == 0, np.nan, np.clip(r, -1, 1))


def _precision(true: NDArray[np.float64], found: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average precision of each column for where the truth is above 0; NaN where that is all or none."""
    from sklearn.metrics import average_precision_score

    is_present = true > 0
    out = np.full(true.shape[1], np.nan)
    for j in np.flatnonzero(is_present.any(axis=0) & ~is_present.all(axis=0)):
        out[j] = average_precision_score(is_present[:, j], found[:, j])
    return out


def _mean_of_defined(scores: ArrayLike) -> float:
    """Mean of those that are not NaN; NaN where none is left."""
    values = np.asarray(scores, dtype=np.float64)
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def _comparable(truth: Any, proportions: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], list[Any]]:
    """Both as matrices of the same spots and types, without rows that have NaN, and the names of the types."""
    import pandas as pd

    types: list[Any] = list(next((t.columns for t in (truth, proportions) if isinstance(t, pd.DataFrame)), ()))
    if isinstance(truth, pd.DataFrame) and isinstance(proportions, pd.DataFrame):
        truth, proportions = _by_name(truth, proportions)
        types = list(truth.columns)
    true, found = np.asarray(truth, dtype=np.float64), np.asarray(proportions, dtype=np.float64)
    if true.ndim != 2 or true.shape != found.shape:
        msg = (
            f"truth has shape {true.shape} and proportions {found.shape}; pass matrices of the same spots and "
            "types, or two DataFrames whose columns are the types."
        )
        raise InputError(msg)
    is_known = ~(np.isnan(true).any(axis=1) | np.isnan(found).any(axis=1))
    if not (is_known.any() and true.shape[1]):
        msg = (
            f"Found {len(true)} spots and {true.shape[1]} types, but no spot without NaN in truth and "
            "proportions; there is nothing to compare."
        )
        raise InputError(msg)
    return true[is_known], found[is_known], types or list(range(true.shape[1]))


def _by_name(truth: pd.DataFrame, proportions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both with all types of either, and the spots in the order of the truth unless one does not name them."""
    import pandas as pd

    truth, proportions = _with_plain_columns(truth, "truth"), _with_plain_columns(proportions, "proportions")
    if not isinstance(truth.index, pd.RangeIndex) and not isinstance(proportions.index, pd.RangeIndex):
        proportions = _in_order_of(truth, proportions)
    types = truth.columns.union(proportions.columns, sort=False)
    return truth.reindex(columns=types, fill_value=0.0), proportions.reindex(columns=types, fill_value=0.0)


def _with_plain_columns(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The table with the names of types as results store them: text, in which `/` is `|`."""
    columns = table.columns.map(lambda column: str(column).replace("/", "|"))
    if not columns.is_unique:
        msg = (
            f"Every type must be one column, but {listed(columns[columns.duplicated()], 3)} occurs more than once "
            f"in the columns of {name}."
        )
        raise InputError(msg)
    return table.set_axis(columns, axis=1)


def _in_order_of(truth: pd.DataFrame, proportions: pd.DataFrame) -> pd.DataFrame:
    """The estimates of the spots of the truth, in its order."""
    if truth.index.equals(proportions.index):
        return proportions
    alone = truth.index.symmetric_difference(proportions.index)
    if len(alone) or not (truth.index.is_unique and proportions.index.is_unique):
        why = (
            f"{len(alone)} names are in one of them only ({listed(alone, 3)})"
            if len(alone)
            else "names occur more than once, so rows in another order cannot be matched"
        )
        msg = (
            f"truth has {len(truth)} spots and proportions {len(proportions)}, and {why}; "
            "pass both for the same spots, such as proportions.loc[truth.index]."
        )
        raise InputError(msg)
    return proportions.reindex(truth.index)
