"""Marker genes between clusters from sums alone, and the clusters that too few of them tell apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, whole_number

from ._groups import Moments, group_moments
from ._rows import Rows, Transformed

TARGET = 1e4  # depth that every cell is scaled to
NEAR_ZERO = 1e-9  # added to means before their ratio is taken, as scanpy does


class Markers(NamedTuple):
    """How two clusters differ, gene by gene.

    Attributes
    ----------
    t, fdr
        Statistic of Welch's test, above 0 where the first is higher, and its false discovery rate by Benjamini and
        Hochberg, (n_vars,) float64; 0 and 1 where there is nothing to test.
    log2_fold_change
        Logarithm of the mean expression of the first over that of the second, (n_vars,) float64; the means are
        those of the logarithms, taken back, as in scanpy.
    share
        Share of the cells that express the gene in the cluster where its mean is higher, (n_vars,) float64.
    """

    t: np.ndarray
    fdr: np.ndarray
    log2_fold_change: np.ndarray
    share: np.ndarray


class Merges(NamedTuple):
    """Clusters that were merged, and what keeps the others apart.

    Attributes
    ----------
    groups
        The clusters in each group that is left, in the order of their first ones.
    steps
        The merges in order: the clusters of either side, and the number of genes between them.
    apart
        Groups that stay apart, by their places in `groups`, with the genes that are higher in the first and in the
        second, by descending statistic; the pairs with the fewest genes come first.
    """

    groups: list[list[int]]
    steps: list[tuple[list[int], list[int], int]]
    apart: list[tuple[int, int, np.ndarray, np.ndarray]]


def cluster_sums(counts: Rows, codes: np.ndarray, depth: np.ndarray) -> Moments:
    """Sum up the log-normalised expression of clusters, in one pass over the cells.

    Parameters
    ----------
    counts
        Raw counts, (n_obs, n_vars).
    codes
        Cluster of each cell, (n_obs,) whole numbers; cells with −1 take no part.
    depth
        Sum of the counts of each cell, (n_obs,); cells without counts take no part.

    Returns
    -------
    The sums of each cluster, down to those without a cell, of log(1 + counts per 10,000).

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> counts = pp.canonical(np.array([[1, 1], [0, 2], [3, 1]]))
    >>> sums = pp.cluster_sums(counts, np.array([0, 0, 1]), np.array([2, 2, 4]))
    >>> sums.n.tolist(), sums.total.round(1).tolist(), sums.filled.tolist()
    ([2, 1], [[8.5, 17.7], [8.9, 7.8]], [[1.0, 2.0], [1.0, 1.0]])
    """
    codes, depth = np.asarray(codes), np.asarray(depth, dtype=np.float64)

    def log_normalised(block: sp.csr_matrix, rows: np.ndarray) -> sp.csr_matrix:
        factor = TARGET / np.where(depth[rows] > 0, depth[rows], 1)
        values = np.log1p(block.data * np.repeat(factor, np.diff(block.indptr)))
        return sp.csr_matrix((values, block.indices, block.indptr), shape=block.shape)

    x = Transformed(counts, np.arange(counts.shape[0]), log_normalised, counts.shape[1])
    return group_moments(x, np.where(depth > 0, codes, -1), int(codes.max(initial=-1)) + 1)


def marker_test(sums: Moments, first: int, second: int) -> Markers:
    """Compare two clusters by Welch's t test of log-normalised expression.

    Parameters
    ----------
    sums
        Sums of the clusters, as :func:`cluster_sums` makes them.
    first, second
        Two of them.

    Returns
    -------
    Statistic, false discovery rate, fold change and share of cells for each gene. A cluster of a single cell has no
    variance, so nothing can be told of it: all its rates are 1.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> x = np.random.default_rng(0).poisson(np.repeat([[9, 2, 50], [2, 9, 50]], 50, axis=0))
    >>> sums = pp.cluster_sums(pp.canonical(x), np.repeat([0, 1], 50), x.sum(axis=1))
    >>> found = pp.marker_test(sums, 0, 1)
    >>> found.log2_fold_change[:2].round().tolist(), (found.fdr < 0.05).tolist()
    ([3.0, -3.0], [True, True, False])
    """
    from scipy.stats import false_discovery_control, ttest_ind_from_stats

    both = [first, second]
    n = np.maximum(sums.n[both], 1)[:, None]
    mean, share = sums.total[both] / n, sums.filled[both] / n
    with np.errstate(divide="ignore", invalid="ignore"):  # one cell: 0 / 0, no variance
        variance = np.maximum(sums.square[both] - n * mean**2, 0) / (n - 1)
        t, p = ttest_ind_from_stats(
            mean[0], np.sqrt(variance[0]), n[0], mean[1], np.sqrt(variance[1]), n[1], equal_var=False
        )
    known = np.isfinite(p)
    ratio = np.subtract(*np.log2(np.expm1(mean) + NEAR_ZERO))
    return Markers(
        t=np.where(known, t, 0.0),
        fdr=np.asarray(false_discovery_control(np.where(known, p, 1.0))),
        log2_fold_change=ratio,
        share=np.where(ratio > 0, share[0], share[1]),
    )


def merge_by_markers(
    sums: Moments,
    *,
    min_genes: int = 5,
    min_log2_fold_change: float = 1.0,
    max_fdr: float = 0.05,
    min_share: float = 0.1,
) -> Merges:
    """Merge the two clusters with the fewest genes between them, until every pair has enough.

    Among pairs with equally few, the one whose mean profiles lie nearer to each other comes first. Sums add up, so the
    cells are not looked at again.

    Parameters
    ----------
    sums
        Sums of the clusters, as :func:`cluster_sums` makes them; best of cells that were not used to find them.
    min_genes
        Genes that keep two clusters apart, at least 1.
    min_log2_fold_change
        Smallest fold change of such a gene, in powers of 2, at least 0.
    max_fdr
        Largest false discovery rate of such a gene, above 0 and at most 1.
    min_share
        Smallest share of the cells of the higher cluster that express such a gene, 0 to 1.

    Returns
    -------
    The groups, the merges that led to them, and the genes between them.

    Raises
    ------
    InputError
        A number is out of its range.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> rates = np.repeat([[9, 2, 50], [2, 9, 50], [2, 9, 50]], 50, axis=0)
    >>> x = np.random.default_rng(0).poisson(rates)
    >>> sums = pp.cluster_sums(pp.canonical(x), np.repeat([0, 1, 2], 50), x.sum(axis=1))
    >>> pp.merge_by_markers(sums, min_genes=2).groups
    [[0], [1, 2]]
    """
    _check(min_genes, min_log2_fold_change, max_fdr, min_share)

    def compare(a: int, b: int) -> tuple[int, float, np.ndarray]:
        """Number of genes, distance of the profiles, and the genes with a sign: 1, −1, or 0 for those that fail."""
        found = marker_test(sums, a, b)
        passes = (
            (found.fdr <= max_fdr)
            & (np.abs(found.log2_fold_change) >= min_log2_fold_change)
            & (found.share >= min_share)
        )
        profiles = [sums.total[each] / max(sums.n[each], 1) for each in (a, b)]
        rank = np.where(passes, np.abs(found.t) * np.sign(found.log2_fold_change), 0)
        return int(passes.sum()), float(np.linalg.norm(profiles[0] - profiles[1])), rank

    sums = Moments(*(part.copy() for part in sums))
    groups = {i: [i] for i in range(len(sums.n))}
    pairs = {(a, b): compare(a, b) for a in groups for b in groups if a < b}
    steps = []
    while pairs:
        a, b = min(pairs, key=lambda pair: (*pairs[pair][:2], pair))
        n_genes = pairs[a, b][0]
        if n_genes >= min_genes:
            break
        steps.append((list(groups[a]), list(groups[b]), n_genes))
        groups[a] = sorted(groups[a] + groups.pop(b))
        for part in sums:
            part[a] += part[b]
        pairs = {pair: found for pair, found in pairs.items() if not {a, b} & {*pair}}
        pairs |= {(min(a, c), max(a, c)): compare(min(a, c), max(a, c)) for c in groups if c != a}
    place = {each: i for i, each in enumerate(groups)}
    apart = [
        (place[a], place[b], _descending(rank), _descending(-rank))
        for (a, b), (_, _, rank) in sorted(pairs.items(), key=lambda item: (*item[1][:2], item[0]))
    ]
    return Merges(list(groups.values()), steps, apart)


def _descending(rank: np.ndarray) -> np.ndarray:
    """Positions of the values above 0, the largest first."""
    order = np.argsort(-rank, kind="stable")
    return order[: int((rank > 0).sum())]


def _check(min_genes: int, min_log2_fold_change: float, max_fdr: float, min_share: float) -> None:
    whole_number(min_genes, "min_genes", least=1)
    if not min_log2_fold_change >= 0:
        msg = f"min_log2_fold_change is {min_log2_fold_change!r}, but must be at least 0; 1 stands for a factor of 2."
        raise InputError(msg)
    if not 0 < max_fdr <= 1:
        msg = f"max_fdr is {max_fdr!r}, but must be a rate above 0 and at most 1."
        raise InputError(msg)
    if not 0 <= min_share <= 1:
        msg = f"min_share is {min_share!r}, but must be a share of the cells, from 0 to 1."
        raise InputError(msg)
