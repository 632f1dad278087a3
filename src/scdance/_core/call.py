"""The way of a call, from the user's object to its slots: every tool is this with its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from scdance._checks import InputError, whole_number

from .evaluate import evaluated
from .expression import refuse_large
from .knobs import changed
from .method import Method
from .objects import copied, opened
from .perturbed import check_asked
from .read import modalities, read_roles
from .run import make, receiving, record, solve
from .task import Task
from .write import check_slots, write


def call(
    task: Task,
    data: Any,
    method: str | Path | Method | type[Method],
    params: dict[str, Any],
    *,
    key_added: str | None,
    preset: str | None,
    random_state: Any,
    device: str,
    progress: bool | None,
    checkpoint: str | Path | None,
    copy: bool,
    table_key: str | None = None,
    neighbors: int | None = None,
    evaluate: bool = False,
    write_ref: bool = False,
    **reading: Any,
) -> Any:
    """Make the method, read what it needs, fit and predict, write; `reading` is what :func:`read_roles` takes.

    Everything is checked before anything is computed, and computed before anything is written.
    """
    model = make(task.name, method, params, preset=preset, random_state=random_state, device=device)
    table = opened(data, task, table_key)
    if neighbors is not None:
        whole_number(neighbors, "neighbors", least=2)
    into, suffix = table, ""
    if task.suffix:
        source, target = modalities(task, model, table, reading.get("source"), reading.get("target"))
        reading |= {"source": source, "target": target}
        into, suffix = table.mod[source], task.suffix.format(target=target)
    key = check_slots(into, task, key_added, model.name, suffix=suffix, whole=table, neighbors=neighbors is not None)
    if write_ref:
        check_reference(model, reading.get("ref"), task, key)
    roles = read_roles(task, model, data, table, **reading)
    check_asked(roles[task.roles[-1]])
    model.check_cells(roles[task.roles[-1]])
    if task.gives_expression and getattr(model, "corrected", True):
        n_layers = 1 + bool(getattr(model, "uncertainty", False))
        refuse_large(roles[task.roles[-1]], getattr(model, "genes", None), n_layers)
    if evaluate:
        fixed = {name for name, value in params.items() if value is not None} | {*model.presets.get(preset or "", ())}
        before = repr(model.recipe)
        model, judged, scores = evaluated(
            task, model, data, table, fixed | changed(model), progress=progress, **reading
        )
        if repr(model.recipe) != before:
            roles = read_roles(task, model, data, table, **reading)
    result, seconds = solve(model, progress=progress, checkpoint=checkpoint, **roles)
    if evaluate:
        names = roles[task.roles[-1]].var_names
        result["imputability"] = np.array([judged.get(name, np.nan) for name in names], dtype=np.float32)
        model.notes_ = {**getattr(model, "notes_", {}), "evaluation": scores}
    if copy:
        data, table = copied(data, table)
        into = table.mod[source] if task.suffix else table
    told = record(model, preset=preset, seconds=seconds, **roles)
    told |= {"target": target} if task.suffix else {}
    if write_ref:
        place = {"embedding": model.place(roles["ref"], "ref")}  # type: ignore[attr-defined]
        write(reading["ref"], task, key, roles["ref"], place, model.categories_, told)
    answered: Any = receiving(task, roles[task.roles[-1]])
    screen = getattr(answered, "screen", None)
    names = model.categories_ if screen is None else screen.targets
    write(into, task, key, answered, result, names, told, neighbors)
    return data if copy else None


def check_reference(model: Method, ref: Any, task: Task, key: str) -> None:
    """Refuse to write into a reference that is not there, or whose slots are taken."""
    if model.is_fitted or ref is None:
        msg = "`write_ref=True` writes the places of the reference, so it needs one: pass `ref=` and a method to train."
        raise InputError(msg)
    if not hasattr(model, "place"):
        msg = f"{model.name} has no common space in which to place the reference; leave `write_ref=True` out."
        raise InputError(msg)
    check_slots(ref, task, key, model.name)
