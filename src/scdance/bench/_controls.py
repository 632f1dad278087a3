"""Rows that frame every table: the floor that knows nothing, the ceiling that is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    import pandas as pd

    from scdance._core.task import Task

Slots = list[tuple[str, str, Any]]
KEY = "result"  # the name under which a result stands


def shuffled_truth(task: Task, truth: Any, seed: int) -> Slots:
    """The truth in random order: what a result that knows nothing but the sizes of the types scores."""
    order = np.random.default_rng(seed).permutation(truth.shape[0])
    if sp.issparse(truth):
        return _as_counts(task, truth[order])
    return _as_result(task, truth.iloc[order].set_axis(truth.index, axis=0))


def the_truth(task: Task, truth: Any, seed: int) -> Slots:
    """The truth itself: if it does not score the best value, the metric is broken."""
    if sp.issparse(truth):
        return _as_counts(task, truth)
    return _as_result(task, truth)


def _as_counts(task: Task, counts: sp.csr_matrix) -> Slots:
    """Counts as the result of a run that gave counts."""
    slot = task.gives["expression"]
    told = {task.name: {KEY: {"params": {"output": "counts"}, "input": {"layer": "X"}}}}
    return [(slot.where, slot.name.format(key=KEY), counts), ("uns", "scdance", told)]


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
