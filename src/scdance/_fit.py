from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._checks import InputError
from ._core.objects import opened
from ._core.read import read_roles, reference
from ._core.registry import task_of
from ._core.run import load as _load
from ._core.run import make, solve
from ._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import ArrayLike
    from spatialdata import SpatialData

    from ._core.method import Method


@documented()
def fit(
    task: str,
    data: AnnData | MuData | SpatialData,
    method: str | Path | Method | type[Method] | None = None,
    *,
    labels_key: str | None = None,
    layer: str | None = None,
    source: str | None = None,
    target: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    neighbors_key: str | None = None,
    perturbation_key: str | None = None,
    control: str = "control",
    must_link: ArrayLike | None = None,
    cannot_link: ArrayLike | None = None,
    table_key: str | None = None,
    preset: str | None = None,
    recipe: str | None = "default",
    random_state: int | np.random.Generator | None = 0,
    device: str = "auto",
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    **params: Any,
) -> Method:
    """Train a method without writing into the object.

    The fitted method can be saved, and passed as ``method=`` to the tool of its task.

    Parameters
    ----------
    task
        Name of the task, as the tool is called: ``"cluster"``.
    data
        What the method learns from: the cells, the MuData, or for a task with a reference the reference.
    method
        Name of a method, a class or an instance of your own; None: the default of the task.
    labels_key
        Column of ``obs`` with the types, for a reference and for methods that learn from labels.
    {layer, source, target, use_rep, batch_key, spatial_key, library_key, neighbors_key}
    {perturbation_key, control}
    must_link
        Pairs of cells that belong together, as in :func:`scdance.tl.cluster`.
    cannot_link
        Pairs of cells that belong apart, in the same form.
    {table_key, preset, recipe}
    {random_state, device, progress, checkpoint, params}

    Returns
    -------
    The fitted method, with ``predict`` and ``save``.

    Raises
    ------
    {raises}

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.load("pbmc_demo")
    >>> model = sd.fit("cluster", adata, method="kmeans", n_clusters=8)
    >>> sd.tl.cluster(adata, method=model)
    """
    declared = task_of(task)
    model = make(task, method or declared.default, params, preset=preset, random_state=random_state, device=device)
    if model.is_fitted:
        msg = f"The {type(model).__name__} is fitted already. To fit another, pass `method=model.unfitted()`."
        raise InputError(msg)
    wanted = model.fit_on or declared.roles
    if "ref" in wanted and len(wanted) > 1:
        msg = (
            f"{type(model).__name__} learns from the reference and the cells together, so it cannot be fitted before: "
            f"call `scdance.tl.{task}(adata, ref, method={model.name!r}, …)`."
        )
        raise InputError(msg)
    if wanted == ("ref",):
        roles = {"ref": reference(data, model, labels_key, layer, recipe)}
    else:
        roles = read_roles(
            declared, model, data, opened(data, declared, table_key), layer=layer, source=source, target=target,
            use_rep=use_rep, batch_key=batch_key, spatial_key=spatial_key, library_key=library_key,
            neighbors_key=neighbors_key, labels_key=labels_key, must_link=must_link, cannot_link=cannot_link,
            perturbation_key=perturbation_key, control=control,
            recipe=recipe,
        )  # fmt: skip
    solve(model, progress=progress, checkpoint=checkpoint, **roles)
    return model


def load(path: str | Path) -> Method:
    """Read a saved method.

    Parameters
    ----------
    path
        Folder that ``model.save(path)`` wrote: json and safetensors. Nothing in it is executed.

    Returns
    -------
    The fitted method.

    Raises
    ------
    ValueError
        The folder holds no saved method, a damaged one, one of a newer scdance, or one whose class is your own.

    Examples
    --------
    >>> import scdance as sd
    >>> sd.load("pbmc_kmeans")  # doctest: +SKIP
    KMeans(n_clusters=8)
    """
    return _load(path)
