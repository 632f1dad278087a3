"""Deep embedded clustering: Student-t assignment to centres, the sharper target, and the loss between.

Cells z_i, centres μ_j, degrees of freedom α:

    q_ij ∝ (1 + |z_i − μ_j|²/α)^(−(α+1)/2),    p_ij ∝ q_ij² / Σ_i q_ij,    L = mean_i Σ_j p_ij log(p_ij/q_ij)

The target p is a constant, taken from all cells and refreshed once per epoch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_DIRECT = 1 << 26  # entries of the cells × centres × dimensions array up to which differences are formed


def log_soft_assignment(z: Tensor, centers: Tensor, alpha: float = 1.0) -> Tensor:
    """Log-probability that each cell belongs to each centre, under a Student-t kernel.

    Parameters
    ----------
    z
        Cells, (n_obs, n_latent).
    centers
        Centres, (n_clusters, n_latent).
    alpha
        Degrees of freedom > 0 of the kernel.

    Returns
    -------
    log q, (n_obs, n_clusters); the rows of its exponential sum to 1.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> cells, centers = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0]])
    >>> [[round(q, 3) for q in row] for row in nn.log_soft_assignment(cells, centers).exp().tolist()]
    [[0.833, 0.167], [0.5, 0.5]]
    """
    kernel = -(alpha + 1) / 2 * torch.log1p(_squared_distances(z, centers) / alpha)
    return torch.log_softmax(kernel, dim=1)


def target_distribution(q: Tensor) -> Tensor:
    """Sharpened assignment that the clustering stage pulls q towards; carries no gradient.

    Parameters
    ----------
    q
        Soft assignment of all cells, (n_obs, n_clusters), rows sum to 1.

    Returns
    -------
    p, (n_obs, n_clusters), rows sum to 1. Dividing by the cluster masses keeps large clusters from
    swallowing small ones.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> p = nn.target_distribution(torch.tensor([[0.8, 0.2], [0.2, 0.8]]))
    >>> [[round(value, 3) for value in row] for row in p.tolist()]
    [[0.941, 0.059], [0.059, 0.941]]
    """
    q = q.detach()
    weight = q.square() / q.sum(dim=0).clamp_min(torch.finfo(q.dtype).tiny)
    return weight / weight.sum(dim=1, keepdim=True)


def dec_loss(log_q: Tensor, p: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(P‖Q), mean over cells.

    Parameters
    ----------
    log_q
        Log of the soft assignment, (n_obs, n_clusters).
    p
        Target for the same cells, (n_obs, n_clusters), a constant.

    Returns
    -------
    A scalar ≥ 0.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> q = torch.tensor([[0.8, 0.2], [0.2, 0.8]])
    >>> nn.dec_loss(q.log(), q).item()
    0.0
    """
    p = p.detach()
    return (torch.special.xlogy(p, p) - p * log_q).sum(dim=1).mean()


class DEC(nn.Module):
    """Cluster centres as trainable parameters.

    Parameters
    ----------
    centers
        Starting centres, (n_clusters, n_latent).
    alpha
        Degrees of freedom of the Student-t kernel.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.DEC(torch.zeros(3, 2))(torch.ones(5, 2)).shape
    torch.Size([5, 3])
    """

    def __init__(self, centers: Tensor, alpha: float = 1.0) -> None:
        super().__init__()
        self.centers = nn.Parameter(centers.detach().clone())
        self.alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        """Log of the soft assignment of cells `z`, (n_obs, n_clusters)."""
        return log_soft_assignment(z, self.centers, self.alpha)


def _squared_distances(z: Tensor, centers: Tensor) -> Tensor:
    if len(z) * centers.numel() <= _DIRECT:  # exact near a centre, where the expansion cancels
        return (z[:, None, :] - centers).square().sum(dim=2)
    origin = centers.mean(dim=0)
    z, centers = z - origin, centers - origin
    cross = z @ centers.T
    return (z.square().sum(1, keepdim=True) + centers.square().sum(1) - 2 * cross).clamp_min(0)
