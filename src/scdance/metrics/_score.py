"""Score what a tool has written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._checks import InputError, MissingKeyError, listed, nearest, one_of
from scdance._core.answers import compared
from scdance._core.beside import BESIDE, beside
from scdance._core.counts import COMPARED, hidden
from scdance._core.measured import measured
from scdance._core.objects import apart
from scdance._core.responses import responses
from scdance._core.task import TASKS, Task

from ._metric import with_parts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


def score(
    adata: AnnData | MuData,
    task: str,
    *,
    key: str,
    truth: str | AnnData | MuData | None = None,
    metrics: Sequence[str] | None = None,
    spatial_key: str = "spatial",
    library_key: str | None = None,
    batch_key: str | None = None,
    pseudotime: str | Sequence[str] | None = None,
    ref: AnnData | None = None,
) -> pd.DataFrame:
    """Score what a tool wrote into the object.

    Finds the result through the declaration of the task, so it needs only the key; works as well on slots
    that another program filled.

    Parameters
    ----------
    adata
        Object that holds the result.
    task
        Name of the task, such as ``"cluster"``.
    key
        The ``key_added`` of the run, or the name of its method.
    truth
        What is known: a column of ``obs``, for shares of types a key of ``obsm``, for expression a layer with all
        counts (None: those from which :func:`scdance.tl.hold_out` made the layer that the method saw), for a predicted
        modality an AnnData with what was measured of cells that did not teach, for predicted perturbations an AnnData
        with measured cells of them (None: those of the object, which the tool did not read), for predicted genes the
        same with what was measured of these. Cells where it is NaN or "" are left out. Needed by all metrics but those
        that compare parts of the result with each other.
    metrics
        Names of metrics; None: those of the task.
    spatial_key
        Key of ``obsm`` with the coordinates, for scores that compare places.
    library_key
        Column of ``obs`` with the slice of each spot, for the same; None: all lie on one.
    batch_key
        Column of ``obs`` of the object or of a modality with the batch of each cell, for scores that compare batches;
        None: there is one, and such scores are NaN or over all cells.
    pseudotime
        Columns of the same with the known time of each cell, one for each trajectory, NaN where a cell is not on it;
        None: nothing is known, and scores that compare times are NaN.
    ref
        Reference whose places the run wrote, with ``write_ref=True``, for scores that compare both sides; None: they
        are NaN.

    Returns
    -------
    One row, indexed by `key`, with one column per metric, NaN where it is not defined. ``pandas.concat`` joins the rows
    of several runs.

    Raises
    ------
    InputError
        If there is no such task or metric, or the truth is missing for all cells.
    MissingKeyError
        If the result, the truth or a column is not in the object; the message says what is.
    MissingPackageError
        If a metric needs a package that is not installed; name the others as `metrics=`.

    Examples
    --------
    >>> import scdance as sd
    >>> adata = sd.datasets.toy_clusters()
    >>> adata.obs["mine"] = adata.obs["cell_type"]
    >>> float(sd.metrics.score(adata, "cluster", key="mine", truth="cell_type").loc["mine", "ari"])
    1.0
    """
    import pandas as pd

    declared = TASKS[one_of(task, TASKS, "task")]
    names = list(declared.metrics if metrics is None else metrics)
    wanted = with_parts(names)
    made = {metric.name for metric in wanted}  # others are made of these
    needs = {need for metric in wanted for need in metric.needs}
    given: dict[str, Any] = {}
    if declared.truth == "mod":
        given = compared(adata, declared, key, truth)
        if "half_width" in needs and "half_width" not in given:
            msg = f"The run {key!r} has no intervals: ask for them with `interval=0.9`."
            raise InputError(msg)
    if declared.truth == "cells":
        _result(adata, declared, "profile", key, needed_by=wanted[0].name)  # says what there is instead
        given = responses(adata, declared, key, truth)
    if declared.asks_genes:
        _result(adata, declared, "prediction", key, needed_by=wanted[0].name)
        given = measured(adata, declared, key, truth)
    if declared.truth == "layers":
        given = hidden(adata, declared, key, truth, needs=needs)
        if not given and any(set(metric.needs) & set(COMPARED) for metric in wanted):
            _result(adata, declared, "expression", key, needed_by=wanted[0].name)  # says what there is instead
    if needs & {*BESIDE}:
        given |= beside(adata, declared, key, needs, batch_key=batch_key, pseudotime=pseudotime, ref=ref)
    if "coords" in needs:
        given["coords"] = apart(adata, spatial_key, library_key)
    partnered = next((metric for metric in wanted if "partner" in metric.needs), None)
    if partnered is not None:
        given["partner"] = rows_of(adata, _truth(adata, declared, truth, needed_by=partnered.name))
    given |= {
        need: _truth(adata, declared, truth, needed_by=metric.name)
        if need == "truth"
        else _result(adata, declared, need, key, needed_by=metric.name)
        for metric in wanted
        for need in metric.needs
        if need not in given and need not in made
    }
    for metric in wanted:
        given[metric.name] = metric.function(*(given[need] for need in metric.needs))
    return pd.DataFrame([{name: given[name] for name in names}], index=pd.Index([key], name="key"))


def rows_of(adata: Any, names: Any) -> np.ndarray:
    """Row of the cell that is named for each cell, (n_obs,) int, −1 where none is or the object does not have it."""
    return adata.obs_names.get_indexer(np.asarray(names.astype(object)))  # type: ignore[no-any-return]


def _truth(adata: Any, task: Task, truth: str | None, needed_by: str) -> Any:
    where = f"`adata.{task.truth}`"
    if truth is None:
        msg = f"Metric {needed_by!r} compares with a truth: pass its name in {where} as `truth=`."
        raise InputError(msg)
    there = getattr(adata, task.truth)
    if truth not in there:
        names = [str(name) for name in there.keys()]  # noqa: SIM118, iterating over obsm gives no names
        msg = (
            f"No {truth!r} in {where}; it has {listed(names)}.{nearest(truth, names)} "
            "Pass the name of what holds the truth as `truth=`."
        )
        raise MissingKeyError(msg)
    return there[truth]


def _result(adata: AnnData, task: Task, part: str, key: str, needed_by: str) -> Any:
    slot = task.gives[one_of(part, task.gives, f"What metric {needed_by!r} compares")]
    name = slot.name.format(key=key)
    there = getattr(adata, slot.where)
    if name in there:
        return there[name]
    runs = adata.uns.get("scdance", {}).get(task.name, {})
    msg = (
        f"No {name!r} in `adata.{slot.where}`, where {part} of task {task.name!r} would stand; it has "
        f"{listed(there.keys())}.{nearest(name, map(str, there.keys()))} Runs of this task: {listed(runs)}. "
        "Pass the `key_added` (or the method's name) of a run as `key=`."
    )
    raise MissingKeyError(msg)
