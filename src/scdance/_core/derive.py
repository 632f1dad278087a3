"""Results that are made from other results, without a method: how they are read, recorded and written."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

from scdance._checks import InputError, MissingKeyError, listed, nearest
from scdance.pp import FittedRecipe

from .cells import Cells
from .objects import copied
from .task import Task
from .write import record_of, slots_of, write


def write_derived(
    adata: Any,
    task: Task,
    key: str,
    tool: str,
    result: dict[str, Any],
    names: list[str],
    *,
    rows: np.ndarray,
    params: dict[str, Any],
    start: float,
    made_from: dict[str, Any] | None = None,
    random_state: int = 0,
    notes: dict[str, Any] | None = None,
    copy: bool = False,
) -> Any:
    """Write the result of a tool for the cells at `rows`, with its run record; None, or the copy that was asked for.

    `start` is the time at which the tool began, `made_from` what the record says of its input.
    """
    from scdance import __version__

    record = {
        "method": tool,
        "tool": tool,  # in place of the tool of the task
        "params": params,
        "preset": "",
        "random_state": random_state,
        "version": __version__,
        "input": {"layer": "obs", "kind": "labels", "recipe": "none", "n_obs": len(rows), "n_vars": 0}
        | (made_from or {}),
        "history": {},
        "epochs": 0,
        "stopped": "",
        "seconds": time.perf_counter() - start,
        "notes": notes or {},
    }
    if copy:
        adata, _ = copied(adata, adata)
    none = np.array([], dtype=str)
    write(
        adata, task, key, Cells(FittedRecipe(none), rows, adata.n_obs, adata.n_vars, rows, none), result, names, record
    )
    return adata if copy else None


def part_of(adata: Any, task: Task, key: str, part: str) -> Any:
    """A part of an earlier result of a task, by the key of its run."""
    where, name = slots_of(task, key)[part]
    there = getattr(adata, where)
    if name in there:
        return there[name]
    runs = [str(each) for each in adata.uns.get("scdance", {}).get(task.name, {})]
    msg = (
        f"No {name!r} in `adata.{where}`, where {part} of a run of {task.name!r} would stand. "
        f"Runs of it: {listed(runs)}.{nearest(key, runs)} Pass the `key_added` (or the method's name) of a run."
    )
    raise MissingKeyError(msg)


def probabilities(adata: Any, task: Task, key: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Probabilities of the types by an earlier run, (n_obs, n_types), and the cells that it gave any type to."""
    proba = part_of(adata, task, key, "proba")
    if not isinstance(proba, pd.DataFrame):
        msg = f"The probabilities of {key!r} are a {type(proba).__name__}, but must be a DataFrame with named columns."
        raise InputError(msg)
    labels = part_of(adata, task, key, "labels")
    true_names = record_of(adata, task, key).get("categories", proba.columns)  # columns may hold "|" for "/"
    return proba.set_axis([*map(str, true_names)], axis=1), np.flatnonzero(pd.Series(labels).notna().to_numpy())


def types_of(adata: Any, task: Task, key: str, labels: pd.Categorical) -> list[str]:
    """Names of the types that an earlier run knows, without the further category for cells of none."""
    if slots_of(task, key)["proba"][1] in adata.obsm:
        return probabilities(adata, task, key)[0].columns.tolist()
    return [str(name) for name in labels.categories if name != task.gives["labels"].beyond]
