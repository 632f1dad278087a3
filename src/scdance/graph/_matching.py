"""Partners of cells by where two sets of them lie in a common space, in memory that is linear in the cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching, min_weight_full_bipartite_matching

from scdance._checks import InputError, whole_number

ROWS = 2048  # whose similarities to all others are computed at once
FINEST = 2**24  # steps in which the likelihood of pairs is told apart
LARGEST = 8  # times as many partners are kept at most where no full matching is found among fewer


class Matching(NamedTuple):
    """Who goes with whom.

    Attributes
    ----------
    proba
        Probability of each partner that was kept, (n_a, n_b) CSR float32; rows sum to 1.
    partner
        One-to-one: position of each cell's partner, (n_a,) int, −1 where none is left.
    mutual
        Whether a cell and its likeliest partner are each the nearest of the other, (n_a,) bool.
    """

    proba: csr_matrix
    partner: np.ndarray
    mutual: np.ndarray


def match(a: np.ndarray, b: np.ndarray, *, scale: float = 10.0, n_kept: int = 50) -> Matching:
    """Match two sets of cells by the cosine of their places in a common space.

    Given a cell, the others are as likely its partner as the soft-max of the scaled cosines says; a pair is as likely
    as the product of what it is for either side. Of each cell the most likely partners on both sides are kept.
    One-to-one, the sum of the logarithms is largest.

    Parameters
    ----------
    a, b
        Places, (n_a, n_dims) and (n_b, n_dims).
    scale
        What cosines are multiplied by before the soft-max, above 0: the larger, the surer.
    n_kept
        Partners that are kept of each cell, at least 1.

    Returns
    -------
    The probabilities that were kept, and partners one-to-one.

    Raises
    ------
    InputError
        If a number is out of range, or the places have different dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> places = np.random.default_rng(0).normal(size=(50, 8))
    >>> graph.match(places, places[::-1]).partner[:3].tolist()
    [49, 48, 47]
    """
    whole_number(n_kept, "n_kept", least=1)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not scale > 0:
        msg = f"Places of shape {a.shape} and {b.shape} and scale={scale!r}; expected as many columns, and above 0."
        raise InputError(msg)
    a, b = unit_rows(a), unit_rows(b)
    if not (len(a) and len(b)):
        nothing = np.empty((len(a), len(b)), dtype=np.float32)
        return Matching(csr_matrix(nothing), np.full(len(a), -1), np.zeros(len(a), bool))
    wanted = min(len(a), len(b))
    for many in (1, 2, 4, LARGEST):
        likely, proba, mutual = _most_likely(a, b, scale, many * n_kept)
        partner = _one_to_one(likely)
        if (partner >= 0).sum() == wanted or many * n_kept >= max(len(a), len(b)):
            break
    return Matching(proba, partner, mutual)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a row of zeros stays."""
    x = np.asarray(x, dtype=np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]


def _most_likely(a: np.ndarray, b: np.ndarray, scale: float, n_kept: int) -> tuple[csr_matrix, csr_matrix, np.ndarray]:
    """Of the pairs that are among the most likely of either cell: log P(pair), and P of the partner given the row.

    Third, whether a row and its nearest column are each other's.
    """
    of_row, columns = _best(a, b, scale, n_kept)
    of_column, rows = _best(b, a, scale, n_kept)
    flat = np.unique(np.concatenate([
        (np.arange(len(a))[:, None] * len(b) + columns).ravel(),
        (rows * len(b) + np.arange(len(b))[:, None]).ravel(),
    ]))  # fmt: skip
    rows, columns = np.divmod(flat, len(b))
    some = range(0, len(rows), 64 * ROWS)
    cosine = [np.einsum("ij,ij->i", a[rows[i : i + 64 * ROWS]], b[columns[i : i + 64 * ROWS]]) for i in some]
    logit = scale * np.concatenate(cosine).astype(np.float64)
    given_row, given_column = logit - of_row[rows], logit - of_column[columns]
    pair = csr_matrix((given_row + given_column, (rows, columns)), shape=(len(a), len(b)))
    proba = csr_matrix((np.exp(given_row), (rows, columns)), shape=(len(a), len(b)))
    proba.data /= np.repeat(np.asarray(proba.sum(axis=1)).ravel(), np.diff(proba.indptr))
    nearest_row, nearest_column = (np.empty(n, dtype=np.int64) for n in (len(b), len(a)))
    order = np.argsort(logit, kind="stable")  # the largest of each comes last
    nearest_row[columns[order]], nearest_column[rows[order]] = rows[order], columns[order]
    return pair, proba.astype(np.float32), nearest_row[nearest_column] == np.arange(len(a))


def _best(a: np.ndarray, b: np.ndarray, scale: float, n_kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of `a`: the logarithm of the sum that its soft-max over `b` divides by, and its best columns."""
    n = min(n_kept, len(b))
    sums, columns = np.empty(len(a)), np.empty((len(a), n), dtype=np.int64)
    for start in range(0, len(a), ROWS):
        here = slice(start, start + ROWS)
        block = scale * (a[here] @ b.T)
        columns[here] = np.argpartition(block, len(b) - n, axis=1)[:, len(b) - n :]
        top = block.max(axis=1, keepdims=True)
        sums[here] = top[:, 0] + np.log(np.exp(block - top).sum(axis=1, dtype=np.float64))
    return sums, columns


def _one_to_one(likely: csr_matrix) -> np.ndarray:
    """Column of each row such that the sum is largest, −1 where a row is left; as many as can be if not all can."""
    partner = np.full(likely.shape[0], -1)
    # whole numbers, since sums of others are rounded, on which the search may turn in circles; 0 would be no edge
    cost, low, high = likely.copy(), likely.data.min(initial=0), likely.data.max(initial=0)
    cost.data = 1 + np.rint((high - cost.data) * (FINEST / max(high - low, 1e-300)))
    try:
        rows, columns = min_weight_full_bipartite_matching(cost)
    except ValueError:  # no full matching among these pairs
        columns = maximum_bipartite_matching(cost, perm_type="column")
        rows = np.flatnonzero(columns >= 0)
        columns = columns[rows]
    partner[rows] = columns
    return partner
