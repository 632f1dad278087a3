"""Probabilities that can be believed: temperature, conformal sets, and how new a cell is."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, softmax

DIGITS = 4
HOTTEST = 50.0  # of the temperatures that are tried, and the inverse of the coldest


def hold_out(codes: np.ndarray, share: float, rng: np.random.Generator, *, least: int = 5) -> np.ndarray:
    """Draw cells of each type at random, to judge a classifier by.

    Parameters
    ----------
    codes
        Type of each cell, (n_obs,) int.
    share
        Part of each type that is drawn, in (0, 1); at least one cell, and one stays.
    rng
        Generator that draws.
    least
        Types with fewer cells than this, or a single one, give none.

    Returns
    -------
    Which cells are held out, (n_obs,) bool.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> train.hold_out(np.repeat([0, 1], [10, 3]), 0.2, np.random.default_rng(0)).sum()
    np.int64(2)
    """
    out = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        if len(rows) >= max(least, 2):
            n = min(max(1, round(share * len(rows))), len(rows) - 1)
            out[rng.choice(rows, n, replace=False)] = True
    return out


def temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Temperature T for which softmax(logits / T) gives the known types the largest likelihood [Guo2017]_.

    n cells without an error do not tell how small the chance of one is, and their likelihood would be largest at T = 0.
    So the best probability is at most (n + 1) / (n + 2) on average, as by the rule of succession.

    Parameters
    ----------
    logits
        Scores of cells that the classifier was not trained on, (n_obs, n_types).
    codes
        Their types, (n_obs,) int.

    Returns
    -------
    T > 0, between 1/50 and 50; 1 without cells.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> logits = np.log([[0.75, 0.25]] * 4)
    >>> round(train.temperature(3 * logits, np.array([0, 0, 0, 1])), 2)
    3.0
    """
    if len(codes) == 0:
        return 1.0
    rows = np.arange(len(codes))

    def loss(log_t: float) -> float:
        return -float(log_softmax(logits / np.exp(log_t), axis=1)[rows, codes].mean())

    hottest = np.log(HOTTEST)
    found = float(minimize_scalar(loss, bounds=(-hottest, hottest), method="bounded").x)
    most = (len(codes) + 1) / (len(codes) + 2)

    def too_sure(log_t: float) -> float:
        return float(softmax(logits / np.exp(log_t), axis=1).max(axis=1).mean()) - most

    if too_sure(found) > 0:
        found = float(brentq(too_sure, found, hottest) if too_sure(hottest) < 0 else hottest)
    return float(np.exp(found))


def conformal_sets(proba: np.ndarray, known: np.ndarray, codes: np.ndarray, level: float) -> np.ndarray:
    """Types that cannot be ruled out for each cell, by a split-conformal test of each type.

    A type is ruled out where fewer than `level` of the known cells of that type have as small a probability of it.
    If new cells are exchangeable with the known ones of their type, the true type is in the set with probability of
    at least 1 − `level`, whatever the classifier. A shift between protocols breaks that. A type with fewer than
    1/`level` − 1 known cells could never be ruled out by its own; it is compared with the cells of all such types,
    which keeps the promise over these together only. Where even they are too few, it is compared with all known
    cells, and nothing is promised for its own.

    Parameters
    ----------
    proba
        Probability of each type, (n_obs, n_types).
    known
        The same for cells of known type that the classifier was not trained on, (n_known, n_types).
    codes
        Their types, (n_known,) int.
    level
        Largest share of the cells whose set may miss their type, in (0, 1).

    Returns
    -------
    Which types are in the set, (n_obs, n_types) bool. A row without any is a cell like none of the types.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import train
    >>> known = np.repeat([[0.9, 0.1], [0.2, 0.8]], 20, axis=0)
    >>> sets = train.conformal_sets(np.array([[0.95, 0.05], [0.5, 0.5]]), known, np.repeat([0, 1], 20), 0.1)
    >>> sets.tolist()
    [[True, False], [False, False]]
    """
    # beyond these digits probabilities depend on how many cells are computed at once
    proba, known = np.round(proba, DIGITS), np.round(known, DIGITS)
    own = known[np.arange(len(codes)), codes]
    too_few = (np.bincount(codes, minlength=known.shape[1]) + 1) * level < 1
    pooled = np.sort(own[too_few[codes]])
    if (len(pooled) + 1) * level < 1:
        pooled = np.sort(own)
    out = np.empty(proba.shape, dtype=bool)
    for j in range(proba.shape[1]):
        mine = pooled if too_few[j] else np.sort(own[codes == j])
        as_small = np.searchsorted(mine, proba[:, j], side="right")
        out[:, j] = (as_small + 1) / (len(mine) + 1) > level
    return out
