"""Products with the Gaussian kernel of many places, without its n × n matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.sparse as sp

from scdance._checks import InputError, one_of

DENSE = 2000  # places up to which the matrix itself is held: 32 MB
STEP = 5  # nodes of the grid per sigma
STENCIL = 8  # nodes per axis from which a value is interpolated
MOST_NODES = 4_000_000  # of a grid: 32 MB a column
SPARSE_COST = 4  # time of a product with a sparse matrix, against that of as many numbers with a dense one
ROUNDING = 1e-11  # of sigma: places on an axis that are nearer are the same
LEAST_VALUE = 1e-12  # eigenvalues of the kernel, as part of the largest, that matter to its determinant
ROWS = 4096  # places that are dense over the eigenvectors at once
BACKENDS = ("auto", "dense", "lattice", "grid")


class GaussKernel:
    """The matrix W with W_ij = exp(−d_ij² / (2 sigma²)) and zeros on the diagonal, as an operator.

    A wide kernel has no zeros to leave out, so it is written as P (K₁ ⊗ K₂ ⊗ …) Pᵀ − I: the axes separate, and P
    leads from the places to the nodes of a grid. On a lattice with few rows and columns the nodes are its own and P
    picks them, which is exact; elsewhere P interpolates from the eight nearest nodes of each axis, to 1e-7. Cost and
    memory grow linearly with the places. Up to 2,000 places, W itself is held.

    Parameters
    ----------
    coords
        Places, (n, n_axes).
    sigma
        Width of the kernel, in the unit of `coords`, above 0.
    groups
        Slice of each place, (n,) int: between two of them W is 0; None: all are in one.
    backend
        "dense": W itself; "lattice": the nodes are the values that occur on each axis; "grid": interpolation; "auto":
        dense up to 2,000 places, else what costs less.

    Raises
    ------
    InputError
        If sigma is not above 0, or so small that the grid would have more than 4 million nodes.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> kernel = pp.GaussKernel(np.array([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), sigma=1.0)
    >>> kernel.degree.round(3).tolist()
    [0.742, 0.689, 0.217]
    """

    def __init__(
        self,
        coords: np.ndarray,
        sigma: float,
        *,
        groups: np.ndarray | None = None,
        backend: Literal["auto", "dense", "lattice", "grid"] = "auto",
    ):
        one_of(backend, BACKENDS, "backend")
        if not sigma > 0:
            msg = f"sigma is {sigma}, but must be above 0."
            raise InputError(msg)
        coords = np.asarray(coords, dtype=np.float64) / sigma
        groups = np.zeros(len(coords), dtype=int) if groups is None else np.asarray(groups)
        rows = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        self._parts = [(each, _part(coords[each] - coords[each].min(axis=0), backend)) for each in rows]
        self.degree = self.matmul(np.ones((len(coords), 1)))[:, 0]
        """Sum of each row of W, (n,)."""

    def matmul(self, v: np.ndarray) -> np.ndarray:
        """W v of an array (n, n_columns)."""
        if len(self._parts) == 1:
            return self._parts[0][1].matmul(v)
        out = np.empty_like(v, dtype=np.float64)
        for rows, part in self._parts:
            out[rows] = part.matmul(v[rows])
        return out

    def logdet(self, phi: float) -> float:
        """Logarithm of the determinant of D − phi W, with D the degrees and phi from 0 to below 1.

        Places without any neighbour are left out.
        """
        return sum(part.logdet(phi, self.degree[rows]) for rows, part in self._parts)


@dataclass(frozen=True)
class _Dense:
    """The matrix itself."""

    w: np.ndarray

    @classmethod
    def of(cls, coords: np.ndarray) -> _Dense:
        square = (coords**2).sum(axis=1)
        distance = np.maximum(square[:, None] + square - 2 * coords @ coords.T, 0)
        w = np.exp(-distance / 2)
        np.fill_diagonal(w, 0)
        return cls(w)

    def matmul(self, v: np.ndarray) -> np.ndarray:
        return self.w @ v

    def logdet(self, phi: float, degree: np.ndarray) -> float:
        linked = degree > 0
        return float(np.linalg.slogdet(np.diag(degree[linked]) - phi * self.w[np.ix_(linked, linked)])[1])


@dataclass(frozen=True)
class _Separable:
    """P (K₁ ⊗ K₂ ⊗ …) Pᵀ − I.

    Attributes
    ----------
    p
        From nodes to places, (n, n_nodes) CSR.
    axes
        Kernel between the nodes of each axis.
    """

    p: sp.csr_array
    axes: list[np.ndarray]

    @classmethod
    def lattice(cls, coords: np.ndarray) -> _Separable:
        values, places = zip(*(np.unique(_rounded(x), return_inverse=True) for x in coords.T), strict=True)
        weights = [np.ones((len(coords), 1))] * len(values)
        return cls(_tensor(weights, [place[:, None] for place in places], values), [_kernel(x) for x in values])

    @classmethod
    def grid(cls, coords: np.ndarray) -> _Separable:
        nodes = [(np.arange(_n_nodes(x)) - STENCIL / 2) / STEP for x in coords.T]
        weights, places = zip(*(_stencil(x) for x in coords.T), strict=True)
        return cls(_tensor(list(weights), list(places), nodes), [_kernel(x) for x in nodes])

    def matmul(self, v: np.ndarray) -> np.ndarray:
        shape = [len(k) for k in self.axes]
        u = self.p.T @ v
        for i, kernel in enumerate(self.axes):
            u = np.matmul(kernel, u.reshape(int(np.prod(shape[:i])), shape[i], -1))
        return self.p @ u.reshape(-1, v.shape[1]) - v

    def logdet(self, phi: float, degree: np.ndarray) -> float:
        """By the determinant lemma on the r eigenvectors of the kernel that matter, O(n r²).

        D − φW = (D + φ) − φ F Fᵀ with F Fᵀ = W + I, so its determinant is |D + φ| |1 − φ Fᵀ (D + φ)⁻¹ F|.
        """
        values, vectors = zip(*(np.linalg.eigh(kernel) for kernel in self.axes), strict=True)
        product = values[0]
        for each in values[1:]:
            product = np.multiply.outer(product, each)
        chosen = np.nonzero(product > LEAST_VALUE * product.max())
        f = np.ones((1, len(chosen[0])))
        for each, columns in zip(vectors, chosen, strict=True):
            f = (f[:, None] * each[:, columns]).reshape(-1, f.shape[1])
        f *= np.sqrt(product[chosen])
        linked = np.flatnonzero(degree > 0)
        inner = np.eye(f.shape[1])
        for start in range(0, len(linked), ROWS):
            rows = linked[start : start + ROWS]
            part = (self.p[rows] @ f) / np.sqrt(degree[rows] + phi)[:, None]
            inner -= phi * part.T @ part
        return float(np.log(degree[linked] + phi).sum() + np.linalg.slogdet(inner)[1])


def _part(coords: np.ndarray, backend: str) -> _Dense | _Separable:
    """The operator of one slice; distances are in sigma."""
    n, n_axes = coords.shape
    grid = [_n_nodes(x) for x in coords.T]
    if backend == "auto" and n > DENSE:
        axes = [len(np.unique(_rounded(x))) for x in coords.T]
        fits = np.prod(np.array(axes, dtype=float)) <= MOST_NODES
        backend = "lattice" if fits and _cost(axes, 1, n) <= _cost(grid, STENCIL**n_axes, n) else "grid"
    if backend in ("auto", "dense"):
        return _Dense.of(coords)
    if backend == "lattice":
        return _Separable.lattice(coords)
    if np.prod(np.array(grid, dtype=float)) > MOST_NODES:
        extent = " × ".join(f"{x:.0f}" for x in np.ptp(coords, axis=0))
        msg = f"The places extend over {extent} sigma, too wide for a grid of {MOST_NODES:,} nodes; raise sigma."
        raise InputError(msg)
    return _Separable.grid(coords)


def _cost(axes: list[int], n_weights: int, n: int) -> float:
    return float(np.prod(np.array(axes, dtype=float))) * sum(axes) + 2 * SPARSE_COST * n_weights * n


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.round(x / ROUNDING) * ROUNDING


def _n_nodes(x: np.ndarray) -> int:
    """Nodes of the grid on one axis: those around every value from 0 to the largest."""
    return int(np.floor(x.max() * STEP)) + STENCIL + 1


def _kernel(x: np.ndarray) -> np.ndarray:
    return np.exp(-((x[:, None] - x) ** 2) / 2)


def _stencil(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the nodes around each value by Lagrange's polynomials, (n, 8), and which they are, (n, 8) int."""
    position = x * STEP + STENCIL / 2
    first = np.floor(position).astype(int) - STENCIL // 2 + 1
    t = position - first  # within the stencil, from 3 to below 4
    nodes = np.arange(STENCIL)
    weights = np.ones((len(x), STENCIL))
    for i in nodes:
        for j in nodes[nodes != i]:
            weights[:, i] *= (t - j) / (i - j)
    return weights, first[:, None] + nodes


def _tensor(weights: list[np.ndarray], places: list[np.ndarray], nodes: list[np.ndarray]) -> sp.csr_array:
    """Products of the weights on all axes as one sparse matrix over the nodes of the whole grid."""
    n = len(weights[0])
    value, node = np.ones((n, 1)), np.zeros((n, 1), dtype=np.int64)
    for weight, place, axis in zip(weights, places, nodes, strict=True):
        value = (value[:, :, None] * weight[:, None, :]).reshape(n, -1)
        node = (node[:, :, None] * len(axis) + place[:, None, :]).reshape(n, -1)
    n_nodes = int(np.prod([len(axis) for axis in nodes]))
    start = np.arange(n + 1, dtype=np.int64) * value.shape[1]
    kind = np.int32 if max(start[-1], n_nodes) < 2**31 else np.int64
    return sp.csr_array((value.ravel(), node.ravel().astype(kind), start.astype(kind)), shape=(n, n_nodes))
