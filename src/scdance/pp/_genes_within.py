"""Genes that vary within batches."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse as sp

FEWEST = 20  # cells of a batch that has a say, where any has as many


def genes_within(x: sp.csr_matrix, batch: np.ndarray | None, n_top: int | None) -> np.ndarray:
    """Genes that vary most for their mean within most batches, by :func:`scanpy.pp.highly_variable_genes`.

    Parameters
    ----------
    x
        Log-normalised expression, (n_obs, n_vars) CSR.
    batch
        Code of the batch of each cell, (n_obs,) int; None: there is one. Batches of fewer than 20 cells have no say
        where there are larger ones.
    n_top
        How many are kept; None: all that vary.

    Returns
    -------
    Their positions, sorted, (n_kept,) int. A gene that is constant within each batch is in no case among them.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters(n_obs=100, n_vars=60, batches=2)
    >>> x = adata.X.astype(float).log1p()
    >>> len(sd.pp.genes_within(x, adata.obs["batch"].cat.codes.to_numpy(), 20))
    20
    """
    import anndata as ad
    import pandas as pd
    import scanpy as sc

    codes = np.zeros(x.shape[0], dtype=int) if batch is None else np.asarray(batch)
    sizes = np.bincount(codes)
    large = np.flatnonzero(sizes >= min(FEWEST, sizes.max()))
    varies = np.zeros(x.shape[1], dtype=bool)
    for code in large:
        some = x[codes == code]
        highest, lowest = some.max(axis=0).toarray().ravel(), some.min(axis=0).toarray().ravel()
        varies |= highest > lowest
    kept = np.flatnonzero(varies)
    if n_top is None or n_top >= len(kept):
        return kept
    rows = np.flatnonzero(np.isin(codes, large))
    obs = pd.DataFrame({"batch": codes[rows].astype(str)}, index=rows.astype(str))
    adata = ad.AnnData(sp.csr_matrix(x[rows][:, kept]), obs)
    several = {"batch_key": "batch"} if len(large) > 1 else {}
    with warnings.catch_warnings(action="ignore"):
        found = sc.pp.highly_variable_genes(adata, n_top_genes=n_top, flavor="seurat", inplace=False, **several)
    return kept[found["highly_variable"].to_numpy()]
