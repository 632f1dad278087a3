"""Sums over groups of cells, and the genes that tell the groups apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from ._rows import Rows, blocks

CONSTANT = 1e-9  # a gene whose sum of squares around the mean is below this part of the whole does not vary


class Moments(NamedTuple):
    """What the cells of each group add up to; groups are merged by adding rows.

    Attributes
    ----------
    n
        Cells of each group, (n_groups,) int.
    total, square
        Sum of the values and of their squares, (n_groups, n_vars) float64.
    filled
        Number of values that are not 0, (n_groups, n_vars) float64.
    """

    n: np.ndarray
    total: np.ndarray
    square: np.ndarray
    filled: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of each group, (n_groups, n_vars)."""
        return self.total / np.maximum(self.n, 1)[:, None]


def group_moments(x: Rows, codes: np.ndarray, n_groups: int) -> Moments:
    """Count, sum, sum of squares and number of non-zeros of each gene in each group, in one pass.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars).
    codes
        Group of each cell, (n_obs,) int; −1 for those in none.
    n_groups
        Number of groups.

    Returns
    -------
    The moments of each group.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> found = pp.group_moments(pp.canonical(np.array([[1.0], [3.0], [5.0]])), np.array([0, 0, 1]), 2)
    >>> found.mean.ravel().tolist(), found.square.ravel().tolist()
    ([2.0, 5.0], [10.0, 25.0])
    """
    shape = (n_groups, x.shape[1])
    total, square, filled = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for here, part in blocks(x):
        block, groups = part.astype(np.float64), codes[here]
        inside = np.flatnonzero(groups >= 0)
        member = sp.csr_matrix((np.ones(len(inside)), (groups[inside], inside)), shape=(n_groups, len(groups)))
        total += (member @ block).toarray()
        filled += (member @ (block != 0).astype(np.float64)).toarray()
        block.data **= 2
        square += (member @ block).toarray()
    return Moments(np.bincount(codes[codes >= 0], minlength=n_groups), total, square, filled)


def mean_and_sd(x: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (ddof 0) of each gene over all cells, in one pass.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars).

    Returns
    -------
    Both (n_vars,) float64; the deviation of a gene that does not vary is exactly 0.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> mean, sd = pp.mean_and_sd(pp.canonical(np.array([[1.0, 2.0], [3.0, 2.0]])))
    >>> mean.tolist(), sd.tolist()
    ([2.0, 2.0], [1.0, 0.0])
    """
    n = x.shape[0]
    found = group_moments(x, np.zeros(n, dtype=int), 1)
    mean, around = found.mean[0], found.square[0] / n - found.mean[0] ** 2
    return mean, np.where(around > CONSTANT * mean**2, np.sqrt(np.maximum(around, 0)), 0)


def telling_genes(moments: Moments, n_top: int | None) -> np.ndarray:
    """Genes with the largest F statistic of a one-way analysis of variance between the groups.

    Parameters
    ----------
    moments
        Of log-normalised expression, by type.
    n_top
        How many; None: all that vary.

    Returns
    -------
    Their positions, sorted, int.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> x = pp.canonical(np.array([[1.0, 5.0], [2.0, 5.1], [1.0, 0.0], [2.0, 0.2]]))
    >>> pp.telling_genes(pp.group_moments(x, np.array([0, 0, 1, 1]), 2), 1).tolist()
    [1]
    """
    n = moments.n.sum()
    total, square = moments.total.sum(axis=0), moments.square.sum(axis=0)
    around = square - total**2 / n
    between = (moments.total**2 / np.maximum(moments.n, 1)[:, None]).sum(axis=0) - total**2 / n
    varies = around > CONSTANT * np.maximum(square, CONSTANT)
    # the ratio F grows with this share and is not infinite where groups explain all
    share = np.where(varies, between / np.where(varies, around, 1), -1)
    best = np.argsort(-share, kind="stable")[: n_top or None]
    return np.sort(best[varies[best]])
