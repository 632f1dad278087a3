"""Spots that are made by adding up cells."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from ._rows import Rows, blocks, canonical


def draw_mixtures(n_obs: int, n: int, n_cells: tuple[int, int], rng: np.random.Generator) -> sp.csr_matrix:
    """Draw which cells go into each spot, with replacement, each number of cells being as likely.

    Parameters
    ----------
    n_obs
        Number of cells to draw from.
    n
        Number of spots.
    n_cells
        Fewest and most cells of a spot.
    rng
        Generator, which is advanced.

    Returns
    -------
    How often each cell is in each spot, (n, n_obs) CSR float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> mixture = pp.draw_mixtures(100, 3, (2, 8), np.random.default_rng(0))
    >>> mixture.shape, bool(mixture.sum(axis=1).min() >= 2), bool(mixture.sum(axis=1).max() <= 8)
    ((3, 100), True, True)
    """
    sizes = rng.integers(n_cells[0], n_cells[1] + 1, size=n)
    members = rng.integers(n_obs, size=int(sizes.sum()))
    start = np.concatenate([[0], np.cumsum(sizes)])
    return canonical(sp.csr_matrix((np.ones(len(members), dtype=np.float32), members, start), shape=(n, n_obs)))


def mix_cells(
    counts: Rows,
    mixture: sp.csr_matrix,
    rng: np.random.Generator,
    *,
    max_umi: float = 25_000,
    target_umi: float = 20_000,
) -> sp.csr_matrix:
    """Add up the counts of cells, and thin the spots that get too many.

    Parameters
    ----------
    counts
        Of the cells, (n_obs, n_vars), raw.
    mixture
        How often each cell is in each spot, (n, n_obs), whole numbers.
    rng
        Generator, which is advanced.
    max_umi
        Most total counts of a spot. One with more keeps each molecule with probability `target_umi` / total; where
        there are fractions of counts, they are multiplied by it.
    target_umi
        Mean total counts of thinned spots, at most `max_umi`.

    Returns
    -------
    Counts of the spots, (n, n_vars) CSR float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> cells, mixture = pp.canonical(np.array([[1, 0], [0, 2]])), pp.canonical(np.array([[2, 1]]))
    >>> pp.mix_cells(cells, mixture, np.random.default_rng(0)).toarray().tolist()
    [[2.0, 2.0]]
    """
    columns = sp.csc_matrix(mixture)
    total = sp.csr_matrix((mixture.shape[0], counts.shape[1]), dtype=np.float32)
    for here, block in blocks(counts):
        total = total + columns[:, here] @ block
    spots = canonical(total)
    depth = np.asarray(spots.sum(axis=1, dtype=np.float64)).ravel()
    keep = np.where(depth > max_umi, target_umi / np.maximum(depth, 1), 1.0)
    share = np.repeat(keep, np.diff(spots.indptr))
    whole = np.rint(spots.data)
    if np.abs(spots.data - whole).max(initial=0) <= 1e-6:
        data = np.where(share < 1, rng.binomial(whole.astype(np.int64), share), whole)
    else:
        data = spots.data * share
    return canonical(sp.csr_matrix((data.astype(np.float32), spots.indices, spots.indptr), shape=spots.shape))
