from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import ANNOTATE
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scdance._core.method import Method


@documented(ANNOTATE)
def annotate(
    adata: AnnData,
    ref: AnnData | None = None,
    method: str | Path | Method | type[Method] = ANNOTATE.default,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    ref_layer: str | None = None,
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
    """Give cells the types of an annotated reference.

    Probabilities are calibrated on cells of the reference that were held out. With ``reject="auto"`` cells that are
    like none of the types become "unknown". ``scdance.methods("annotate")`` lists the methods; ``"majority"`` and
    ``"knn"`` are the floors that every other must beat.

    Parameters
    ----------
    {adata}
    ref
        Reference: annotated cells. Genes are matched by name, and only those that both have are used.
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and neither `ref` nor `labels_key` is given.
    {labels_key, layer, ref_layer, key_added, preset, recipe}
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
    >>> ref, query = adata[:500].copy(), adata[500:].copy()
    >>> sd.tl.annotate(query, ref, method="knn", labels_key="cell_type")
    >>> bool((query.obs["knn"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.8)
    True
    """
    return call(
        ANNOTATE,
        adata,
        method,
        params,
        ref=ref,
        labels_key=labels_key,
        layer=layer,
        ref_layer=ref_layer,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
