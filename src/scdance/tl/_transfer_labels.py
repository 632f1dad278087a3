from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import TRANSFER_LABELS
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scdance._core.method import Method


@documented(TRANSFER_LABELS)
def transfer_labels(
    adata: AnnData,
    ref: AnnData | None = None,
    method: str | Path | Method | type[Method] = TRANSFER_LABELS.default,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    ref_layer: str | None = None,
    write_ref: bool = False,
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
    """Give cells the types of a reference of another omics layer, which need not be labelled throughout.

    Both are brought to the same genes first: chromatin by :func:`scdance.pp.gene_activity`. Each side is normalised by
    its own numbers, and methods learn from labelled and unlabelled cells of the reference and from the cells that are
    asked together. Within one omics layer :func:`annotate` is simpler. ``scdance.methods("transfer_labels")`` lists the
    methods; ``"knn"`` is the floor.

    Parameters
    ----------
    {adata}
    ref
        Reference: cells of which some or all have types. Genes are matched by name, and only those that both have
        are used.
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and neither `ref` nor `labels_key` is given.
    labels_key
        Column of ``ref.obs`` with the types; NaN or "" where a cell has none.
    {layer, ref_layer}
    write_ref
        Also write the places of the reference into ``ref.obsm``, under the same name, with a run record. How far apart
        both sides lie is then a score: ``scdance.metrics.score(adata, "transfer_labels", ref=ref, …)``.
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
    >>> cells = sd.datasets.toy_clusters(n_obs=300)
    >>> ref, adata = cells[:150].copy(), cells[150:].copy()
    >>> sd.tl.transfer_labels(adata, ref, method="knn", labels_key="cell_type")
    >>> bool((adata.obs["knn"].astype(str) == adata.obs["cell_type"].astype(str)).mean() > 0.8)
    True
    """
    return call(
        TRANSFER_LABELS,
        adata,
        method,
        params,
        ref=ref,
        labels_key=labels_key,
        layer=layer,
        ref_layer=ref_layer,
        write_ref=write_ref,
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
