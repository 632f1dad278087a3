"""Cells of the grid of perturbations: the scores of a row, and the controls that frame the table."""

from __future__ import annotations

from typing import Any

import pytest

from scdance import datasets, metrics, tl
from scdance._core.task import TASKS
from scdance.bench._cell import solve_cell
from scdance.bench._controls import CONTROLS

TASK = TASKS["predict_perturbation"]


def job(method: str) -> dict[str, Any]:
    given = {"task": TASK.name, "dataset": "simulated_screen", "method": method, "seed": 0, "pick": True}
    return {**given, "knobs": {}}


def test_a_row_has_the_scores_of_the_call_on_what_is_left_of_the_screen():
    row, given = solve_cell(job("additive")), datasets.problem(TASK.name, "simulated_screen")
    tl.predict_perturbation(given.data, "additive", **given.arguments)
    expected = metrics.score(given.data, TASK.name, key="additive", truth=given.truth).loc["additive"]
    assert {name: row[name] for name in TASK.metrics} == expected.to_dict()
    assert row["n_clusters"] == "" and row["seconds"] > 0


def test_the_truth_scores_the_best_and_in_another_order_far_less():
    shuffled, true = (solve_cell(job(control)) for control in CONTROLS)
    for name in TASK.metrics:
        record = metrics.get(name)
        best = record.range[1] if record.higher_is_better else record.range[0]
        assert true[name] == pytest.approx(best, abs=1e-6)
        assert abs(shuffled[name] - best) > 0.2
