"""What a mixture of profiles leaves unexplained in counts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scdance._checks import InputError

from ._rows import Rows, blocks

FEW = 0.5  # counts that are added before a gene's sums are compared
ROUNDS = 3  # of the correction of genes
QUANTILES = (0.05, 0.25)
FAR = 6.0  # a cell stands out so many times as far above the second quantile as this lies above the first
LEAST = 0.05  # share below which nothing is worth a word, however even the cells are


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
    the gene. Genes of which cells have more or less than was fitted everywhere are corrected first, by the better
    explained half of the cells: a platform that sees a gene better than another is no cell type.

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
    weight = 1 / (_sums(counts, np.arange(n)) / n + FEW / n)
    share, kept, own = np.zeros(n), np.arange(n), profiles
    for _ in range(ROUNDS):  # genes are corrected by the better explained half, which lacks nothing
        own = profiles * (_sums(counts, kept) + FEW) / (amounts[kept].sum(axis=0) @ profiles + FEW)
        share = _shares(counts, amounts, own, weight)
        kept = np.flatnonzero(share <= np.median(share))
    root = np.sqrt(share)  # whose distribution is even, where that of the shares has a long tail
    low, usual = np.quantile(root, QUANTILES)
    limit = max(float(usual + FAR * (usual - low)) ** 2, LEAST)
    out = np.flatnonzero(share > limit)
    if not len(out):
        return Unexplained(share, limit, np.array([], dtype=int))
    more = np.zeros(n_genes)
    for start in range(0, len(out), 1024):
        some = out[start : start + 1024]
        more += (counts[some].toarray() - amounts[some] @ own).sum(axis=0)
    return Unexplained(share, limit, np.argsort(-more * np.sqrt(weight), kind="stable"))


def _sums(counts: Rows, rows: np.ndarray) -> np.ndarray:
    """Sum of each gene over some of the cells, (n_genes,)."""
    inside = np.zeros(counts.shape[0])
    inside[rows] = 1
    return sum(np.asarray(block.T @ inside[here]).ravel() for here, block in blocks(counts))


def _shares(counts: Rows, amounts: np.ndarray, profiles: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Part of each cell's weighted squared counts that a fit misses beyond noise, (n_obs,) in [0, 1]."""
    missed, there = np.zeros(counts.shape[0]), np.zeros(counts.shape[0])
    for rows, block in blocks(counts):
        y, mean = block.toarray().astype(np.float64), amounts[rows] @ profiles
        missed[rows] = ((y - mean) ** 2 - y) @ weight
        there[rows] = np.maximum(y**2 - y, 0) @ weight
    missed = np.maximum(missed, 0)
    return np.divide(missed, np.maximum(missed, there), out=np.zeros(len(missed)), where=missed > 0)
