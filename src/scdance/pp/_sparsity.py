"""How many cells have nothing of a gene, and genes drawn so that all degrees of that are among them."""

from __future__ import annotations

from typing import Any

import numpy as np

SPARSITY_BINS = (0.75, 0.90, 0.95)  # shares of cells without a count that part genes, as published tables have them


def sparsity(counts: Any) -> np.ndarray:
    """Share of the cells that have nothing of each gene.

    Parameters
    ----------
    counts
        Values, (n_obs, n_vars), dense or sparse; 0 is nothing.

    Returns
    -------
    Shares from 0 to 1, (n_vars,) float64.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.sparsity(np.array([[0, 1], [0, 2], [3, 1], [0, 4]])).tolist()
    [0.75, 0.0]
    """
    return 1 - np.asarray((counts > 0).sum(axis=0)).ravel() / counts.shape[0]  # type: ignore[no-any-return]


def sparsity_bin(share: np.ndarray) -> np.ndarray:
    """Bin of each gene by the share of cells without it: [0, 75 %), [75, 90), [90, 95) and [95, 100].

    Parameters
    ----------
    share
        Shares from 0 to 1, (n_vars,).

    Returns
    -------
    Codes from 0 to 3, (n_vars,) int.

    Examples
    --------
    >>> from scdance import pp
    >>> pp.sparsity_bin([0.1, 0.75, 0.92, 1.0]).tolist()
    [0, 1, 2, 3]
    """
    return np.searchsorted(SPARSITY_BINS, share, side="right")


def draw_by_sparsity(counts: Any, n_per_bin: int, rng: np.random.Generator, *, share: float = 1.0) -> np.ndarray:
    """Draw genes of all degrees of sparsity, to be held out.

    Parameters
    ----------
    counts
        Counts, (n_obs, n_vars), dense or sparse.
    n_per_bin
        Number of genes of each bin of :func:`sparsity_bin`, or all where there are fewer.
    rng
        Generator, which is advanced.
    share
        Part of the genes of a bin that is drawn at most, so that some are left, 0 to 1.

    Returns
    -------
    Columns, ascending, (n_drawn,) int.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.draw_by_sparsity(np.eye(20), 3, np.random.default_rng(0)).size  # all in the last bin
    3
    """
    bins = sparsity_bin(sparsity(counts))
    drawn = []
    for code in range(len(SPARSITY_BINS) + 1):
        inside = np.flatnonzero(bins == code)
        drawn.append(rng.permutation(inside)[: min(n_per_bin, int(share * len(inside)))])
    return np.sort(np.concatenate(drawn))
