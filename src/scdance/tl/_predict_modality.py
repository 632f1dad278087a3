from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import PREDICT_MODALITY
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData

    from scdance._core.method import Method


@documented(PREDICT_MODALITY)
def predict_modality(
    mdata: MuData,
    method: str | Path | Method | type[Method] = PREDICT_MODALITY.default,
    *,
    source: str | None = None,
    target: str | None = None,
    layer: str | dict[str, str] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    split_key: str | None = None,
    prior: Any = None,
    symbols: dict[str, str] | None = None,
    key_added: str | None = None,
    preset: str | None = None,
    recipe: str | None = "default",
    random_state: int | np.random.Generator | None = 0,
    device: str = "auto",
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    copy: bool = False,
    **params: Any,
) -> MuData | None:
    """Predict one modality of cells from another.

    Cells that both modalities have teach; all cells of the source are answered, those without the target among them.
    The answers are in the unit of the target: RNA as log(1 + counts per 10,000), proteins as centred log ratio, open
    chromatin as the probability that a region is open; a target that is normalised already keeps its unit. Answers
    for cells that taught are fits, not predictions: judge by others. :func:`scdance.get.modality` gives the answers
    as an AnnData, and ``scdance.methods("predict_modality")`` lists the methods.

    Parameters
    ----------
    {mdata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained, and only the source is read.
    {source, target}
    layer
        Layer with the counts, of both modalities or by name: ``dict(rna="counts")``. None: ``layers["counts"]`` if
        there, else ``X``. Counts are normalised on a private copy; normalised values are taken as they are.
    batch_key
        Column of ``obs`` of the source, or of `mdata`, with the batches. With at least three, training ends by how
        well whole batches that were held out are predicted.
    labels_key
        Column of ``obs`` with the types of the cells that teach, for methods that use them.
    {split_key, prior, symbols, key_added, preset, recipe}
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
    >>> mdata = sd.datasets.toy_pairs(unpaired=0.2)
    >>> sd.tl.predict_modality(mdata, method="linear", source="rna", target="prot")
    >>> mdata["rna"].obsm["linear_prot"].shape[1]
    20
    >>> sd.get.modality(mdata, "linear").var_names[:2].tolist()
    ['protein_0', 'protein_1']
    """
    return call(
        PREDICT_MODALITY,
        mdata,
        method,
        params,
        source=source,
        target=target,
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        split_key=split_key,
        prior=prior,
        symbols=symbols,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
