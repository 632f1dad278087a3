"""Rows that frame every table: the floor that knows nothing, the ceiling that is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from scdance._core.task import Task

KEY = "result"  # the name under which a result stands


def shuffled_truth(task: Task, truth: pd.Series | pd.DataFrame, seed: int) -> tuple[str, str, Any]:
    """The truth in random order: what a result that knows nothing but the sizes of the types scores."""
    order = np.random.default_rng(seed).permutation(len(truth))
    return _as_result(task, truth.iloc[order].set_axis(truth.index, axis=0))


def the_truth(task: Task, truth: pd.Series | pd.DataFrame, seed: int) -> tuple[str, str, Any]:
    """The truth itself: if it does not score the best value, the metric is broken."""
    return _as_result(task, truth)


def _as_result(task: Task, truth: pd.Series | pd.DataFrame) -> tuple[str, str, Any]:
    """Attribute, name and value of the first part of a result that says what the truth says."""
    import pandas as pd

    slot = next(iter(task.gives.values()))
    value = pd.get_dummies(truth).to_numpy(dtype=np.float32) if slot.kind == "matrix" else truth
    return slot.where, slot.name.format(key=KEY), value


CONTROLS = {"shuffled truth": shuffled_truth, "the truth": the_truth}
