"""Reconstruction of a graph from vectors of its nodes, in memory linear in the nodes.

Scores s_ij = l_i · r_j, weights a_ij of which most are 0, N nodes:

    L = 1/N² Σ_ij (σ(s_ij) − a_ij)² = 1/N² [Σ_edges (a_ij² − 2 a_ij σ(s_ij)) + Σ_ij σ(s_ij)²]

The left form is evaluated exactly, a block of rows at a time; of the right one the second sum can be sampled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

EXACT_UP_TO = 5000  # nodes; above, the sum over all pairs is sampled
PARTNERS = 20  # drawn for each node, or as many as it has edges on average
_BLOCK = 1 << 20  # pairs scored at once, which bounds the memory of the exact loss


def adjacency_loss(left: Tensor, right: Tensor, a: Tensor, *, exact_up_to: int = EXACT_UP_TO) -> Tensor:
    """Mean squared error between the weights of a graph and the predicted probabilities of its edges.

    Exact for few nodes. For more, the sum over all pairs is estimated from fresh random partners of each node,
    without bias; they come from the global generator of torch, which methods fork.

    Parameters
    ----------
    left, right
        Vectors of the nodes, (n, d) each; an edge from i to j has the probability σ(left_i · right_j).
    a
        Weights, (n, n), a torch CSR tensor such as the `forward` of :class:`scdance.graph.Sparse`; a constant.
    exact_up_to
        Most nodes for which all pairs are scored.

    Returns
    -------
    The mean over all n² pairs, a scalar. Differentiable once, in `left` and `right`.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nodes = torch.zeros(4, 2, requires_grad=True)  # every pair has probability ½
    >>> nn.adjacency_loss(nodes, nodes, torch.eye(4).to_sparse_csr()).item()
    0.25
    """
    if len(left) <= exact_up_to:
        return _Exact.apply(left, right, a)  # type: ignore[no-any-return]
    return _sampled(left, right, a)


class _Exact(torch.autograd.Function):
    """Value and slopes in one sweep over blocks of rows; backward only scales what was kept."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, a: Tensor) -> Tensor:
        n = len(left)
        starts, columns, weights = a.crow_indices(), a.col_indices(), a.values()
        by_left, by_right = torch.empty_like(left), torch.zeros_like(right)
        size, total = max(1, _BLOCK // max(1, n)), left.new_zeros(())
        for first in range(0, n, size):
            here, last = slice(first, first + size), min(first + size, n)
            edges = slice(int(starts[first]), int(starts[last]))
            rows = torch.repeat_interleave(starts[first : last + 1].diff())
            p = (left[here] @ right.T).sigmoid_()
            slope = p.square().neg_().add_(p)  # σ' = σ − σ²
            p[rows, columns[edges]] -= weights[edges]
            total += p.square().sum()
            slope *= p
            by_left[here] = slope @ right
            by_right += slope.T @ left[here]
        ctx.save_for_backward(by_left, by_right)
        return total / n**2

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        by_left, by_right = ctx.saved_tensors
        scale = 2 * grad / len(by_left) ** 2
        return by_left * scale, by_right * scale, None


def _sampled(left: Tensor, right: Tensor, a: Tensor) -> Tensor:
    n = len(left)
    columns, weights = a.col_indices(), a.values()
    rows = torch.repeat_interleave(a.crow_indices().diff())
    at_edges = (left[rows] * right[columns]).sum(dim=1).sigmoid()
    on_edges = (weights.square() - 2 * weights * at_edges).sum()
    partners = torch.randint(n, (n, max(PARTNERS, -(-len(columns) // n))), device=left.device)
    anywhere = torch.einsum("nd,nmd->nm", left, right[partners]).sigmoid()
    return on_edges / n**2 + anywhere.square().mean()
