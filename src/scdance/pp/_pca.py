"""Principal components of matrices that are densified a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse as sp

COVARIANCE_UP_TO = 4000  # genes: above, the covariance would cost more than a few passes over the data


class PCA:
    """Principal components from blocks of dense rows, in memory linear in the number of genes or cells.

    Up to 4,000 genes the covariance is summed in one pass and decomposed exactly; above, a seeded
    subspace iteration makes eight passes. Without centring this is a truncated singular value decomposition,
    as in latent semantic indexing; the iteration then makes seven.

    Parameters
    ----------
    n_components
        Number of components; reduced to min(n_obs, n_vars) − 1 where that is smaller, or to
        min(n_obs, n_vars) without centring.
    center
        Whether the mean of each variable is taken off.
    random_state
        Seed of the subspace iteration.

    Attributes
    ----------
    mean_
        Mean of each variable, (n_vars,) float32; 0 without centring.
    components_
        Orthonormal loadings, (n_components, n_vars) float32; the largest entry of each is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance.pp import PCA, project
    >>> x = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    >>> svd = PCA(2, center=False).fit(lambda: iter([x[:20], x[20:]]), x.shape)
    >>> project(iter([x]), svd.mean_, svd.components_).shape
    (30, 2)
    """

    def __init__(self, n_components: int = 50, *, center: bool = True, random_state: int = 0):
        self.n_components, self.center, self.random_state = n_components, center, random_state

    def fit(self, dense_blocks: Callable[[], Iterator[np.ndarray]], shape: tuple[int, int]) -> PCA:
        """Fit to the blocks that `dense_blocks()` yields anew at each pass; `shape` is that of the whole.

        Without centring the blocks may be CSR, which is faster where most values are 0.
        """
        n_obs, n_vars = shape
        rank = min(n_obs, n_vars) - self.center  # the mean takes one direction
        n_components = max(1, min(self.n_components, rank))
        find = self._by_covariance if n_vars <= COVARIANCE_UP_TO else self._by_iteration
        vectors = find(dense_blocks, n_obs, n_vars, n_components)
        sign = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(n_components)])
        self.components_ = np.ascontiguousarray((vectors * np.where(sign == 0, 1, sign)).T, dtype=np.float32)
        return self

    def _by_covariance(self, dense_blocks: Callable, n_obs: int, n_vars: int, k: int) -> np.ndarray:
        from scipy.linalg import eigh

        total, square = np.zeros(n_vars), np.zeros((n_vars, n_vars))
        for block in dense_blocks():
            if sp.issparse(block):
                block = block.toarray()
            total += block.sum(axis=0, dtype=np.float64)
            square += block.T @ block  # float32 within a block, float64 across blocks
        mean = total / n_obs if self.center else np.zeros(n_vars)
        self.mean_ = mean.astype(np.float32)
        square -= np.outer(total, mean)
        # symmetric, so the transpose is the same matrix in the order that LAPACK overwrites without a copy
        _, vectors = eigh(square.T, subset_by_index=[n_vars - k, n_vars - 1], overwrite_a=True, check_finite=False)
        return vectors[:, ::-1]

    def _by_iteration(self, dense_blocks: Callable, n_obs: int, n_vars: int, k: int) -> np.ndarray:
        rng = np.random.default_rng(self.random_state)
        total = sum(b.sum(axis=0, dtype=np.float64) for b in dense_blocks()) if self.center else np.zeros(n_vars)
        self.mean_ = (total / n_obs).astype(np.float32)
        width = min(k + 20, n_vars)
        basis = np.linalg.qr(rng.standard_normal((n_vars, width)))[0].astype(np.float32)
        for _ in range(6):
            image = np.zeros((n_vars, width))
            for block in dense_blocks():
                centred = block @ basis - self.mean_ @ basis
                image += block.T @ centred - np.outer(self.mean_, centred.sum(axis=0))
            basis = np.linalg.qr(image)[0].astype(np.float32)
        small = np.zeros((width, width))
        for block in dense_blocks():
            centred = (block @ basis - self.mean_ @ basis).astype(np.float64)
            small += centred.T @ centred
        return basis @ np.linalg.eigh(small)[1][:, ::-1][:, :k]


def project(dense_blocks: Iterator[np.ndarray], mean: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Scores of all blocks on `components`, (n_obs, n_components) float32.

    Parameters
    ----------
    dense_blocks
        Rows in order, each block (n_rows, n_vars).
    mean
        Mean of each variable, (n_vars,).
    components
        Loadings, (n_components, n_vars).

    Returns
    -------
    Scores, (n_obs, n_components) float32, in the unit of the values.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.project(iter([np.array([[3.0, 1.0]])]), np.array([1.0, 1.0]), np.array([[1.0, 0.0]])).tolist()
    [[2.0]]
    """
    offset = mean @ components.T
    return np.concatenate([block @ components.T - offset for block in dense_blocks])


def standard_rows(x: np.ndarray) -> np.ndarray:
    """Each row at mean 0 and variance 1 over its values, so that rows are compared by their shape alone.

    Parameters
    ----------
    x
        Values, (n_obs, n_dims).

    Returns
    -------
    The same, (n_obs, n_dims), without unit; a row of equal values is 0 throughout.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.standard_rows(np.array([[1.0, 3.0], [2.0, 2.0]])).tolist()
    [[-1.0, 1.0], [0.0, 0.0]]
    """
    mean, sd = x.mean(axis=1, keepdims=True), x.std(axis=1, keepdims=True)
    # the sums of equal values do not cancel to the last digit
    return np.where(sd > 1e-6 * np.abs(mean), (x - mean) / np.where(sd > 0, sd, 1), 0).astype(x.dtype)
