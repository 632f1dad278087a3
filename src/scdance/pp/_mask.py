"""Hide part of the counts, so that what predicts them can be judged on what it has not seen."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, one_of

from ._rows import canonical
from ._split_counts import refuse_no_counts, thin

PROTOCOLS = ("uniform", "exponential", "entries", "thinning")
FEWEST = 5  # a cell with so few genes keeps them all
ROUNDING = 1e-9  # 0.29 · 100 is a little less than 29
SCALE = 20.0  # counts over which the weight of an entry falls by e


def mask(
    counts: sp.csr_matrix,
    protocol: Literal["uniform", "exponential", "entries", "thinning"],
    rate: float,
    rng: np.random.Generator,
    *,
    value_space: Literal["counts", "log1p"] = "counts",
) -> sp.csr_matrix:
    """Take away some of the counts.

    "uniform" sets a share of the non-zero entries of each cell with more than 5 of them to zero, all with equal
    probability; "exponential" prefers low values, with weights exp(−value / 20); "entries" hides each entry of the
    matrix by itself, zeros included, but for cells of which nothing would be left [Wen2023]_; "thinning" takes each
    counted molecule away with this probability, so that entries become smaller and what was taken away is, for Poisson
    counts, independent of what is left [Neufeld2024]_.

    Parameters
    ----------
    counts
        Raw counts, (n_obs, n_vars): whole numbers of at least 0; for "entries" they may have fractions.
    protocol
        "uniform", "exponential", "entries" or "thinning".
    rate
        Share of the entries, or of the molecules, that is taken away, above 0 and below 1.
    rng
        Generator, which is advanced.
    value_space
        Values that the weights of "exponential" are made from: counts, or log(1 + count), which makes them nearly
        equal.

    Returns
    -------
    What is left, (n_obs, n_vars) CSR float32. ``counts`` minus this is what was taken away.

    Raises
    ------
    InputError
        An unknown protocol, a rate that is no share, or values that are no counts.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = pp.canonical(np.arange(1, 41).reshape(2, 20))
    >>> pp.mask(counts, "uniform", 0.1, np.random.default_rng(0)).nnz
    36
    """
    one_of(protocol, PROTOCOLS, "protocol")
    one_of(value_space, ("counts", "log1p"), "value_space")
    if not 0 < rate < 1:
        msg = f"rate is {rate!r}, but must be a share above 0 and below 1."
        raise InputError(msg)
    if protocol == "thinning":
        return thin(counts, 1 - rate, rng)
    counts = canonical(counts)
    refuse_no_counts(counts, fractions=protocol == "entries")
    if protocol == "entries":
        return _without_entries(counts, rate, rng)
    values = np.log1p(counts.data) if value_space == "log1p" else counts.data
    weights = -values / SCALE if protocol == "exponential" else np.zeros(counts.nnz)
    per_cell = np.diff(counts.indptr)
    n_hidden = np.where(per_cell > FEWEST, np.floor(rate * per_cell + ROUNDING), 0).astype(int)
    # the largest of log-weight plus Gumbel noise are drawn as if one after the other, without replacement
    keys = weights + rng.gumbel(size=counts.nnz)
    cell = np.repeat(np.arange(counts.shape[0]), per_cell)
    order = np.lexsort((-keys, cell))
    rank = np.empty(counts.nnz, dtype=int)
    rank[order] = np.arange(counts.nnz) - np.repeat(counts.indptr[:-1], per_cell)
    left = np.where(rank < n_hidden[cell], 0, counts.data).astype(np.float32)
    return canonical(sp.csr_matrix((left, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape))


def _without_entries(counts: sp.csr_matrix, rate: float, rng: np.random.Generator) -> sp.csr_matrix:
    """What is left where each entry is hidden by itself; a zero that is hidden looks as before."""
    is_kept = rng.random(counts.nnz) >= rate
    cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    is_kept |= np.bincount(cell, is_kept, minlength=counts.shape[0])[cell] == 0
    left = np.where(is_kept, counts.data, 0).astype(np.float32)
    return canonical(sp.csr_matrix((left, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape))
