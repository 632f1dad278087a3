"""Ranks of sparse columns, whose zeros share the lowest rank and are never spelled out."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def rank_sums(x: sp.csr_matrix, codes: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the ranks of each group in each column, the tied ones sharing their mean rank.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars), not negative.
    codes
        Group of each row, (n_obs,), 0 to `n_groups` − 1.
    n_groups
        Number of groups.

    Returns
    -------
    The sums, (n_groups, n_vars), and Σ (t³ − t) over the ties of each column, (n_vars,), t being how many are tied.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance.pp import rank_sums
    >>> sums, ties = rank_sums(csr_matrix([[0.0], [0.0], [3.0], [1.0]]), np.array([0, 1, 1, 0]), 2)
    >>> sums.tolist(), ties.tolist()
    ([[4.5], [5.5]], [6.0])
    """
    n, n_vars = x.shape
    columns = sp.csc_matrix(x)
    columns.eliminate_zeros()
    column = np.repeat(np.arange(n_vars), np.diff(columns.indptr))
    order = np.lexsort((columns.data, column))
    value, group = columns.data[order], codes[columns.indices[order]].astype(np.int64)
    new = np.ones(len(value), dtype=bool)
    new[1:] = (column[1:] != column[:-1]) | (value[1:] != value[:-1])
    first = np.flatnonzero(new)
    tied = np.diff(np.r_[first, len(value)]).astype(float)
    zeros = n - np.diff(columns.indptr)
    rank = np.repeat(first + (tied + 1) / 2, tied.astype(int)) - columns.indptr[column] + zeros[column]
    shape, place = (n_groups, n_vars), group * n_vars + column
    sums = np.bincount(place, rank, minlength=n_groups * n_vars).reshape(shape)
    filled = np.bincount(place, minlength=n_groups * n_vars).reshape(shape)
    sums += (np.bincount(codes, minlength=n_groups)[:, None] - filled) * (zeros + 1) / 2
    ties = np.bincount(column[first], tied**3 - tied, minlength=n_vars) + zeros.astype(float) ** 3 - zeros
    return sums, ties


def rank_sum_test(x: sp.csr_matrix, inside: np.ndarray) -> np.ndarray:
    """P-value of Wilcoxon's two-sided rank-sum test of each column.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars), not negative.
    inside
        Which rows are of the first group, (n_obs,) bool.

    Returns
    -------
    P-values, (n_vars,), by the normal approximation, corrected for ties and continuity; 1 where all values are equal.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance.pp import rank_sum_test
    >>> x = csr_matrix(np.r_[np.zeros(20), np.arange(1.0, 21)][:, None])
    >>> bool(rank_sum_test(x, np.arange(40) < 20)[0] < 1e-6)
    True
    """
    from scipy.stats import norm

    n, n_in = len(inside), int(inside.sum())
    sums, ties = rank_sums(x, (~inside).astype(np.int64), 2)
    variance = n_in * (n - n_in) / 12 * (n + 1 - ties / (n * (n - 1)))
    off = np.abs(sums[0] - n_in * (n + 1) / 2) - 0.5
    known = variance > 0
    return np.where(known, np.minimum(2 * norm.sf(off / np.sqrt(np.where(known, variance, 1))), 1), 1.0)
