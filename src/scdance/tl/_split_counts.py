from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdance._core.counts import SPLIT, check_layers, raw_counts, write_layers
from scdance._core.objects import copied, opened
from scdance._core.run import seed_of
from scdance._core.task import CLUSTER
from scdance._docs import documented
from scdance.pp import canonical, thin

if TYPE_CHECKING:
    from anndata import AnnData


@documented(CLUSTER)
def split_counts(
    adata: AnnData,
    share: float = 0.5,
    *,
    layer: str | None = None,
    fit_layer: str = "counts_fit",
    test_layer: str = "counts_test",
    overwrite: bool = False,
    random_state: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Split the counts of each cell into two parts: one to find clusters in, one to test them [Neufeld2024]_.

    Each counted molecule goes to one part or the other by a throw of a coin. Where counts are Poisson, the parts
    are independent given the rates, so a difference in the second part between clusters of the first is not
    there because the clusters were made from it. Real counts vary more than that between cells of a type: then the
    independence is an approximation, for what raises a count beyond its rate raises it in both parts.

    Parameters
    ----------
    {adata}
    share
        Share of the counts that the first part gets, above 0 and below 1.
    layer
        Layer with raw counts, whole numbers. None: ``layers['counts']`` if there, else ``X``.
    fit_layer, test_layer
        Names of the layers for the first and the second part.
    overwrite
        Replace layers of these names; clusters of the former first part are then no longer independent of the new
        second one. False: an existing layer is an error.
    {random_state, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.layers['counts_fit']``, ``adata.layers['counts_test']``
        The two parts, (n_obs, n_vars) CSR float32; their sum is the counts.
    ``adata.uns['scdance']['split_counts']['counts_test']``
        Record: share, names of the layers, input, seed.

    Raises
    ------
    {raises}

    See Also
    --------
    scdance.tl.suggest_merges : tests clusters in the second part.
    scdance.pp.thin : draws the first part of a matrix.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.split_counts(adata)
    >>> both = adata.layers["counts_fit"] + adata.layers["counts_test"]
    >>> int(abs(both - adata.X).sum())
    0
    """
    from scdance import __version__

    adata = opened(adata, CLUSTER)
    check_layers(adata, {"fit_layer": fit_layer, "test_layer": test_layer}, layer, overwrite=overwrite)
    seed = seed_of(random_state)
    counts, _, told = raw_counts(adata, layer, "split_counts", whole=True)
    part = thin(counts, share, np.random.default_rng(seed))
    if copy:
        adata, _ = copied(adata, adata)
    params = {"share": share, "fit_layer": fit_layer, "test_layer": test_layer}
    record = {"params": params, "random_state": seed, "version": __version__, "input": told}
    write_layers(adata, SPLIT, test_layer, {fit_layer: part, test_layer: canonical(counts - part)}, record)
    return adata if copy else None
