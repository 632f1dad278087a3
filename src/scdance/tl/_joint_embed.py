from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import JOINT_EMBED
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData

    from scdance._core.method import Method


@documented(JOINT_EMBED)
def joint_embed(
    mdata: MuData,
    method: str | Path | Method | type[Method] = JOINT_EMBED.default,
    *,
    source: str | None = None,
    target: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    layer: str | dict[str, str] | None = None,
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
) -> MuData | None:
    """Put cells that were measured in two modalities into one space.

    Cells that only one modality has are placed by that one; a column of ``mdata.obs`` says what the place of each comes
    from.
    ``scdance.methods("joint_embed")`` lists the methods.

    Parameters
    ----------
    {mdata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained.
    {source, target}
    batch_key
        Column of ``mdata.obs`` or of a modality's ``obs`` with the batch of each cell, for methods that take it.
    labels_key
        Column with the types of some or all cells, for methods that shape the space by them; NaN or "" where a cell
        has none. Score such a space by the other cells.
    layer
        Layer with the counts, of both modalities or by name: ``dict(rna="counts")``. None: ``layers["counts"]`` if
        there, else ``X``. Counts are normalised on a private copy; log-normalised values are taken as they are.
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
    >>> mdata = sd.datasets.toy_pairs()
    >>> sd.tl.joint_embed(mdata, method="svd_concat", n_source=8, n_target=4)
    >>> mdata.obsm["X_svd_concat"].shape[1]
    12

    The results chain with scanpy and muon:

    >>> import scanpy as sc
    >>> sc.pp.neighbors(mdata, use_rep="X_svd_concat", transformer="sklearn", method="gauss")
    """
    return call(
        JOINT_EMBED,
        mdata,
        method,
        params,
        source=source,
        target=target,
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
