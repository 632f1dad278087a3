from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import PREDICT_GENES
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.method import Method


@documented(PREDICT_GENES)
def predict_genes(
    adata: AnnData | SpatialData,
    ref: AnnData | None = None,
    method: str | Path | Method | type[Method] = PREDICT_GENES.default,
    *,
    genes: Sequence[str] | str | None = None,
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
    """Estimate genes that the cells of a panel lack, from single cells that have them.

    Cells are compared by the genes that both sides have, and answered by what similar cells of the reference express:
    a guess of what would have been measured, not a measurement, whose spread over cells is smaller than the true one.
    ``scdance.methods("predict_genes")`` lists the methods; ``"ref_mean"`` and ``"knn"`` are the floors that others must
    beat. How far to trust it is seen on genes that were measured: name them as `genes`, and they are hidden from the
    method; then ``scdance.metrics.score(adata, "predict_genes", key=…)`` compares, and
    :func:`scdance.pl.held_out_genes` shows it gene by gene.

    Parameters
    ----------
    adata
        Annotated data, cells of a panel in rows; or a SpatialData: the results go into its table.
    ref
        Reference: single cells of a like tissue with more genes, labels not needed. Genes are matched by name.
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and neither `ref` nor `genes` is given.
    genes
        Names of the genes to predict, all of the reference. Those that `adata` has are not read of it, neither to
        compare cells nor for their depth. None: the 2,000 genes that `adata` lacks and that vary most in the
        reference, or all where there are fewer.
    {layer, ref_layer, spatial_key, library_key, table_key, coordinate_system}
    {key_added, preset, recipe}
    {random_state, device, progress, checkpoint, copy, params}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    See Also
    --------
    scdance.get.genes : the prediction as an AnnData, with the names of the genes.

    Examples
    --------
    >>> import scdance as sd
    >>> adata, ref = sd.datasets.toy_panel()
    >>> sd.tl.predict_genes(adata, ref, method="knn")
    >>> adata.obsm["knn"].shape
    (300, 80)

    How well genes are predicted that the panel does measure:

    >>> sd.tl.predict_genes(adata, ref, genes=adata.var_names[:20], key_added="held_out")
    >>> score = sd.metrics.score(adata, "predict_genes", key="held_out")
    >>> bool(score["gene_pearson"].item() > 0.1)
    True
    """
    return call(
        PREDICT_GENES,
        adata,
        method,
        params,
        ref=ref,
        genes=genes,
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
