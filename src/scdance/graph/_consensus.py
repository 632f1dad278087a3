"""One partition out of several, and how far each cell stays with its like."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError

from ._partition import by_size, leiden

MOST_GROUPS = 10_000  # different combinations of clusters; their pairs are looked at in blocks
BLOCK = 2048


class Consensus(NamedTuple):
    """A consensus of partitions.

    Attributes
    ----------
    labels
        Cluster of each cell, (n,), int32, 0 is the largest.
    stability
        Mean share of the partitions that put a cell together with a cell of its cluster, itself apart, (n,)
        float32 in [0, 1]; 1 where it is alone.
    boundary
        Whether the cells of another cluster are at least half as often beside it as those of its own, (n,) bool.
    """

    labels: np.ndarray
    stability: np.ndarray
    boundary: np.ndarray


def consensus(
    partitions: np.ndarray, *, resolution: float = 1.0, together: float = 0.5, random_state: int = 0
) -> Consensus:
    """Leiden communities of the graph in which cells are joined by how often partitions put them together.

    Cells that all partitions treat alike are one node of the graph, whose weights count all their pairs, so nothing
    of the size n × n is made and nothing is lost.

    Parameters
    ----------
    partitions
        Cluster of each cell in each partition, (n, n_partitions) codes; −1: in none.
    resolution
        Resolution of Leiden; higher gives more clusters.
    together
        Pairs that a smaller share of the partitions puts together are no edge, 0 to 1.
    random_state
        Seed of the order in which cells are visited.

    Returns
    -------
    Labels, stability and boundary of each cell.

    Raises
    ------
    InputError
        No cell has a cluster, or the partitions agree so little that there are too many combinations.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> three = np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]])
    >>> graph.consensus(three).labels.tolist()
    [1, 1, 0, 0, 0]
    """
    partitions = np.asarray(partitions)
    if not (partitions >= 0).any():
        msg = "No cell has a cluster in any partition, so there is nothing to agree on."
        raise InputError(msg)
    groups, of, sizes = np.unique(partitions, axis=0, return_inverse=True, return_counts=True)
    of = of.ravel()
    if len(groups) > MOST_GROUPS:
        msg = (
            f"The {partitions.shape[1]} partitions put the cells into {len(groups)} different combinations of "
            f"clusters; at most {MOST_GROUPS} can be compared. Pass fewer or coarser ones."
        )
        raise InputError(msg)
    ones = _one_hot(groups)
    a = _weights(ones, groups.shape[1], sizes, together)
    codes, _ = by_size(np.repeat(leiden(a, resolution=resolution, random_state=random_state), sizes))
    codes = codes[np.cumsum(sizes) - sizes]  # of each group; numbered by the cells in them
    stability, boundary = _stability(ones, groups.shape[1], sizes, codes)
    return Consensus(codes[of].astype(np.int32), stability[of].astype(np.float32), boundary[of])


def _one_hot(groups: np.ndarray) -> sp.csr_matrix:
    """Which cluster of which partition each group is in, (n_groups, n_clusters of all) CSR."""
    offsets = np.concatenate([[0], np.cumsum(groups.max(axis=0) + 1)[:-1]])
    rows, columns = np.nonzero(groups >= 0)
    where = groups[rows, columns] + offsets[columns]
    shape = (len(groups), int((groups.max(axis=0) + 1).sum()))
    return sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, where)), shape=shape)


def _weights(ones: sp.csr_matrix, n: int, sizes: np.ndarray, together: float) -> sp.csr_matrix:
    """Weights between groups: share of the partitions that put them together × pairs of their cells."""
    parts = []
    for start in range(0, ones.shape[0], BLOCK):
        share = (ones[start : start + BLOCK] @ ones.T).tocsr()
        share.data /= n
        share.data[share.data < together] = 0
        share.eliminate_zeros()
        parts.append(share)
    a = sp.vstack(parts, format="csr")
    scale = sp.diags(sizes.astype(np.float64))
    return (scale @ a @ scale).tocsr()


def _stability(ones: sp.csr_matrix, n: int, sizes: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean share of the partitions that put a cell with those of its own cluster, and whether another is near."""
    k = int(codes.max()) + 1
    members = sp.csr_matrix((sizes.astype(np.float64), (codes, np.arange(len(codes)))), shape=(k, len(codes)))
    shared = np.asarray((ones @ (members @ ones).T).todense()) / n  # with all cells of each cluster, summed
    counts = np.bincount(codes, weights=sizes, minlength=k)
    own = np.arange(len(codes)), codes
    itself = np.asarray(ones.sum(axis=1)).ravel() / n
    others = counts[codes] - 1
    within = np.where(others > 0, (shared[own] - itself) / np.maximum(others, 1), 1.0)
    mean = shared / counts
    mean[own] = 0
    return np.clip(within, 0, 1), mean.max(axis=1) >= within / 2 if k > 1 else np.zeros(len(codes), dtype=bool)
