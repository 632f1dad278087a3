from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import INTEGRATE
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scdance._core.method import Method


@documented(INTEGRATE)
def integrate(
    adata: AnnData,
    method: str | Path | Method | type[Method] = INTEGRATE.default,
    *,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | None = None,
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
    """Put cells of several batches into one space, in which batches no longer part the types.

    A batch may be a donor, a protocol, a slice or an omics layer. ``scdance.methods("integrate")`` lists the methods;
    ``"pca"`` is the floor. Mixing alone is no success: look at types and batches together, with
    ``scdance.metrics.score(adata, "integrate", truth=…, batch_key=…)`` where some types are known.

    Parameters
    ----------
    {adata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and a batch that it has not seen counts as none of those it has.
    {batch_key}
    labels_key
        Column of ``adata.obs`` with the types of some or all cells, for methods that shape the space by them; NaN or
        "" where a cell has none. Score such a space by the other cells.
    {layer, neighbors, key_added, preset, recipe}
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
    >>> adata = sd.datasets.toy_clusters(n_obs=200, batches=2)
    >>> sd.tl.integrate(adata, method="pca", batch_key="batch", scale="batch", n_components=10)
    >>> adata.obsm["X_pca"].shape
    (200, 10)
    """
    return call(
        INTEGRATE,
        adata,
        method,
        params,
        batch_key=batch_key,
        labels_key=labels_key,
        layer=layer,
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
