"""Which methods there are: the folder is the list."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scdance._checks import InputError, listed, nearest

from .task import TASKS, Task

if TYPE_CHECKING:
    import pandas as pd

    from .method import Method

_FOLDER = Path(__file__).parent.parent / "methods"


def task_of(name: str) -> Task:
    """The task of this name, or an error that names the nearest."""
    if name not in TASKS:
        msg = f"There is no task {name!r}; the tasks are {listed(TASKS)}.{nearest(name, TASKS)}"
        raise InputError(msg)
    return TASKS[name]


@cache
def _plugins() -> dict[tuple[str, str], Any]:
    """Methods of other packages: entry points of the group "scdance.methods", named "task.method"."""
    found = (point for point in entry_points(group="scdance.methods") if "." in point.name)
    return {tuple(point.name.split(".", 1)): point for point in found}  # type: ignore[misc]


def names(task: str) -> list[str]:
    """Names of the methods of a task, sorted; imports none of them."""
    own = {path.stem for path in (_FOLDER / task_of(task).name).glob("[!_]*.py")}
    return sorted(own | {name for where, name in _plugins() if where == task})


def get(task: str, name: str) -> type[Method]:
    """Import one method and return its class."""
    known = names(task)
    if name not in known:
        msg = f"{task!r} has no method {name!r}; it has {listed(known, 60)}.{nearest(name, known)}"
        raise InputError(msg)
    if (task, name) in _plugins():
        cls = _plugins()[task, name].load()
        cls.task, cls.name = task, name
        return cls
    module = importlib.import_module(f"scdance.methods.{task}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and value.__name__.lower() == name.replace("_", "")
    )


def kind_of(cls: type[Method]) -> str:
    """What a method is beside others: "floor", "route" to another package, "semi-supervised" or "method"."""
    if cls.control:
        return "floor"
    return "route" if cls.route else "semi-supervised" if "labels" in (*cls.needs, *cls.uses) else "method"


def readers(task: str, word: str) -> list[str]:
    """Names of the methods of a task that read a kind of input."""
    return [name for name in names(task) if word in (*(cls := get(task, name)).needs, *cls.uses)]


def methods(task: str | None = None) -> pd.DataFrame:
    """Table of the methods of a task, or of all tasks.

    Parameters
    ----------
    task
        Name of a task; None for all.

    Returns
    -------
    One row per method, indexed by its name: ``task``, ``needs`` and ``uses`` (inputs), ``inductive`` (answers
    for cells it was not fitted on), ``kind`` ("floor", "route" to another package, "semi-supervised" where it may
    be given labels or pairs, or "method"), ``default``,
    ``presets``, ``cite``, and where the reference benchmark has run, the mean ``score`` of the task's
    first metric over the reference data sets and the median ``cpu_seconds``.

    Examples
    --------
    >>> import scdance as sd
    >>> bool(sd.methods("cluster").loc["kmeans", "inductive"])
    True
    """
    import pandas as pd

    rows = []
    for each in [task_of(task)] if task is not None else TASKS.values():
        for name in names(each.name):
            cls = get(each.name, name)
            rows.append(
                {
                    "name": name,
                    "task": each.name,
                    "kind": kind_of(cls),
                    "needs": ", ".join(cls.needs),
                    "uses": ", ".join(cls.uses),
                    "inductive": cls.inductive,
                    "default": name == each.default,
                    "presets": ", ".join(cls.presets),
                    "cite": cls.cite,
                    **_measured(each.name).get(name, {}),
                }
            )
    return pd.DataFrame(rows).set_index("name")


def measured_methods(task: str) -> list[str]:
    """Methods that the reference benchmark has measured, the best first."""
    return list(_measured(task))


@cache
def _measured(task: str) -> dict[str, dict[str, float]]:
    """Score and seconds of each method on the reference sets, from the file that the benchmark writes."""
    import csv

    path = Path(__file__).parent / f"measured_{task}.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {
            row["method"]: {"score": float(row["score"]), "cpu_seconds": float(row["cpu_seconds"])}
            for row in csv.DictReader(file)
        }
