"""What a mixture of profiles leaves unexplained in counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scdance._checks import InputError

from ._rows import Rows, blocks

FEW = 0.5  # counts that are added before a gene's sums are compared
FAR = 6.0  # standard deviations above the median, by the median deviation, from which a cell stands out
LEAST = 0.05  # share below which nothing is worth a word, however even the cells are
_MAD = 1.4826  # standard deviations of a normal distribution per median deviation


class Unexplained(NamedTuple):
    """What a fit leaves over.

    Attributes
    ----------
    share
        Part of each cell's weighted squared counts that is neither explained nor noise, (n_obs,) in [0, 1].
    limit
        Share above which a cell stands out from the others.
    genes
        Columns by how much more of them the cells that stand out have than was fitted, the most first; empty where
        none stands out.
    """

    share: np.ndarray
    limit: float
    genes: np.ndarray


def unexplained(counts: Rows, amounts: np.ndarray, profiles: np.ndarray) -> Unexplained:
    """Compare counts with the profiles that were fitted to them, beyond the noise of counting.

    The squared difference of Poisson counts y from their mean exceeds that from a wrong mean μ by their variance, so
    that Σ w ((y − μ)² − y) is what the fit misses, and zero on average where it is right; w is one over the mean of
    the gene. Genes of which all cells have more or less than was fitted are corrected first: a platform that sees a
    gene better than another is no cell type.

    Parameters
    ----------
    counts
        Raw counts, (n_obs, n_genes).
    amounts
        Fitted amount of each profile, (n_obs, n_profiles), in any unit: each cell is brought to its own total.
    profiles
        Counts per gene, (n_profiles, n_genes), at least 0.

    Returns
    -------
    The share of each cell, the limit, and the genes that speak for a missing profile.

    Raises
    ------
    InputError
        If the shapes do not go together.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance.pp import unexplained
    >>> profiles = np.array([[90.0, 10, 0], [10.0, 90, 0]])
    >>> counts = csr_matrix([[90, 10, 0], [10, 90, 0], [50, 50, 0], [80, 20, 0], [20, 20, 60]])
    >>> amounts = np.array([[1, 0], [0, 1], [0.5, 0.5], [0.9, 0.1], [0.5, 0.5]])
    >>> found = unexplained(counts, amounts, profiles)
    >>> int(found.share.argmax()), int(found.genes[0])
    (4, 2)
    """
    n, n_genes = counts.shape
    if amounts.shape != (n, len(profiles)) or profiles.shape[1] != n_genes:
        msg = (
            f"Counts {counts.shape}, amounts {amounts.shape} and profiles {profiles.shape} do not go together: "
            "expected (n_obs, n_genes), (n_obs, n_profiles) and (n_profiles, n_genes)."
        )
        raise InputError(msg)
    total = np.concatenate([np.asarray(block.sum(axis=1, dtype=np.float64)).ravel() for _, block in blocks(counts)])
    fitted = amounts @ profiles.sum(axis=1)
    scale = np.divide(total, fitted, out=np.zeros(n), where=fitted > 0)
    amounts = amounts * scale[:, None]
    seen = sum(np.asarray(block.sum(axis=0, dtype=np.float64)).ravel() for _, block in blocks(counts))
    factor = (seen + FEW) / (amounts.sum(axis=0) @ profiles + FEW)
    profiles = profiles * factor
    weight = 1 / (seen / n + FEW / n)

    missed, there = np.zeros(n), np.zeros(n)
    for rows, block in blocks(counts):
        y, mean = block.toarray().astype(np.float64), amounts[rows] @ profiles
        missed[rows] = ((y - mean) ** 2 - y) @ weight
        there[rows] = np.maximum(y**2 - y, 0) @ weight
    missed = np.maximum(missed, 0)
    share = np.divide(missed, np.maximum(missed, there), out=np.zeros(n), where=missed > 0)
    middle = float(np.median(share))
    limit = max(middle + FAR * _MAD * float(np.median(np.abs(share - middle))), LEAST)
    out = np.flatnonzero(share > limit)
    if not len(out):
        return Unexplained(share, limit, np.array([], dtype=int))
    more = np.zeros(n_genes)
    for start in range(0, len(out), 1024):
        some = out[start : start + 1024]
        more += (counts[some].toarray() - amounts[some] @ profiles).sum(axis=0)
    return Unexplained(share, limit, np.argsort(-more * np.sqrt(weight), kind="stable"))
