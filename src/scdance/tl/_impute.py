from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import IMPUTE
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from spatialdata import SpatialData

    from scdance._core.method import Method


@documented(IMPUTE)
def impute(
    adata: AnnData | SpatialData,
    method: str | Path | Method | type[Method] = IMPUTE.default,
    *,
    output: str | None = None,
    policy: str | None = None,
    genes: Sequence[str] | None = None,
    evaluate: bool = False,
    layer: str | None = None,
    batch_key: str | None = None,
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
    """Estimate the expression behind the counts, with what cells and genes tell of each other.

    The result is a new layer; counts are never overwritten, and a test that expects counts must not be given
    estimates. ``"gene_mean"`` and ``"knn"`` are the floors that the other methods must beat;
    ``scdance.methods("impute")`` lists them all.

    Parameters
    ----------
    adata
        Annotated data, cells in rows; or a SpatialData: the results go into its table, and the shapes or labels that
        the table annotates give the coordinates, for methods that use them.
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained.
    output
        Unit of the layer. None or ``"lognorm"``: log(1 + 10,000 · expected share of the cell's counts), as
        ``sc.pp.normalize_total(target_sum=1e4)`` and ``sc.pp.log1p`` give; ``"counts"``: expected counts at the depth
        of the cell; ``"log1p"``: expected log(1 + count); ``"log1p_nonzero"``: the same of an entry that is known not
        to be zero; ``"log1p_250"``: the same of the count at a depth of 250; for methods that have them.
    policy
        ``"replace"``: the estimate everywhere; ``"restore"``: observed counts stay and zeros are filled; ``"max"``:
        the larger of both. None: that of the method.
    genes
        Names of the genes to write; None: all that the method models. The others keep their observed values.
    evaluate
        Before the fit, hold a tenth of the counted molecules out, predict them from the others and score that: the
        run record gets the scores, ``var`` the imputability of each gene; knobs that the method lists as ``tries``
        (such as MAGIC's `t`) and that were not typed are set to what predicted best, and a net is trained for as many
        epochs as were best. It costs a fit for each candidate. The molecules are those of cells that were trained
        on, so a net that knows its cells by heart is judged kindly; compare with what it says of fewer epochs.
    {layer}
    batch_key
        Column of ``adata.obs`` with the batches, for methods that use them.
    {spatial_key, library_key, table_key, coordinate_system}
    {key_added, preset, recipe, random_state, device, progress, checkpoint, copy, params}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    See Also
    --------
    scdance.tl.hold_out : hides counts, to compare methods on what they cannot see.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> sd.tl.impute(adata, method="magic")
    >>> adata.layers["magic"].shape == adata.shape
    True

    The layer takes the place of log-normalised counts in scanpy:

    >>> import scanpy as sc
    >>> table = sc.get.obs_df(adata, keys=[adata.var_names[0]], layer="magic")
    """
    names = genes if genes is None or isinstance(genes, str) else tuple(map(str, genes))
    return call(
        IMPUTE,
        adata,
        method,
        {"output": output, "policy": policy, "genes": names, **params},
        evaluate=evaluate,
        layer=layer,
        batch_key=batch_key,
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
