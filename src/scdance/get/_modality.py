from __future__ import annotations

from typing import TYPE_CHECKING

from scdance._core.objects import check_kind
from scdance._core.task import PREDICT_MODALITY
from scdance._core.write import record_of, run_of, slots_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData


def modality(mdata: MuData, key: str) -> AnnData:
    """A predicted modality as an AnnData.

    Parameters
    ----------
    mdata
        Object into which :func:`scdance.tl.predict_modality` wrote.
    key
        The ``key_added`` of the run or the name of its method, with the target behind where there are several:
        ``"babel"`` or ``"babel_prot"``.

    Returns
    -------
    The answers in ``X``, (n_obs, n_features) float32, in the unit of the target, with the cells of the source and the
    features of the target. Where the run had several members, their standard deviation is in ``layers["sd"]``. ``var``
    holds the mean of each feature over the cells that taught, and with an interval its ``half_width``; ``obs`` that of
    the source. Arrays are not copied.

    Raises
    ------
    TypeError
        `mdata` is no MuData.
    KeyError
        No such run, or several; the message lists what there is.

    Examples
    --------
    >>> import scdance as sd
    >>> mdata = sd.datasets.toy_pairs(unpaired=0.2)
    >>> sd.tl.predict_modality(mdata, method="linear", source="rna", target="prot")
    >>> sd.get.modality(mdata, "linear").shape[1]
    20
    """
    import anndata as ad
    import pandas as pd

    check_kind(mdata, ("MuData",))
    adata, whole = run_of(mdata, PREDICT_MODALITY, key)
    features = dict(record_of(adata, PREDICT_MODALITY, whole)["features"])
    slots = slots_of(PREDICT_MODALITY, whole)
    var = pd.DataFrame(
        {name: features[name] for name in ("mean", "half_width") if name in features},
        index=pd.Index([str(name) for name in features["names"]]),
    )
    found = ad.AnnData(adata.obsm[slots["prediction"][1]], obs=adata.obs.copy(), var=var)
    if slots["sd"][1] in adata.obsm:
        found.layers["sd"] = adata.obsm[slots["sd"][1]]
    return found
