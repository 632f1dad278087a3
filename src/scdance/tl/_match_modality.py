from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import MATCH_MODALITY
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from mudata import MuData

    from scdance._core.method import Method


@documented(MATCH_MODALITY)
def match_modality(
    mdata: MuData,
    method: str | Path | Method | type[Method] = MATCH_MODALITY.default,
    *,
    source: str | None = None,
    target: str | None = None,
    layer: str | dict[str, str] | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
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
    """Match cells of two modalities that were measured apart.

    Cells that both modalities have under the same name are pairs that teach. Those that only one has are matched: each
    of the source with those of the target, within its batch where batches are given. The probabilities say how sure
    that is: many cells have no partner that stands out. ``scdance.methods("match_modality")`` lists the methods.

    Parameters
    ----------
    {mdata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is trained, and no cell needs to be in both modalities.
    {source, target}
    layer
        Layer with the counts, of both modalities or by name: ``dict(rna="counts")``. None: ``layers["counts"]`` if
        there, else ``X``. Counts are normalised on a private copy; normalised values are taken as they are.
    batch_key
        Column of ``obs`` of either modality, or of `mdata`, with the batches: cells are matched within theirs.
    labels_key
        Column of ``obs`` with the types of the cells that teach, for methods that use them.
    {key_added, preset, recipe}
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
    >>> sd.tl.match_modality(mdata, method="cca", source="rna", target="prot")
    >>> mdata.obsp["cca_matching"].shape == (mdata.n_obs, mdata.n_obs)
    True
    """
    return call(
        MATCH_MODALITY,
        mdata,
        method,
        params,
        source=source,
        target=target,
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
