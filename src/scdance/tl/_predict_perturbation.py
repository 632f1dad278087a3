from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._core.call import call
from scdance._core.task import PREDICT_PERTURBATION
from scdance._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from scdance._core.method import Method


@documented(PREDICT_PERTURBATION)
def predict_perturbation(
    adata: AnnData,
    method: str | Path | Method | type[Method] = PREDICT_PERTURBATION.default,
    *,
    perturbation_key: str | None = None,
    control: str = "control",
    targets: Sequence[str] | str | None = None,
    split_key: str | None = None,
    layer: str | None = None,
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
    """Predict what cells express under perturbations that were not measured, or not yet shown to the method.

    The method learns from the control cells and from the cells of all perturbations of a screen but the targets, whose
    cells are never read. ``scdance.methods("predict_perturbation")`` lists the methods; ``"no_change"``,
    ``"mean_perturbed"`` and ``"additive"`` are floors that in published comparisons many deep models do not beat, so
    look at them first. Where cells of the targets were measured, see with
    ``scdance.metrics.score(adata, "predict_perturbation", key=…)`` how far each came.

    Parameters
    ----------
    {adata}
    method
        Name of a method, a method of your own (class or instance), a fitted one, or the folder of a saved one.
        With a fitted one nothing is learnt, and the changes are those from the control cells of this object.
    {perturbation_key, control}
    targets
        Perturbations to predict: genes, or several joined by "+" in any order, such as ``["STAT1", "STAT1+IRF1"]``.
        They need not be in the column. None: with `split_key` those that no cell teaches.
    split_key
        Column of ``adata.obs`` that says which cells teach: True or ``'train'``. The others are never read. None: all
        but those of the targets.
    {layer, key_added, preset, recipe}
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
    >>> adata = sd.datasets.toy_perturbed()
    >>> sd.tl.predict_perturbation(
    ...     adata, method="additive", perturbation_key="perturbation", targets=["gene_0+gene_1", "gene_2"]
    ... )
    >>> adata.varm["additive_change"].shape
    (200, 2)
    >>> score = sd.metrics.score(adata, "predict_perturbation", key="additive")
    >>> bool(score["perturbation_skill"].item() > 0)
    True
    """
    return call(
        PREDICT_PERTURBATION,
        adata,
        method,
        params,
        perturbation_key=perturbation_key,
        control=control,
        targets=targets,
        split_key=split_key,
        layer=layer,
        key_added=key_added,
        preset=preset,
        recipe=recipe,
        random_state=random_state,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
        copy=copy,
    )
