"""Positional encodings of cells: what a net makes of where each lies in a tissue, or in the graph of its neighbours."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATConv, GINConv

PATCHES = 100  # along each axis
SLOWEST = 1e4  # longest wavelength over the shortest one
SIGN_WIDTH, SIGN_OUT, SIGN_HIDDEN = 64, 4, 64  # of φ: its hidden layers and its output; of ρ


def sinusoid(places: Tensor, width: int) -> Tensor:
    """Sines and cosines of two coordinates, half of the numbers for each [Vaswani2017]_.

    Parameters
    ----------
    places
        Coordinates, (n, 2), such as 0 to 100.
    width
        Numbers of an encoding, a multiple of 4.

    Returns
    -------
    (n, width): for each axis sin and cos of x / 10000^(4i/width), i from 0 to width/4 − 1. The squares of a row add up
    to width/2.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.sinusoid(torch.zeros(1, 2), 4).tolist()
    [[0.0, 1.0, 0.0, 1.0]]
    """
    i = torch.arange(width // 4, device=places.device)
    angles = places[:, :2, None] / SLOWEST ** (4 * i / width)
    return torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1)


class PatchPlaces(nn.Module):
    """A learnt vector for each patch of the tissue, of 100 × 100.

    Parameters
    ----------
    width
        Numbers of an encoding.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.PatchPlaces(8)(torch.tensor([[0.0, 1.0]])).shape
    torch.Size([1, 8])
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(PATCHES * PATCHES, width)

    def forward(self, places: Tensor) -> Tensor:
        """Encodings, (n, width), of coordinates in [0, 1], (n, 2)."""
        x, y = (places[:, :2] * PATCHES).long().clamp(0, PATCHES - 1).unbind(dim=1)
        return self.table(x * PATCHES + y)  # type: ignore[no-any-return]


class SignNet(nn.Module):
    """Eigenvectors of a graph, of whatever sign: ρ of φ(v) + φ(−v), with φ a net on the graph [Lim2023]_.

    Parameters
    ----------
    k
        Number of eigenvectors.
    width
        Numbers of an encoding.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> v, edges = torch.randn(5, 2), torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4]])
    >>> net = nn.SignNet(2, 8).eval()
    >>> torch.allclose(net(v, edges), net(-v, edges))
    True
    """

    def __init__(self, k: int, width: int) -> None:
        super().__init__()
        sizes = [1, SIGN_WIDTH, SIGN_WIDTH, SIGN_OUT]
        self.layers = nn.ModuleList(GINConv(nn.Linear(a, b)) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes[1:])
        self.rho = nn.Sequential(nn.Linear(k * SIGN_OUT, SIGN_HIDDEN), nn.ReLU(), nn.Linear(SIGN_HIDDEN, width))

    def forward(self, v: Tensor, edges: Tensor) -> Tensor:
        """Encodings, (n, width), of eigenvectors, (n, k), on a graph with these edges, (2, n_edges)."""
        h = self._phi(v, edges) + self._phi(-v, edges)
        return self.rho(h.permute(1, 0, 2).flatten(1))  # type: ignore[no-any-return]

    def _phi(self, v: Tensor, edges: Tensor) -> Tensor:
        """φ of each eigenvector by itself, (k, n, 4)."""
        h = v.T[:, :, None]
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = layer(h, edges)
            h = functional.relu(norm(h.flatten(0, 1)).unflatten(0, h.shape[:2]))
        return h


class NeighborPlaces(nn.Module):
    """What a cell makes of its neighbours in the tissue, by graph attention [Velickovic2018]_.

    It says where a cell lies by what lies around it, and so does not change when the tissue is moved or turned.

    Parameters
    ----------
    width
        Numbers of a state and of an encoding, a multiple of `heads`.
    heads
        Heads.

    Examples
    --------
    >>> import torch
    >>> from scdance import nn
    >>> nn.NeighborPlaces(16)(torch.zeros(3, 16), torch.tensor([[0, 1], [1, 2]])).shape
    torch.Size([3, 16])
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.attention = GATConv(width, width // heads, heads, add_self_loops=True)

    def forward(self, h: Tensor, edges: Tensor) -> Tensor:
        """Encodings, (n, width), of cells with states `h` that hear each other along `edges`, (2, n_edges)."""
        return self.attention(h, edges)  # type: ignore[no-any-return]
