"""Cells of the grid of predicted genes: the scores of a row, and the controls that frame the table."""

from __future__ import annotations

from typing import Any

import pytest

from scdance import datasets, metrics, tl
from scdance._core.registry import get
from scdance._core.task import TASKS
from scdance.bench._cell import heard, solve_cell
from scdance.bench._controls import CONTROLS

TASK = TASKS["predict_genes"]


def job(method: str) -> dict[str, Any]:
    given = {"task": TASK.name, "dataset": "simulated_panel", "method": method, "seed": 0, "pick": True}
    return {**given, "knobs": {}}


def test_a_row_has_the_scores_of_the_call_on_what_is_left_of_the_panel():
    row, given = solve_cell(job("knn")), datasets.problem(TASK.name, "simulated_panel")
    tl.predict_genes(given.data, method="knn", **given.arguments)
    expected = metrics.score(given.data, TASK.name, key="knn", truth=given.truth).loc["knn"]
    assert {name: row[name] for name in TASK.metrics} == expected.to_dict()
    assert row["n_clusters"] == "" and row["seconds"] > 0


def test_the_truth_scores_the_best_and_of_other_cells_as_if_nothing_were_known():
    shuffled, true = (solve_cell(job(control)) for control in CONTROLS)
    for name in TASK.metrics:
        record = metrics.get(name)
        best = record.range[1] if record.higher_is_better else record.range[0]
        assert true[name] == pytest.approx(best, abs=1e-6)
        assert abs(shuffled[name] - best) > 0.3
    assert abs(shuffled["gene_pearson"]) < 0.03


def test_a_method_is_not_told_what_it_does_not_read():
    assert heard(get(TASK.name, "knn"), {"library_key": "fov", "genes": ["a"]}) == {"genes": ["a"]}
