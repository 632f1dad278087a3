from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import DECONVOLVE
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.method import Method


@documented(DECONVOLVE)
def deconvolve(
    adata: AnnData | SpatialData,
    ref: AnnData | pd.DataFrame | None = None,
    method: str | Path | Method | type[Method] = DECONVOLVE.default,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    ref_layer: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    table_key: str | None = None,
    coordinate_system: str = "global",
    key_added: str | None = None,
    preset: str | None = None,
    recipe: str | None = "default",
    random_state: int | np.random.Generator | None = 0,
    device: str = "auto",
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    copy: bool = False,
    **params: Any,
) -> AnnData | SpatialData | None:
    """Estimate which cell types each spot is made of.

    The reference is a set of annotated cells, or a table with one profile per type; only genes that both have are
    used. ``scdance.methods("deconvolve")`` lists the methods; ``"nnls"`` is the floor that every other must beat.

    Parameters
    ----------
    adata
        Annotated data, spots in rows; or a SpatialData: the results go into its table, and the shapes or labels that
        the table annotates give the coordinates.
    {ref}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and neither `ref` nor `labels_key` is given.
    {labels_key, layer, ref_layer, spatial_key, library_key, table_key, coordinate_system, key_added, preset, recipe}
    {random_state, device, progress, checkpoint, copy, params}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> spots, ref = sd.datasets.toy_mixtures()
    >>> sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type")
    >>> bool((spots.obsm["nnls"].sum(axis=1).round(3) == 1).all())
    True
    """
    return call(
        DECONVOLVE,
        adata,
        method,
        params,
        ref=ref,
        labels_key=labels_key,
        layer=layer,
        ref_layer=ref_layer,
        spatial_key=spatial_key,
        library_key=library_key,
        table_key=table_key,
        coordinate_system=coordinate_system,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
