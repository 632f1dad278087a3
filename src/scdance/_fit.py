from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._checks import InputError
from ._core.io import read
from ._core.registry import task_of
from ._core.run import load as _load
from ._core.run import make, solve
from ._docs import documented

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from ._core.method import Method


@documented()
def fit(
    task: str,
    adata: AnnData,
    method: str | Path | Method | type[Method] | None = None,
    *,
    layer: str | None = None,
    use_rep: str | None = None,
    batch_key: str | None = None,
    neighbors_key: str | None = None,
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
    {adata}
    method
        Name of a method, a class or an instance of your own; None: the default of the task.
    {layer, use_rep, batch_key, neighbors_key, preset, recipe}
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
    model = make(task, method or task_of(task).default, params, preset=preset, random_state=random_state, device=device)
    if model.is_fitted:
        msg = f"The {type(model).__name__} is fitted already. To fit another, pass `method=model.unfitted()`."
        raise InputError(msg)
    cells = read(
        adata,
        model,
        layer=layer,
        use_rep=use_rep,
        batch_key=batch_key,
        neighbors_key=neighbors_key,
        recipe=recipe,
    )
    solve(model, cells=cells, progress=progress, checkpoint=checkpoint)
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
