from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import CLUSTER
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from scdance._core.method import Method


@documented(CLUSTER)
def cluster(
    adata: AnnData,
    method: str | Path | Method | type[Method] = CLUSTER.default,
    *,
    n_clusters: int | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    neighbors_key: str | None = None,
    labels_key: str | None = None,
    must_link: ArrayLike | None = None,
    cannot_link: ArrayLike | None = None,
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
) -> AnnData | None:
    """Group cells by expression, without labels.

    Deep methods learn a low-dimensional space and the clusters in it together; ``"kmeans"``, ``"leiden"`` and
    ``"gmm"`` are the cheap floors that they must beat. ``scdance.methods("cluster")`` lists them all.

    Parameters
    ----------
    {adata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained.
    n_clusters
        Number of clusters; None: estimated by the method, and noted in the run record.
    {layer, use_rep, batch_key, neighbors_key}
    labels_key
        Column of ``adata.obs`` with the types of some of the cells (NaN or "" elsewhere), for semi-supervised methods.
        Every other method refuses it.
    must_link
        Pairs of cells that belong together, (n_pairs, 2) names or positions, for semi-supervised methods;
        :func:`scdance.pp.pairs_from_markers` and its like draw them.
    cannot_link
        Pairs of cells that belong apart, in the same form.
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
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=8)
    >>> adata.obs["kmeans"].cat.categories.tolist()
    ['0', '1', '2', '3', '4', '5', '6', '7']

    The results chain with scanpy:

    >>> import scanpy as sc
    >>> sd.tl.cluster(adata, method="kmeans", n_clusters=8, neighbors=15)
    >>> sc.tl.diffmap(adata, neighbors_key="kmeans")
    """
    return call(
        CLUSTER,
        adata,
        method,
        {"n_clusters": n_clusters, **params},
        layer=layer,
        use_rep=use_rep,
        batch_key=batch_key,
        neighbors_key=neighbors_key,
        labels_key=labels_key,
        must_link=must_link,
        cannot_link=cannot_link,
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
