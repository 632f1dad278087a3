from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import EMBED
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.method import Method


@documented(EMBED)
def embed(
    adata: AnnData | SpatialData,
    method: str | Path | Method | type[Method] = EMBED.default,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    table_key: str | None = None,
    coordinate_system: str = "global",
    neighbors: int | None = None,
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
    """Place cells in a latent space, by a model that was trained on other cells.

    Such a model is the folder that :func:`scdance.fm.pretrain` wrote, or ``model.save(path)``; nothing is then trained.
    By name, a method learns from the cells themselves first. ``scdance.methods("embed")`` lists the methods; ``"pca"``
    is the floor.

    Parameters
    ----------
    adata
        Annotated data, cells in rows; or a SpatialData: the results go into its table.
    method
        Folder of a saved model, a fitted method, or the name of a method, which is then trained on these cells.
    {layer}
    batch_key
        Column of ``adata.obs`` with the sample of each cell. Cells of one sample are read together by methods for which
        a cell is what it is among others; a sample may be one that the model never saw.
    {spatial_key, library_key, table_key, coordinate_system}
    {neighbors, key_added, preset, recipe}
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
    >>> adata = sd.datasets.toy_clusters(n_obs=200)
    >>> sd.tl.embed(adata, method="pca", n_components=10)
    >>> adata.obsm["X_pca"].shape
    (200, 10)
    """
    return call(
        EMBED,
        adata,
        method,
        params,
        layer=layer,
        batch_key=batch_key,
        spatial_key=spatial_key,
        library_key=library_key,
        table_key=table_key,
        coordinate_system=coordinate_system,
        neighbors=neighbors,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
