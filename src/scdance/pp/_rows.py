"""Matrices that are read row by row: in memory, on disk or lazy, always as the same canonical CSR."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

ENTRIES = 2**22  # read at once, zeros counted: at 20 % density and the 20 bytes that a count costs on its way, 17 MB
FEWEST, MOST = 256, 4096  # rows read at once


class Rows(Protocol):
    """What methods may ask of a matrix: its shape, and rows of it as CSR. A `csr_matrix` is one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns."""

    def __getitem__(self, rows: Any) -> Any:
        """Rows as CSR."""


def canonical(block: Any) -> sp.csr_matrix:
    """Turn a block of any kind into CSR float32 with sorted, unique indices and no stored zeros.

    The input is never changed. `csr_array` becomes `csr_matrix`, which scanpy 1.11 needs.

    Parameters
    ----------
    block
        Values, (n, n_vars): an array, sparse matrix or dask array.

    Returns
    -------
    The same values, (n, n_vars), CSR float32.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> found = pp.canonical(np.array([[0, 2], [1, 0]]))
    >>> found.dtype.name, found.nnz
    ('float32', 2)
    """
    if hasattr(block, "compute"):
        block = block.compute(scheduler="synchronous")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as such
        if not sp.issparse(block):
            return sp.csr_matrix(np.asarray(block, dtype=np.float32))
        out = sp.csr_matrix(block)
        # a new matrix around the user's own arrays: nothing below writes into them
        out = sp.csr_matrix((out.data.astype(np.float32, copy=False), out.indices, out.indptr), shape=out.shape)
    if not out.has_canonical_format:
        out = out.copy()  # the index arrays may still be the user's
        out.sum_duplicates()
    if out.nnz and not out.data.all():
        out = out.copy()
        out.eliminate_zeros()
    if max(out.nnz, *out.shape) < 2**31 and out.indices.dtype != np.int32:
        out.indices, out.indptr = out.indices.astype(np.int32), out.indptr.astype(np.int32)
    return out


def is_on_disk(matrix: Any) -> bool:
    """Whether a matrix is read from a file or computed by dask, rather than held in memory.

    Parameters
    ----------
    matrix
        A matrix of any kind, (n_obs, n_vars).

    Returns
    -------
    Whether it is neither a numpy array nor a sparse matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.is_on_disk(np.zeros((2, 2)))
    False
    """
    return not (sp.issparse(matrix) or isinstance(matrix, np.ndarray))


def blocks(x: Rows, size: int | None = None) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Go through the rows of a matrix in order, a block at a time.

    Parameters
    ----------
    x
        Values, (n_obs, n_vars).
    size
        Rows of a block; None: as many as memory stays small.

    Returns
    -------
    Pairs of the slice of the rows and their values, (n_rows, n_vars) CSR.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> [(here.start, here.stop) for here, _ in pp.blocks(pp.canonical(np.eye(5)), size=2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    if size is None:
        size = min(max(FEWEST, ENTRIES // _width(x)), MOST)
    for start in range(0, x.shape[0], size):
        here = slice(start, min(start + size, x.shape[0]))
        yield here, x[here]


def _width(x: Any) -> int:
    """Columns that have to be read for a row of `x`, also where a transformation then keeps a few of them."""
    widths = [x.shape[1]]
    while isinstance(x, Transformed):
        x = x.base
        widths.append(x.shape[1])
    return max(widths)


class OnDisk:
    """Rows of a backed HDF5/zarr matrix or of a dask array, read as canonical CSR when asked for.

    Parameters
    ----------
    matrix
        Backed or lazy matrix, (n_obs, n_vars), whose rows can be sliced.
    """

    def __init__(self, matrix: Any):
        self.matrix = matrix
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(matrix.shape[1]))

    def __getitem__(self, rows: Any) -> sp.csr_matrix:
        if isinstance(rows, slice):
            return canonical(self.matrix[rows])
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        order = np.argsort(rows, kind="stable")  # HDF5 reads rows in ascending order only
        there, back = np.unique(rows[order], return_inverse=True)
        block = canonical(self.matrix[there])
        inverse = np.empty_like(order)
        inverse[order] = back
        return block[inverse]


class Transformed:
    """Some rows of another matrix, each block passed through a function when it is read.

    Parameters
    ----------
    base
        The matrix that holds the rows, (n_base, n_base_vars).
    rows
        Positions in `base`, (n_obs,) int.
    apply
        From a CSR block of `base` and the positions of its rows there to a CSR block with `n_vars` columns.
    n_vars
        Number of columns of the result.
    """

    def __init__(
        self,
        base: Rows,
        rows: np.ndarray,
        apply: Callable[[sp.csr_matrix, np.ndarray], sp.csr_matrix],
        n_vars: int,
    ):
        self.base, self.rows, self.apply = base, rows, apply
        self.shape: tuple[int, int] = (len(rows), n_vars)

    def __getitem__(self, rows: Any) -> sp.csr_matrix:
        there = self.rows[rows]
        contiguous = len(there) and there[-1] - there[0] == len(there) - 1 and bool((np.diff(there) == 1).all())
        block = self.base[slice(int(there[0]), int(there[-1]) + 1) if contiguous else there]
        return self.apply(block, there)
