from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import SPATIAL_DOMAIN
from scdance._docs import documented

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.method import Method


@documented(SPATIAL_DOMAIN)
def spatial_domain(
    adata: AnnData | SpatialData,
    method: str | Path | Method | type[Method] = SPATIAL_DOMAIN.default,
    *,
    n_clusters: int | None = None,
    layer: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
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
    """Divide a tissue into regions, by expression and by place.

    ``scdance.methods("spatial_domain")`` lists the methods; ``"leiden"``, which does not look at places, and
    ``"smoothed_pca"``, which averages principal components over neighbours, are the floors that others must beat.

    Parameters
    ----------
    adata
        Annotated data, spots or cells in rows; or a SpatialData: the results go into its table, and the shapes or
        labels that the table annotates give the coordinates.
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained.
    n_clusters
        Number of domains; None: as many as a Leiden partition of the latent space has.
    {layer, spatial_key, library_key, image_key, table_key, coordinate_system}
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
    >>> adata = sd.datasets.toy_domains()
    >>> sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4)
    >>> adata.obs["smoothed_pca"].cat.categories.tolist()
    ['0', '1', '2', '3']
    """
    return call(
        SPATIAL_DOMAIN,
        adata,
        method,
        {"n_clusters": n_clusters, **params},
        layer=layer,
        spatial_key=spatial_key,
        library_key=library_key,
        image_key=image_key,
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
