"""How well cells were given their types, and whether the probabilities can be believed.

Cells whose truth is missing (NaN, None or "") are left out. A cell without a label, or called "unknown", is wrong
unless its truth says the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError

from ._metric import metric

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

BINS = 15  # of equally many cells, over which calibration is averaged


@metric(higher_is_better=True, range=(0.0, 1.0))
def accuracy(truth: ArrayLike, labels: ArrayLike) -> float:
    """Share of the cells that have their true type.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Types that were given, (n_obs,).

    Returns
    -------
    Score, 0 to 1.

    Raises
    ------
    InputError
        If the lengths differ or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.accuracy(["T", "T", "B", "B"], ["T", "B", "B", "B"])
    0.75
    """
    known, given = _known(truth, labels)
    return float(np.mean(known == given))


@metric(higher_is_better=True, range=(0.0, 1.0))
def macro_f1(truth: ArrayLike, labels: ArrayLike) -> float:
    """Harmonic mean of precision and recall of each type, averaged over the types, large or small.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Types that were given, (n_obs,).

    Returns
    -------
    Score, 0 to 1, over the types that the truth has.

    Raises
    ------
    InputError
        If the lengths differ or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> round(sd.metrics.macro_f1(["T", "T", "B", "B"], ["T", "B", "B", "B"]), 3)
    0.733
    """
    from sklearn.metrics import f1_score

    known, given = _known(truth, labels)
    return float(f1_score(known, given, average="macro", labels=np.unique(known), zero_division=0))


@metric(higher_is_better=True, range=(0.0, 1.0))
def balanced_accuracy(truth: ArrayLike, labels: ArrayLike) -> float:
    """Share of the cells of each type that have it, averaged over the types.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Types that were given, (n_obs,).

    Returns
    -------
    Score, 0 to 1; one over the number of types is chance.

    Raises
    ------
    InputError
        If the lengths differ or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.balanced_accuracy(["T", "T", "T", "B"], ["T", "T", "T", "T"])
    0.5
    """
    return float(recall_of_types(truth, labels).mean())


def recall_of_types(truth: ArrayLike, labels: ArrayLike) -> pd.Series[float]:
    """Share of the cells of each type that have it: which types a good accuracy leaves out.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    labels
        Types that were given, (n_obs,).

    Returns
    -------
    One number per type of the truth, 0 to 1, indexed by its name; :func:`balanced_accuracy` is their mean.

    Raises
    ------
    InputError
        If the lengths differ or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.recall_of_types(["T", "T", "T", "B"], ["T", "T", "B", "T"]).round(2).to_dict()
    {'B': 0.0, 'T': 0.67}
    """
    import pandas as pd

    known, given = _known(truth, labels)
    return pd.Series(known == given, dtype=float).groupby(known).mean().rename("recall").rename_axis("type")


@metric(higher_is_better=False, range=(0.0, 1.0))
def ece(truth: ArrayLike, proba: pd.DataFrame) -> float:
    """Expected calibration error: by how much the best probability misses the share of right calls.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    proba
        Probability of each type, (n_obs, n_types), columns named by type.

    Returns
    -------
    Mean absolute difference over 15 bins of equally many cells, 0 to 1; 0 is perfectly calibrated.

    Raises
    ------
    InputError
        If the lengths differ, no truth is known, or `proba` is not a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> import scdance as sd
    >>> sd.metrics.ece(["T", "T", "T", "B"], pd.DataFrame({"B": [0.25] * 4, "T": [0.75] * 4}))
    0.0
    """
    right, best = _calls(truth, proba)
    # cells of one probability are told apart by nothing, so they belong into one bin
    _, place, sizes = np.unique(best, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    bins = np.minimum((ends - sizes / 2) * BINS // len(best), BINS - 1).astype(int)[place.ravel()]
    off = np.bincount(bins, weights=right - best)
    return float(np.abs(off).sum() / len(best))


@metric(higher_is_better=False, range=(0.0, 2.0))
def brier(truth: ArrayLike, proba: pd.DataFrame) -> float:
    """Squared distance between the probabilities and the truth, mean over cells.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    proba
        Probability of each type, (n_obs, n_types), columns named by type.

    Returns
    -------
    Score, 0 to 2; 0 is certain and right. A true type without a column adds 1.

    Raises
    ------
    InputError
        If the lengths differ, no truth is known, or `proba` is not a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> import scdance as sd
    >>> sd.metrics.brier(["T", "B"], pd.DataFrame({"B": [0.5, 0.5], "T": [0.5, 0.5]}))
    0.5
    """
    known, names, values = _probabilities(truth, proba)
    hit = np.equal.outer(known, names)
    return float(np.mean(((values - hit) ** 2).sum(axis=1) + ~hit.any(axis=1)))


@metric(higher_is_better=True, range=(0.0, 1.0))
def novelty_auroc(truth: ArrayLike, proba: pd.DataFrame, novelty: ArrayLike) -> float:
    """Chance that a cell of a type the reference lacks looks newer than one of a type it has.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    proba
        Probability of each type, (n_obs, n_types), whose columns name the types of the reference.
    novelty
        How unlike the reference each cell is, (n_obs,).

    Returns
    -------
    Area under the receiver operating characteristic, 0 to 1, ½ by chance; NaN if all cells are of one kind.

    Raises
    ------
    InputError
        If the lengths differ, no truth is known, a novelty is missing, or `proba` is not a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> import scdance as sd
    >>> proba = pd.DataFrame({"B": [1.0, 0.5, 0.5], "T": [0.0, 0.5, 0.5]})
    >>> sd.metrics.novelty_auroc(["B", "T", "mast"], proba, [0.1, 0.2, 0.9])
    1.0
    """
    from sklearn.metrics import roc_auc_score

    known, how_new = _known(truth, novelty, text=False)
    if np.isnan(how_new).any():
        msg = f"The novelty of {int(np.isnan(how_new).sum())} cells is missing; pass a number for each cell."
        raise InputError(msg)
    new = ~np.isin([_as_column(name) for name in known], _columns(proba))
    return float(roc_auc_score(new, how_new)) if 0 < new.sum() < len(new) else float("nan")


@metric(higher_is_better=True, range=(0.0, 1.0))
def set_coverage(truth: ArrayLike, sets: ArrayLike) -> float:
    """Share of the cells whose set of types holds the true one.

    Parameters
    ----------
    truth
        Known types, (n_obs,). Cells where it is NaN, None or "" are left out.
    sets
        Types that cannot be ruled out, (n_obs,), with "|" between them.

    Returns
    -------
    Share, 0 to 1; at least 1 − level is promised for exchangeable cells.

    Raises
    ------
    InputError
        If the lengths differ or no truth is known.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.set_coverage(["T", "B"], ["B|T", ""])
    0.5
    """
    known, given = _known(truth, sets)
    return float(np.mean([f"|{one}|" in f"|{some}|" for one, some in zip(known, given, strict=True)]))


@metric(higher_is_better=False, range=(0.0, float("inf")))
def set_size(sets: ArrayLike) -> float:
    """Mean number of types that cannot be ruled out.

    Parameters
    ----------
    sets
        Types of each cell, (n_obs,), with "|" between them.

    Returns
    -------
    Mean size, at least 0; 1 is a sharp answer.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.metrics.set_size(["B|T", ""])
    1.0
    """
    texts = [str(each) if each == each and each is not None else "" for each in np.asarray(sets, dtype=object)]
    return float(np.mean([each.count("|") + (each != "") for each in texts]))


def _known(truth: ArrayLike, given: ArrayLike, *, text: bool = True) -> tuple[NDArray, NDArray]:
    """Truth and result of the cells whose truth is known."""
    import pandas as pd

    known = pd.Series(np.asarray(truth, dtype=object))
    values = pd.Series(np.asarray(given, dtype=object))
    if len(known) != len(values):
        msg = f"The truth has {len(known)} cells and the result {len(values)}; pass both for the same cells."
        raise InputError(msg)
    rows = (known.notna() & (known.astype(str) != "")).to_numpy()
    if not rows.any():
        msg = "The truth is missing for all cells; pass the labels that are known."
        raise InputError(msg)
    found = values[rows].fillna("").astype(str) if text else values[rows].astype(float)
    return known[rows].astype(str).to_numpy(dtype=object), found.to_numpy()


def _probabilities(truth: ArrayLike, proba: Any) -> tuple[NDArray, NDArray, NDArray]:
    """True types of the cells where they are known, names of the columns, and their probabilities."""
    names = np.array(_columns(proba), dtype=object)
    known, rows = _known(truth, np.arange(len(proba)), text=False)
    spelled = np.array([_as_column(name) for name in known], dtype=object)
    return spelled, names, np.asarray(proba, dtype=float)[rows.astype(int)]


def _columns(proba: Any) -> list[str]:
    """Names of the types, as columns spell them."""
    if not hasattr(proba, "columns"):
        msg = f"The probabilities must be a DataFrame with a column for each type, but are a {type(proba).__name__}."
        raise InputError(msg)
    return [_as_column(str(name)) for name in proba.columns]


def _as_column(name: str) -> str:
    """A type as the name of a column in a file, which holds no "/"."""
    return name.replace("/", "|")


def _calls(truth: ArrayLike, proba: Any) -> tuple[NDArray, NDArray]:
    """Whether the likeliest type of each cell is right, and its probability."""
    known, names, values = _probabilities(truth, proba)
    return (names[values.argmax(axis=1)] == known).astype(float), values.max(axis=1)
