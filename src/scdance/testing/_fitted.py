"""Checks of fitted methods: saving, new cells, order."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scdance._core import registry
from scdance._core.method import read_saved

from ._check import check, refusal
from ._objects import by_cell, genes_of, nameless, rows_of, taken, unlike

if TYPE_CHECKING:
    from ._trial import Trial

ORDER, ONE = 1e-5, 1e-4  # how far numbers may move with the order of the cells; with one cell against a batch


@check
def saves_and_loads(trial: Trial) -> Iterator[str]:
    """A saved and loaded method predicts the same, and takes new cells or says who does."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trial.model.save(path)
        is_registered = trial.key in registry.names(trial.task.name)
        is_registered = is_registered and registry.get(trial.task.name, trial.key) is trial.cls
        loaded = str(path) if is_registered else trial.cls.load(path)
        again = trial.predict(trial.toys.old, loaded)
        if wrong := unlike(trial.results(trial.shared.after), again, trial.exactly):
            yield f"{', '.join(wrong)} differ after saving and loading"
        if trial.cls.inductive:
            if wrong := unlike(trial.on_new, trial.predict(trial.toys.new, loaded), trial.exactly):
                yield f"{', '.join(wrong)} of new cells differ after saving and loading"
            return
        others = [name for name in registry.names(trial.task.name) if registry.get(trial.task.name, name).inductive]
        found = refusal(lambda: trial.predict(trial.toys.new, loaded))
        others = others or [trial.cls.name]  # where no method of the task can, it says how to run this one
        if not isinstance(found, ValueError) or not any(name in str(found) for name in others):
            yield f"for new cells it must raise a ValueError that names one of {', '.join(others)}; got {found!r}"


@check
def saves_no_training_data(trial: Trial) -> Iterator[str]:
    """A saved folder is json and safetensors, without numbers per training cell but those in `keeps`."""
    state = trial.model.state
    if absent := [name for name in trial.cls.keeps if name not in state]:
        yield f"`keeps` names {', '.join(absent)}, which the fitted method does not have"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        trial.model.save(path)
        if strange := [file.name for file in path.rglob("*") if file.suffix not in (".json", ".safetensors")]:
            yield f"it saves {', '.join(strange)}; only json and safetensors are allowed"
        card, arrays = read_saved(path)
    kept = [f"state/{name}" for name in trial.cls.keeps]
    for name, array in arrays.items():
        is_kept = any(name == each or name.startswith(f"{each}/") for each in kept)
        cells = [n for size in array.shape for n in trial.toys.sizes if size and size % n == 0]
        if cells and not is_kept:
            yield f"it saves {name}, shape {array.shape}, for {cells[0]} training cells; name it in `keeps` if it must"
    for name, value in card["state"].items():
        if name not in trial.cls.keeps and _is_per_cell(value, trial.toys.sizes):
            yield f"it saves a list per training cell in {name}"


def _is_per_cell(value: Any, sizes: set[int]) -> bool:
    if isinstance(value, dict):
        return any(_is_per_cell(inner, sizes) for inner in value.values())
    return isinstance(value, list) and (len(value) in sizes or any(_is_per_cell(inner, sizes) for inner in value))


@check
def follows_the_order_of_cells(trial: Trial) -> Iterator[str]:
    """Permuting the cells permutes the prediction of a fitted inductive method."""
    if not trial.cls.inductive:
        return
    new = trial.toys.new
    order = np.random.default_rng(2).permutation(new.n_obs)
    permuted, found = (by_cell(trial.task, each) for each in (trial.predict(taken(new, order)), trial.on_new))
    if wrong := unlike(nameless(rows_of(found, order)), nameless(permuted), ORDER):
        yield f"{', '.join(wrong)} depend on where a cell stands among the others"


@check
def predicts_a_cell_on_its_own(trial: Trial) -> Iterator[str]:
    """A fitted inductive method says the same of one cell alone as of that cell among others."""
    if not trial.cls.inductive:
        return
    one = trial.predict(taken(trial.toys.new, slice(1)))
    alone, found = (by_cell(trial.task, each) for each in (one, trial.on_new))
    if wrong := unlike(nameless(rows_of(found, slice(1))), nameless(alone), ONE):
        yield f"{', '.join(wrong)} of a cell depend on the cells beside it; learn such numbers in `fit`"


@check
def ignores_the_order_of_genes(trial: Trial) -> Iterator[str]:
    """Permuting the genes of the query changes nothing for a fitted inductive method."""
    if not trial.cls.inductive:
        return
    new = trial.toys.new
    order = np.random.default_rng(3).permutation(new.n_vars)
    permuted = trial.predict(taken(new, slice(None), order))
    if wrong := unlike(genes_of(trial.task, trial.on_new, order), permuted, ORDER):
        yield f"{', '.join(wrong)} depend on the order of the genes"


@check
def is_order_free_if_it_says_so(trial: Trial) -> Iterator[str]:
    """With ``order_free = True``, permuting the cells, also of the reference, permutes the result of a whole run."""
    if not trial.cls.order_free:
        return
    rng = np.random.default_rng(4)
    old, learning = trial.toys.old, trial.toys.learning
    order = rng.permutation(old.n_obs)
    if "ref" in learning:
        learning["ref"] = taken(learning["ref"], rng.permutation(learning["ref"].n_obs))
    run = trial.fit(taken(old, order), learning)
    if run.error is not None:
        yield f"the fit of permuted cells raised {type(run.error).__name__}: {run.error}"
        return
    first, second = (by_cell(trial.task, trial.results(each.after)) for each in (trial.shared, run))
    one, other = nameless(rows_of(first, order)), nameless(second)
    if wrong := unlike(one, other, ORDER):
        yield f"{', '.join(wrong)} of a whole run depend on the order of the cells"
