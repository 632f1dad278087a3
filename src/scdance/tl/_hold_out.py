from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from scdance._checks import listed, warn
from scdance._core.counts import HOLD_OUT, check_layers, made_from, raw_counts, write_layers
from scdance._core.objects import copied, opened
from scdance._core.run import seed_of
from scdance._core.task import IMPUTE
from scdance._docs import documented
from scdance.pp import mask

if TYPE_CHECKING:
    from anndata import AnnData


@documented(IMPUTE)
def hold_out(
    adata: AnnData,
    protocol: Literal["uniform", "exponential", "entries", "thinning"] = "thinning",
    rate: float = 0.1,
    *,
    layer: str | None = None,
    kept_layer: str = "counts_kept",
    value_space: Literal["counts", "log1p"] = "counts",
    overwrite: bool = False,
    random_state: int | np.random.Generator | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Hide some of the counts, so that methods of imputation can be compared on what they have not seen.

    Run :func:`impute` on the layer with what is left and :func:`scdance.metrics.score` on the result. Hiding comes
    first, so that nothing that a method learns, be it a choice of genes, a graph or a component, has seen what is
    hidden.

    Parameters
    ----------
    {adata}
    protocol
        ``"thinning"`` takes away each counted molecule with probability `rate`: for UMI counts, and the only one that
        tests zeros too; score with ``output="counts"``. ``"uniform"`` sets a share of the non-zero entries of each cell
        with more than 5 of them to zero, ``"exponential"`` the same with weights exp(−value / 20), so rather low ones;
        score with ``output="log1p"``. ``"entries"`` hides each entry by itself, zeros included, as is usual for
        cells of a tissue; score with ``output="log1p_250"``.
    rate
        Share of the molecules, or of the entries, that is hidden; above 0 and below 1.
    layer
        Layer with raw counts, whole numbers; for ``"entries"`` they may have fractions. None: ``layers['counts']`` if
        there, else ``X``.
    kept_layer
        Name of the layer for what is left.
    value_space
        What the weights of ``"exponential"`` are made from: ``"counts"``, or ``"log1p"`` of them, where they are
        nearly equal.
    overwrite
        Replace a layer of this name; False: it is an error.
    {random_state, copy}

    Returns
    -------
    None, or with ``copy=True`` a copy of the object, which gets:

    ``adata.layers['counts_kept']``
        What is left, (n_obs, n_vars) CSR float32.
    ``adata.uns['scdance']['hold_out']['counts_kept']``
        Record: protocol, rate, input, seed.

    Raises
    ------
    {raises}

    See Also
    --------
    scdance.pp.mask : does this to a matrix.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.hold_out(adata)
    >>> sd.tl.impute(adata, method="magic", layer="counts_kept", output="counts")
    >>> table = sd.metrics.score(adata, "impute", key="magic")
    >>> bool(table["poisson_gain"].item() < -0.1)
    True
    """
    from scdance import __version__

    adata = opened(adata, IMPUTE)
    check_layers(adata, {"kept_layer": kept_layer}, layer, overwrite=overwrite)
    seed = seed_of(random_state)
    counts, _, told = raw_counts(adata, layer, "hold_out", whole=protocol != "entries")
    old = made_from(adata, IMPUTE, kept_layer)
    if old:
        warn(
            f"{len(old)} results of imputation ({listed(old)}) were made from the layer {kept_layer!r}, which is "
            "replaced; impute again before you score them."
        )
    kept = mask(counts[:], protocol, rate, np.random.default_rng(seed), value_space=value_space)  # type: ignore[arg-type]
    if copy:
        adata, _ = copied(adata, adata)
    params = {"protocol": protocol, "rate": rate, "value_space": value_space}
    record = {"params": params, "random_state": seed, "version": __version__, "input": told}
    write_layers(adata, HOLD_OUT, kept_layer, {kept_layer: kept}, record)
    return adata if copy else None
