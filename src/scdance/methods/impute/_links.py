"""The graph of cells of scGNN: who is linked, the autoencoder that predicts it, and what it weighs in other losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from scdance.graph import Sparse, knn, normalize, symmetric

PLAIN = {1: 0.0, 2: 0.3}  # γ by version: weight of the squared errors beside those of graph and clusters
EXACT_UP_TO, PARTNERS = 5000, 20  # cells, above which pairs are drawn, and how many for each at least
PAIRS = 1 << 20  # scored at once
GRAPH_HIDDEN, GRAPH_LATENT = 32, 16  # widths of the graph autoencoder


class GraphAutoencoder(nn.Module):
    """Mean and logarithm of the standard deviation of each cell: two layers Â X W."""

    def __init__(self, n_in: int) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, GRAPH_HIDDEN, bias=False)
        self.second = nn.Linear(GRAPH_HIDDEN, 2 * GRAPH_LATENT, bias=False)

    def forward(self, x: Tensor, a: Sparse) -> tuple[Tensor, Tensor]:
        h = (a @ self.first(x)).relu()
        mean, log_sd = (a @ self.second(h)).chunk(2, dim=1)
        return mean, log_sd.clamp(-10, 10)


def linked(z: np.ndarray, k: int, *, random_state: int = 0) -> csr_matrix:
    """Link each cell to those of its k nearest that are not too far.

    Parameters
    ----------
    z
        Points, (n, d).
    k
        Neighbours of a cell, of which those are linked whose distance is at most the mean of the k distances and one
        standard deviation.
    random_state
        Seed of the approximate search among very many cells.

    Returns
    -------
    (n, n), symmetric CSR of ones, nothing on the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance.methods.impute._links import linked
    >>> linked(np.array([[0.0], [1.0], [2.0], [9.0]]), 3)[[0]].toarray().tolist()
    [[0.0, 1.0, 1.0, 0.0]]
    """
    a = knn(z, k, random_state=random_state)
    n, per_cell = a.shape[0], max(1, min(k, a.shape[0] - 1))
    distances = a.data.reshape(n, -1).astype(np.float64) if a.nnz else np.zeros((n, 0))
    if a.nnz:
        limit = distances.mean(axis=1) + distances.std(axis=1)
        keep = distances <= limit[:, None] * (1 + 1e-6)  # equal distances differ from their mean by rounding
        a.data = np.ones(n * per_cell, dtype=np.float32) * keep.ravel()
    return symmetric(a)


def cell_weights(a: csr_matrix, labels: np.ndarray, version: int, graph: float, celltype: float) -> np.ndarray:
    """Weights of the squared errors of the cells, to which the regularisers come down.

    The authors multiply the squared errors E, (n_obs, n_vars), with an adjacency A and an indicator B of cells in the
    same cluster, both (n_obs, n_obs), and sum: Σ (A E) = Σ_j (Σ_i A_ij) Σ_g E_jg, so that a weight per cell does the
    same. Version 2 looks at one cluster at a time and divides the rows of A and B by their sums, whereby each column
    of B sums to 1.

    Parameters
    ----------
    a
        Links, (n_obs, n_obs), symmetric CSR of ones.
    labels
        Clusters, (n_obs,) codes.
    version
        1 or 2.
    graph, celltype
        Weights of A and of B.

    Returns
    -------
    (n_obs,) float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from scdance.methods.impute._links import cell_weights
    >>> cell_weights(csr_matrix(np.array([[0, 1], [1, 0]])), np.zeros(2, int), 1, 0.5, 0.25).tolist()
    [1.0, 1.0]
    """
    if version == 1:
        in_cluster = np.bincount(labels)[labels]
        out = PLAIN[1] + graph * np.asarray(a.sum(axis=0)).ravel() + celltype * in_cluster
        return out.astype(np.float32)
    edges = a.tocoo()
    inside = labels[edges.row] == labels[edges.col]
    within = csr_matrix((edges.data[inside], (edges.row[inside], edges.col[inside])), shape=a.shape)
    columns = np.asarray(normalize(within, "row").sum(axis=0)).ravel()
    return (PLAIN[2] + graph * columns + celltype).astype(np.float32)


def link_loss(z: Tensor, links: Tensor, *, exact_up_to: int = EXACT_UP_TO) -> Tensor:
    """Weighted cross-entropy of the links of cells and of their inner products, in memory linear in the cells.

    With s_ij = z_i · z_j, E links among N² pairs, w = (N² − E) / E and the factor N² / 2 (N² − E):

        1 / 2 (N² − E) [Σ_links (w softplus(−s) − softplus(s)) + Σ_pairs softplus(s)]

    of which the last sum is exact for few cells, and estimated from random partners of each cell for more.

    Parameters
    ----------
    z
        Embedding, (n, d).
    links
        Ones where cells are linked, (n, n), a torch CSR tensor, the diagonal included.
    exact_up_to
        Most cells for which all pairs are scored.

    Returns
    -------
    The loss, a scalar. Differentiable once.

    Examples
    --------
    >>> import torch
    >>> from scdance.methods.impute._links import link_loss
    >>> round(link_loss(torch.zeros(4, 2), torch.eye(4).to_sparse_csr()).item(), 4)  # log 2: all pairs are even
    0.6931
    """
    n, columns = len(z), links.col_indices()
    rows, n_links = torch.repeat_interleave(links.crow_indices().diff()), len(columns)
    rest = max(n * n - n_links, 1)
    at_links = (z[rows] * z[columns]).sum(dim=1)
    of_links = (rest / n_links * softplus(-at_links) - softplus(at_links)).sum()
    if n <= exact_up_to:
        of_pairs = _AllPairs.apply(z)
    else:
        partners = torch.randint(n, (n, max(PARTNERS, -(-n_links // n))), device=z.device)
        of_pairs = n * n * softplus(torch.einsum("nd,nmd->nm", z, z[partners])).mean()
    return (of_links + of_pairs) / (2 * rest)  # type: ignore[no-any-return]


class _AllPairs(torch.autograd.Function):
    """Σ_ij softplus(z_i · z_j) and its slopes 2 Σ_j σ(z_i · z_j) z_j, a block of rows at a time."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        slopes, total = torch.empty_like(z), z.new_zeros((), dtype=torch.float64)
        for rows in torch.arange(len(z), device=z.device).split(max(1, PAIRS // max(1, len(z)))):
            scores = z[rows] @ z.T
            total += softplus(scores).sum()
            slopes[rows] = 2 * (scores.sigmoid_() @ z)
        ctx.save_for_backward(slopes)
        return total.to(z)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]  # type: ignore[no-any-return]
