"""Rows that frame every table: the floor that knows nothing, the ceiling that is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdance._core.answers import in_units
from scdance._core.expression import in_unit
from scdance._core.measured import measured
from scdance._core.responses import responses

if TYPE_CHECKING:
    import pandas as pd

    from scdance._core.task import Task
    from scdance.datasets import Problem

Slots = list[tuple[str, str, Any]]
SPACE = 10  # dimensions of a space that is drawn
KEY = "result"  # the name under which a result stands


def shuffled_truth(task: Task, problem: Problem, seed: int) -> Slots:
    """The truth in random order: what a result that knows nothing but the sizes of the types scores."""
    truth = problem.truth
    if task.truth == "cells":
        return _as_profiles(task, problem, np.random.default_rng(seed).permutation(len(problem.arguments["targets"])))
    order = np.random.default_rng(seed).permutation(truth.shape[0])
    if task.asks_genes:
        return _as_genes(task, problem, order)
    if task.truth == "mod":
        return _as_answers(task, problem, order)
    if sp.issparse(truth):
        return _as_counts(task, problem, truth[order])
    if "matching" in task.gives:
        return _as_partners(task, problem, order, seed)
    return _as_result(task, truth.iloc[order].set_axis(truth.index, axis=0))


def the_truth(task: Task, problem: Problem, seed: int) -> Slots:
    """The truth itself: if it does not score the best value, the metric is broken, or asks for more than the truth."""
    truth = problem.truth
    if task.truth == "cells":
        return _as_profiles(task, problem, np.arange(len(problem.arguments["targets"])))
    if task.asks_genes:
        return _as_genes(task, problem, np.arange(truth.shape[0]))
    if task.truth == "mod":
        return _as_answers(task, problem, np.arange(truth.shape[0]))
    if sp.issparse(truth):
        return _as_counts(task, problem, truth)
    if "matching" in task.gives:
        return _as_partners(task, problem, np.arange(len(truth)), seed)
    return _as_result(task, truth)


def _as_counts(task: Task, problem: Problem, counts: sp.csr_matrix) -> Slots:
    """Counts as the result of a run, in the unit that the problem asks for."""
    slot, unit = task.gives["expression"], problem.arguments["output"]
    depth = np.asarray(problem.data.X.sum(axis=1, dtype=np.float64)).ravel()
    told = {task.name: {KEY: {"params": {"output": unit}, "input": {"layer": "X"}}}}
    return [(slot.where, slot.name.format(key=KEY), in_unit(counts, depth, unit)), ("uns", "scdance", told)]


def _as_answers(task: Task, problem: Problem, order: np.ndarray) -> Slots:
    """The target of the cells that are asked, in this order, as the answers of a run; nothing of those that teach."""
    mdata, truth = problem.data, problem.truth
    source, target = problem.arguments["source"], problem.arguments["target"]
    values, known = in_units(truth, task, target), in_units(mdata.mod[target], task, target)
    rows = mdata.mod[source].obs_names.get_indexer(truth.obs_names)
    answers = np.zeros((mdata.mod[source].n_obs, truth.n_vars), dtype=np.float32)
    answers[rows] = values[order].toarray()
    mean = np.asarray(known.mean(axis=0)).ravel()
    features = {"names": np.asarray(truth.var_names, dtype=str), "unit": "that of the task", "mean": mean}
    key = f"{KEY}{task.suffix.format(target=target)}"
    told = {task.name: {key: {"target": target, "features": features}}}
    return [("obsm", task.gives["prediction"].name.format(key=key), answers), ("uns", "scdance", told)]


def _as_profiles(task: Task, problem: Problem, order: np.ndarray) -> Slots:
    """The measured means of the perturbations that are asked, in this order, as the result of a run."""
    import anndata as ad
    import pandas as pd

    given, data = problem.arguments, problem.data
    read = {"layer": "X", **{name: given[name] for name in ("perturbation_key", "control")}}
    told = {task.name: {KEY: {"input": read}}}
    names = {part: slot.name.format(key=KEY) for part, slot in task.gives.items()}
    empty = pd.DataFrame(0.0, index=data.var_names, columns=given["targets"])
    bare = ad.AnnData(data.X, data.obs, data.var, uns={"scdance": told}, varm=dict.fromkeys(names.values(), empty))
    found = responses(bare, task, KEY, problem.truth)
    profile = pd.DataFrame(found["truth"].T[:, order].astype(np.float32), data.var_names, given["targets"])
    change = profile.sub(found["control"].astype(np.float32), axis=0)
    values = {"profile": profile, "change": change}
    return [*(("varm", names[part], value) for part, value in values.items()), ("uns", "scdance", told)]


def _as_genes(task: Task, problem: Problem, order: np.ndarray) -> Slots:
    """What was measured of the genes that are asked, of the cells in this order, as the result of a run."""
    import anndata as ad

    data, truth, name = problem.data, problem.truth, task.gives["prediction"].name.format(key=KEY)
    features = {"names": truth.var_names.to_numpy(dtype=str), "common": data.var_names.to_numpy(dtype=str)}
    features |= {"unit": "that of the task", "share": 1.0}
    told = {task.name: {KEY: {"input": {"layer": "X", "kind": "counts"}, "features": features}}}
    answers = np.zeros(truth.shape, dtype=np.float32)
    bare = ad.AnnData(data.X, data.obs, data.var, uns={"scdance": told}, obsm={name: answers})
    found = measured(bare, task, KEY, truth)
    answers[np.ix_(found["rows"], truth.var_names.get_indexer(found["genes"]))] = found["truth"]
    return [("obsm", name, answers[order]), ("uns", "scdance", told)]


def _as_partners(task: Task, problem: Problem, order: np.ndarray, seed: int) -> Slots:
    """The true partners of the cells, in this order, as a matching of one-to-one and a space in which they are one."""
    import pandas as pd

    names, n = problem.data.obs_names, problem.data.n_obs
    rows, columns = names.get_indexer(problem.truth.index), names.get_indexer(problem.truth.to_numpy()[order])
    space = np.random.default_rng(seed).normal(size=(n, SPACE)).astype(np.float32)
    space[columns] = space[rows]
    values = {
        "matching": sp.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(n, n)),
        "match": pd.Series(names[columns], index=names[rows]).reindex(names),
        "embedding": space,
    }
    return [(task.gives[part].where, task.gives[part].name.format(key=KEY), value) for part, value in values.items()]


def _as_result(task: Task, truth: pd.Series | pd.DataFrame) -> Slots:
    """The parts of a result that say what the truth says: attribute, name and value of each."""
    import pandas as pd

    def part(kind: str) -> Any:
        if truth.ndim == 2 or kind == "category":
            return truth
        hot = pd.get_dummies(truth, dtype=np.float32)
        return hot.to_numpy() if kind == "matrix" else hot

    needed = [slot for name, slot in task.gives.items() if name not in task.optional]
    kinds = ("shares",) if truth.ndim == 2 else ("category", "shares", "matrix")
    return [(slot.where, slot.name.format(key=KEY), part(slot.kind)) for slot in needed if slot.kind in kinds]


CONTROLS = {"shuffled truth": shuffled_truth, "the truth": the_truth}
