"""Checks of what a call writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._core.task import BY_GENE, FRAMES
from scdance._core.write import record_of, slots_of

from ._check import check
from ._objects import copied, is_matrix, parts, through_a_file, unlike

if TYPE_CHECKING:
    from scdance._core.task import Slot

    from ._trial import Trial

SUM = 1e-4  # how far the sum of float32 shares may be from 1
RECORD = ["method", "params", "preset", "random_state", "version", "input", "history", "seconds", "notes"]


@check
def runs(trial: Trial) -> Iterator[str]:
    """The tool fits and predicts without an error, and the result fits the task."""
    if trial.first.error is not None:
        raise trial.first.error
    yield from ()


@check
def writes_what_the_task_gives(trial: Trial) -> Iterator[str]:
    """All required slots and the record are there, and nothing else has come, gone or changed."""
    run = trial.shared
    missing = [part for part in trial.task.gives if part not in {*trial.results(run.after), *trial.task.optional}]
    if missing:
        yield f"the object lacks {', '.join(missing)}"
    record = record_of(trial.toys.holder(run.after), trial.task, trial.run_key)
    if lacking := [name for name in RECORD if name not in record]:
        yield f"the run record lacks {', '.join(lacking)}"
    if touched := [name for name in _foreign(trial, run.touched) if not is_matrix(name)]:
        yield f"the call touched {', '.join(touched)}"


def _foreign(trial: Trial, names: list[str]) -> list[str]:
    """Those of the parts of an object that are not results of the method."""
    under = trial.toys.under
    own = {f"{under}{where}/{name}" for where, name in slots_of(trial.task, trial.run_key).values()}
    ours = f"{under}uns/scdance/{trial.task.name}/{trial.run_key}/"
    return [name for name in names if name not in own and not name.startswith(ours)]


@check
def leaves_the_matrices(trial: Trial) -> Iterator[str]:
    """X, raw and the layers hold the same numbers as before."""
    run = trial.shared
    if touched := [name for name in _foreign(trial, run.touched) if is_matrix(name)]:
        yield f"{', '.join(touched)} changed; copy before you write into what `cells` holds"


@check
def types_and_shapes(trial: Trial) -> Iterator[str]:
    """Each part has the type, the shape, the names and the index that its kind of slot promises."""
    data = trial.toys.holder(trial.shared.after)
    result = trial.results(trial.shared.after)
    categories = trial.toys.categories
    groups = result.get("labels", result.get("clusters"))
    if categories is None and hasattr(groups, "cat"):
        categories = list(groups.cat.categories)
        if categories != [str(i) for i in range(len(categories))]:
            yield f"the categories of the groups are {categories}, expected '0', '1', …"
    for part, value in result.items():
        n = data.n_vars if trial.task.gives[part].kind in BY_GENE else data.n_obs
        if value.shape[0] != n:
            yield f"{part!r} has {value.shape[0]} rows, expected {n}"
        names = data.var_names if trial.task.gives[part].kind == "profiles" else data.obs_names
        for problem in _misfits(trial.task.gives[part], value, names, categories):
            yield f"{part!r} {problem}"


def _misfits(slot: Slot, value: Any, names: Any, categories: list[str] | None) -> Iterator[str]:
    """What is wrong with one part of a result, whose rows have these names, as the ends of sentences."""
    import pandas as pd

    if slot.kind == "category":
        if not isinstance(value.dtype, pd.CategoricalDtype):
            yield f"is {value.dtype}, expected a category"
        elif list(value.cat.categories) not in (categories, [*categories, *filter(None, [slot.beyond])]):
            yield f"has the categories {list(value.cat.categories)}, expected {categories}"
        return
    if slot.kind == "text":
        if not isinstance(value.dtype, pd.CategoricalDtype):
            yield f"is {value.dtype}, expected categories"
        return
    if slot.kind == "sets":
        found = {name for text in value.dropna() for name in str(text).split("|") if name}
        if not found <= set(categories):
            yield f"names {sorted(found - set(categories))}, which are no categories"
        return
    if slot.kind == "links":
        sums = np.asarray(value.sum(axis=1)).ravel()
        if value.shape[1] != len(names) or not np.allclose(sums[sums != 0], 1, atol=SUM):
            yield "is not between the cells, with rows that sum to 1 or are empty"
        return
    if slot.kind == "flags":
        if value.dtype != bool:
            yield f"is {value.dtype}, expected bool"
        return
    if slot.kind == "expression":
        value = value.data if sp.issparse(value) else value
        if value.dtype != np.float32 or not np.isfinite(value).all() or value.min(initial=0) < 0:
            yield "is not float32, finite and at least 0"
        return
    is_frame = slot.kind in (*FRAMES, "profiles")
    if is_frame and not (value.index.equals(names) and list(value.columns) == categories):
        rows, columns = ("genes", "perturbation") if slot.kind == "profiles" else ("cells", "category")
        yield f"is not indexed by the {rows} with one column per {columns}"
    numbers = np.asarray(value)
    if slot.kind == "matrix" and numbers.ndim != 2:
        yield f"has {numbers.ndim} dimensions, expected 2"
    if slot.empty != slot.empty:  # NaN: cells without evidence are left out, as whole rows
        numbers = numbers[~(np.isnan(numbers) if numbers.ndim == 1 else np.isnan(numbers).all(axis=-1))]
    if numbers.dtype != np.float32 or not np.isfinite(numbers).all():
        yield "is not finite float32"
    elif slot.kind == "shares" and not np.allclose(numbers.sum(axis=1), 1, atol=SUM):
        yield "has rows that do not sum to 1"


@check
def largest_group_first(trial: Trial) -> Iterator[str]:
    """Groups that a method finds are numbered by their size among the cells it was fitted on."""
    result = trial.results(trial.shared.after)
    groups = result.get("labels", result.get("clusters"))
    if trial.toys.categories is not None or groups is None:
        return
    sizes = groups.value_counts(sort=False).to_numpy()
    if (np.diff(sizes) > 0).any():
        yield f"the groups have {sizes.tolist()} cells in the order of their names; number them by `graph.by_size`"


@check
def returns_none_or_a_copy(trial: Trial) -> Iterator[str]:
    """The tool returns None; with ``copy=True`` an object with the results, and leaves the user's alone."""
    if trial.shared.returned is not None:
        yield f"the tool returned {type(trial.shared.returned).__name__}"
    data = trial.toys.old
    before = parts(copied(data))
    new = trial.call(data, trial.model, copy=True)
    if touched := unlike(before, parts(data)):
        yield f"with copy=True the call touched {', '.join(touched)} of the original"
    if wrong := unlike(trial.results(trial.shared.after), trial.results(new), trial.exactly):
        yield f"with copy=True {', '.join(wrong)} came out otherwise"
    if wrong := _foreign(trial, unlike(before, parts(new))):
        yield f"with copy=True the copy has other {', '.join(wrong)}"


@check
def survives_a_file(trial: Trial) -> Iterator[str]:
    """Results and record are equal after they were written to h5ad or h5mu and read back."""
    data = trial.shared.after
    with tempfile.TemporaryDirectory() as folder:
        back = through_a_file(data, Path(folder))
    if wrong := unlike(parts(data), parts(back)):
        yield f"{', '.join(wrong)} are not read back as they were written"
