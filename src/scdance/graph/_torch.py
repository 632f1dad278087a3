"""The border to torch, PyTorch Geometric and DGL."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from scdance._checks import package

CACHED = 3 << 19  # numbers (6 MB) that a core keeps at hand, so that rows of a factor are read again at no cost
NARROWEST = 16  # columns, a line of the cache


class Sparse:
    """A fixed sparse matrix for products with torch tensors, ``a @ x``.

    It holds A and Aᵀ as torch CSR, built once: the gradient of A x is Aᵀ g. The weights are constants,
    no gradient reaches them.

    Parameters
    ----------
    a
        (n, m), scipy sparse.
    device
        Where the tensors lie.

    Examples
    --------
    >>> import torch
    >>> from scipy.sparse import eye_array
    >>> from scdance import graph
    >>> (graph.Sparse(2 * eye_array(2, format="csr")) @ torch.ones(2, 1)).tolist()
    [[2.0], [2.0]]
    """

    def __init__(self, a: csr_matrix, device: str | torch.device = "cpu") -> None:
        a = a.tocsr()
        self.shape: tuple[int, int] = a.shape
        self.forward = _csr(a).to(device)
        self.backward = _csr(a.T.tocsr()).to(device)
        self._order: torch.Tensor | None = None  # where the entries of Aᵀ stand in A

    def to(self, device: str | torch.device) -> Sparse:
        """Move both matrices to a device; returns the same object."""
        self.forward, self.backward = self.forward.to(device), self.backward.to(device)
        return self

    @property
    def T(self) -> Sparse:
        """The transposed matrix, which shares its tensors with this one."""
        new = object.__new__(Sparse)
        new.shape, new._order = (self.shape[1], self.shape[0]), None
        new.forward, new.backward = self.backward, self.forward
        return new

    def dropout(self, p: float) -> Sparse:
        """The matrix with each entry left out with probability `p`, the others divided by 1 − p.

        Drawn from the global generator of torch, which methods fork.
        """
        values = self.forward.values()
        if self._order is None:
            columns, starts = (each.cpu().numpy() for each in (self.forward.col_indices(), self.forward.crow_indices()))
            place = csr_matrix((np.arange(len(columns)), columns, starts), shape=self.shape)
            self._order = torch.from_numpy(place.T.tocsr().data).to(values.device)
        values = values * (torch.rand_like(values) >= p) / (1 - p)
        new = object.__new__(Sparse)
        new.shape, new._order = self.shape, self._order
        new.forward = _with_values(self.forward, values)
        new.backward = _with_values(self.backward, values[self._order])
        return new

    def __matmul__(self, x: torch.Tensor) -> torch.Tensor:
        return spmm(self, x)


def csr_tensor(
    starts: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]
) -> torch.Tensor:
    """A torch CSR tensor, without the warnings that torch gives with the first one of a process.

    Parameters
    ----------
    starts, columns
        Where each row begins, (n + 1,), and the column of each entry, (nnz,), as int64; they are not checked.
    values
        The entries, (nnz,).
    shape
        Rows and columns.

    Returns
    -------
    Sparse tensor of that shape, on the device of the values.

    Examples
    --------
    >>> import torch
    >>> from scdance import graph
    >>> starts, columns = torch.tensor([0, 1, 2]), torch.tensor([1, 0])
    >>> graph.csr_tensor(starts, columns, torch.ones(2), (2, 2)).to_dense().tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of a beta state
        return torch.sparse_csr_tensor(starts, columns, values, size=shape, check_invariants=False)


def _csr(a: csr_matrix) -> torch.Tensor:
    # int64 costs 15 % of the product, but int32 is not taken by every build of torch.
    starts, columns = (torch.from_numpy(each.astype(np.int64)) for each in (a.indptr, a.indices))
    return csr_tensor(starts, columns, torch.from_numpy(a.data.astype(np.float32)), a.shape)


def _with_values(a: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return csr_tensor(a.crow_indices(), a.col_indices(), values, (a.shape[0], a.shape[1]))


def _times(a: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A x, where x is large some columns at a time: the same sums, without a trip to memory for each entry of A."""
    n_parts = min(-(-x.numel() // CACHED), -(-x.shape[1] // NARROWEST))
    if x.is_cuda or n_parts <= 1:
        return a @ x
    return torch.cat([a @ part.contiguous() for part in x.chunk(n_parts, dim=1)], dim=1)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: Sparse) -> torch.Tensor:
        ctx.a = a
        return _times(a.forward, x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _times(ctx.a.backward, gradient.contiguous()), None


def spmm(a: Sparse, x: torch.Tensor) -> torch.Tensor:
    """Multiply a fixed sparse matrix with a dense tensor; the gradient goes to the tensor only.

    Parameters
    ----------
    a
        (n, m).
    x
        (m, d), float32, on the device of `a`.

    Returns
    -------
    (n, d), float32.

    Examples
    --------
    >>> import torch
    >>> from scipy.sparse import eye_array
    >>> from scdance import graph
    >>> x = torch.ones(2, 1, requires_grad=True)
    >>> graph.spmm(graph.Sparse(2 * eye_array(2, format="csr")), x).sum().backward()
    >>> x.grad.tolist()
    [[2.0], [2.0]]
    """
    product: torch.Tensor = _Product.apply(x, a)
    return product


def to_pyg(a: csr_matrix, x: Any = None, *, nodes: tuple[str, str] | None = None) -> Any:
    """Hand a graph to PyTorch Geometric.

    Parameters
    ----------
    a
        Weights, CSR; row v holds the edges that arrive at node v, so ``a @ x`` is one round of messages.
    x
        Features of the nodes, (n, d); for two kinds of nodes a pair of them, either may be None.
    nodes
        None for a graph of one kind of nodes, (n, n). The names of the row nodes and of the column
        nodes for a bipartite one, (n, m), for example ``("cell", "gene")``.

    Returns
    -------
    A ``Data`` with `edge_index`, `edge_weight` and `x`; for two kinds of nodes a ``HeteroData`` with the
    edges (column node, "to", row node) and the same ones backwards.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> data = graph.to_pyg(graph.knn(np.array([[0.0], [1.0], [3.0]]), k=1))
    >>> data.num_nodes, data.num_edges
    (3, 3)
    """
    from torch_geometric.data import Data, HeteroData

    source, target, weight = _edges(a)
    if nodes is None:
        return Data(x=_features(x), edge_index=torch.stack([source, target]), edge_weight=weight, num_nodes=a.shape[0])
    data = HeteroData()
    for name, size, features in zip(nodes, a.shape, x or (None, None), strict=True):
        data[name].num_nodes = size
        if features is not None:
            data[name].x = _features(features)
    rows, columns = nodes
    data[columns, "to", rows].edge_index = torch.stack([source, target])
    data[rows, "to", columns].edge_index = torch.stack([target, source])
    data[columns, "to", rows].edge_weight = data[rows, "to", columns].edge_weight = weight
    return data


def to_dgl(a: csr_matrix, x: Any = None, *, nodes: tuple[str, str] | None = None) -> Any:
    """Hand a graph to DGL, an optional package that no method of scdance needs.

    Parameters
    ----------
    a
        Weights, CSR; row v holds the edges that arrive at node v.
    x
        Features of the nodes, (n, d); for two kinds of nodes a pair of them, either may be None.
    nodes
        None for a graph of one kind of nodes, or the names of the row nodes and of the column nodes.

    Returns
    -------
    A ``DGLGraph``; weights in ``edata["w"]``, features in ``ndata["x"]``. With two kinds of nodes it has
    the edges (column node, "to", row node) and the same ones backwards.

    Raises
    ------
    MissingPackageError
        If dgl cannot be imported; dgl 1.1.3 on Python 3.11 is the version known to work.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import graph
    >>> found = graph.to_dgl(graph.knn(np.array([[0.0], [1.0], [3.0]]), k=1))  # doctest: +SKIP
    """
    dgl = package("dgl", extra="dgl", why="Export to DGL (known to work: dgl==1.1.3 on Python 3.11)")
    source, target, weight = _edges(a)
    if nodes is None:
        graph = dgl.graph((source, target), num_nodes=a.shape[0])
        graph.edata["w"] = weight
        if x is not None:
            graph.ndata["x"] = _features(x)
        return graph
    rows, columns = nodes
    there, back = (columns, "to", rows), (rows, "to", columns)
    graph = dgl.heterograph(
        {there: (source, target), back: (target, source)},
        num_nodes_dict=dict(zip(nodes, a.shape, strict=True)),
    )
    graph.edges[there].data["w"] = graph.edges[back].data["w"] = weight
    for name, features in zip(nodes, x or (None, None), strict=True):
        if features is not None:
            graph.nodes[name].data["x"] = _features(features)
    return graph


def _edges(a: csr_matrix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Source, target and weight of each edge, in the order of the rows."""
    edges = a.tocoo()
    source, target = (torch.from_numpy(index.astype(np.int64)) for index in (edges.col, edges.row))
    return source, target, torch.from_numpy(edges.data.astype(np.float32))


def _features(x: Any) -> torch.Tensor | None:
    return None if x is None else torch.as_tensor(np.asarray(x), dtype=torch.float32)
