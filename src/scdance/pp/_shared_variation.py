"""Whether the cells of two batches vary along the same genes."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components
from sklearn.utils.extmath import randomized_svd

N_AXES = 10  # in which the variation within a batch is looked for
MOST = 1000  # cells of a batch that are looked at
EXCESS = 2.5  # least variation of a batch along the axes of another, over that of as many axes without any structure
LEAST_SD = 1e-6  # of a gene within a batch that counts as varying
SHARE = 0.2  # of its variation along axes of its own


def shared_variation(x: sp.csr_matrix, batch: np.ndarray, n_batches: int, *, random_state: int = 0) -> np.ndarray:
    """How much of the variation within a batch lies along the axes along which the cells of another vary.

    Batches that hold the same types vary along the same genes, however far apart they lie; the means of batches are
    not compared. Genes are standardised within each batch, and what goes with the sum of a cell, such as depth, is
    taken off. The axes are the ten first principal ones of a batch. Along an axis without structure a batch has a
    variance of 1, which is subtracted; the axes of a batch itself are found in one half of its cells and judged in the
    other. At most 1000 cells of a batch are looked at.

    Parameters
    ----------
    x
        Log-normalised expression, (n_obs, n_vars) CSR.
    batch
        Code of the batch of each cell, (n_obs,) int.
    n_batches
        Number of batches.
    random_state
        Seed of the cells that are looked at.

    Returns
    -------
    Variance of batch i along the axes of batch j, less that of as many axes without structure, (n_batches, n_batches);
    about 0 where nothing is shared.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters(batches=2)
    >>> found = sd.pp.shared_variation(adata.X.log1p(), adata.obs["batch"].cat.codes.to_numpy(), 2)
    >>> bool(found.min() > 10)
    True
    """
    rng = np.random.default_rng(random_state)
    rows = [rng.permutation(np.flatnonzero(batch == code))[:MOST] for code in range(n_batches)]
    axes = np.concatenate([_axes(_standardised(x, some)) for some in rows])
    found = np.empty((n_batches, n_batches))
    for code, some in enumerate(rows):
        z = _standardised(x, some)
        found[code] = _excess(z @ axes.T).reshape(n_batches, N_AXES).sum(axis=1)
        found[code, code] = _excess(z[1::2] @ _axes(z[::2]).T).sum()
    return found


def batches_alike(variation: np.ndarray) -> np.ndarray:
    """Groups of batches that seem to hold types in common, of what :func:`shared_variation` has found.

    Two batches are linked where one of them has a fifth of its own variation, and more than noise, along the axes of
    the other. Groups are what links connect.

    Parameters
    ----------
    variation
        Variance of batch i along the axes of batch j, (n_batches, n_batches).

    Returns
    -------
    Code of the group of each batch, (n_batches,) int.

    Examples
    --------
    >>> import numpy as np
    >>> from scdance import pp
    >>> pp.batches_alike(np.array([[40, 30, 0.1], [35, 50, 0.3], [0.2, 0.1, 20]])).tolist()
    [0, 0, 1]
    """
    linked = (variation > EXCESS) & (variation >= SHARE * np.diag(variation)[:, None])
    return connected_components(sp.csr_matrix(linked), directed=False)[1]


def _standardised(x: sp.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Some cells, each gene in standard deviations from its mean, less what goes with the sum of a cell."""
    z = x[rows].toarray()
    total = z.sum(axis=1)
    total -= total.mean()
    z -= z.mean(axis=0)
    sd = z.std(axis=0)
    z /= np.where(sd > LEAST_SD, sd, 1)
    return z - np.outer(total, total @ z) / max(float(total @ total), LEAST_SD)


def _axes(z: np.ndarray) -> np.ndarray:
    """Principal axes of centred cells, (N_AXES, n_vars); 0 where there are fewer."""
    n = min(N_AXES, len(z) - 1, z.shape[1])
    found = np.zeros((N_AXES, z.shape[1]), dtype=z.dtype)
    if n > 0:
        found[:n] = randomized_svd(z, n, random_state=0)[2]
    return found


def _excess(along: np.ndarray) -> np.ndarray:
    """Variance over 1 along each axis; 0 for axes that are none."""
    variance = along.var(axis=0) if len(along) else np.zeros(along.shape[1])
    return np.where(variance > 0, variance - 1, 0)
