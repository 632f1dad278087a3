from __future__ import annotations

from typing import TYPE_CHECKING

from scdance._checks import MissingKeyError, listed, nearest
from scdance._core.objects import SPATIAL, check_kind
from scdance._core.task import PREDICT_GENES
from scdance._core.write import ROOT, record_of, slots_of

if TYPE_CHECKING:
    from anndata import AnnData


def genes(adata: AnnData, key: str) -> AnnData:
    """Predicted genes as an AnnData.

    Parameters
    ----------
    adata
        Object into which :func:`scdance.tl.predict_genes` wrote: of a SpatialData its table.
    key
        The ``key_added`` of the run, or the name of its method.

    Returns
    -------
    The prediction in ``X``, (n_obs, n_genes) float32, in the unit of the reference, with the cells of the object and
    the genes that were asked. ``obs``, ``obsm["spatial"]`` and ``uns["spatial"]`` are those of the object, so that the
    genes can be drawn in space; ``var`` holds the mean of each gene over the reference. The prediction is not copied.

    Raises
    ------
    TypeError
        `adata` is no AnnData.
    KeyError
        No such run; the message lists what there is.

    Examples
    --------
    >>> import scdance as sd
    >>> adata, ref = sd.datasets.toy_panel()
    >>> sd.tl.predict_genes(adata, ref)
    >>> sd.get.genes(adata, "knn").shape
    (300, 80)
    """
    import anndata as ad
    import pandas as pd

    check_kind(adata, ("AnnData",))
    record, name = record_of(adata, PREDICT_GENES, key), slots_of(PREDICT_GENES, key)["prediction"][1]
    if "features" not in record or name not in adata.obsm:
        runs = list(adata.uns.get(ROOT, {}).get(PREDICT_GENES.name, {}))
        msg = (
            f"The object has no run {key!r} of {PREDICT_GENES.name!r}; there are: {listed(runs)}.{nearest(key, runs)} "
            f"Call `scdance.tl.{PREDICT_GENES.name}(…)` first, or pass another as `key=`."
        )
        raise MissingKeyError(msg)
    features = record["features"]
    var = pd.DataFrame({"mean": features["mean"]}, index=pd.Index([str(gene) for gene in features["names"]]))
    found = ad.AnnData(adata.obsm[name], obs=adata.obs.copy(), var=var)
    for there, here in ((adata.obsm, found.obsm), (adata.uns, found.uns)):
        if SPATIAL in there:
            here[SPATIAL] = there[SPATIAL]
    return found
