"""Rows of a sparse matrix mixed with those of their neighbours, made dense a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.sparse as sp

from scdance.pp import PCA, Rows, project

ENTRIES, MOST = 2**22, 1024  # numbers and rows of a dense block: 17 MB in float32
CONSTANT = 1e-6  # a standard deviation of less, as part of the mean, is what rounding leaves of a constant


def mixed_rows(x: Rows, operators: Sequence[sp.csr_matrix]) -> Iterator[list[np.ndarray]]:
    """Products of operators, each (n, n), with the values `x`, (n, n_vars): dense float32 blocks of rows in order.

    Rows that lie on disk are read anew for every block that needs them.
    """
    n, n_vars = x.shape
    size = min(max(ENTRIES // (n_vars * len(operators)), 64), MOST)
    for start in range(0, n, size):
        parts = [each[start : start + size] for each in operators]
        if sp.issparse(x):
            yield [(part @ x).toarray() for part in parts]
        else:
            wanted = np.unique(np.concatenate([part.indices for part in parts]))
            some = x[wanted]
            yield [(part[:, wanted] @ some).toarray() for part in parts]


def scaled_components(
    dense_blocks: Callable[[], Iterator[np.ndarray]],
    shape: tuple[int, int],
    n_components: int,
    *,
    weights: np.ndarray | float = 1.0,
    random_state: int = 0,
) -> np.ndarray:
    """Principal components of z-scored columns, which then weigh `weights`, (n_vars,): scores, (n, n_components).

    `dense_blocks()` gives the rows anew at each pass; a block may be overwritten. A constant column becomes 0.
    """
    total, square = np.zeros(shape[1]), np.zeros(shape[1])
    for block in dense_blocks():
        total += block.sum(axis=0, dtype=np.float64)
        square += np.einsum("ij,ij->j", block, block, dtype=np.float64)
    mean = total / shape[0]
    sd = np.sqrt(np.maximum(square / shape[0] - mean**2, 0))
    varies = sd > CONSTANT * np.abs(mean)
    factor = np.where(varies, weights, 0) / np.where(varies, sd, 1)
    mean, factor = mean.astype(np.float32), factor.astype(np.float32)

    def scaled() -> Iterator[np.ndarray]:
        for block in dense_blocks():
            block -= mean
            block *= factor
            yield block

    pca = PCA(n_components, random_state=random_state).fit(scaled, shape)
    return project(scaled(), pca.mean_, pca.components_)
