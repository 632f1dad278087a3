"""Cells of the grid of label transfer: the scores of a row, and the reference that the method places."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import recall_score

import scdance as sd
from scdance import datasets, metrics
from scdance._core import registry
from scdance._core.method import Method
from scdance._core.task import TASKS
from scdance.bench._cell import solve_cell
from scdance.bench._controls import CONTROLS

TASK = TASKS["transfer_labels"]


class Nowhere(Method):
    """Gives all cells the first type, and knows no space for the reference."""

    needs, uses = ("counts", "ref.labels"), ("ref.unlabelled",)

    def fit(self, *, ref: Any, cells: Any) -> Any:
        self.n_types_ = len(ref.categories)
        return self

    def predict(self, *, cells: Any) -> dict[str, Any]:
        first = np.eye(self.n_types_, dtype=np.float32)[np.zeros(cells.n_obs, dtype=int)]
        z = np.zeros((cells.n_obs, 2), dtype=np.float32)
        return {"labels": first.argmax(axis=1), "proba": first, "score": first.max(axis=1), "embedding": z}


@pytest.fixture
def problem(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cells of one batch, and those of another of which a third have types; the same anew for each call."""

    def made(*_: Any, **__: Any) -> datasets.Problem:
        both = datasets.toy_clusters(n_obs=400, n_vars=100, k=4, batches=2, batch_sd=0.5)
        first = (both.obs["batch"] == "batch1").to_numpy()
        cells, ref = both[~first].copy(), both[first].copy()
        ref.obs["known"] = ref.obs["cell_type"].where(np.arange(ref.n_obs) % 3 == 0)
        truth = cells.obs.pop("cell_type")
        return datasets.Problem(cells, truth, {"ref": ref, "labels_key": "known"})

    monkeypatch.setattr(datasets, "problem", made)
    return made


def job(method: str) -> dict[str, Any]:
    return {"task": TASK.name, "dataset": "toy", "method": method, "seed": 0, "pick": False, "knobs": {}}


def test_a_row_has_the_scores_of_the_task_and_that_of_both_sides_in_one_space(problem: Any):
    row, given = solve_cell(job("knn")), problem()
    cells, ref = given.data, given.arguments["ref"]
    sd.tl.transfer_labels(cells, ref, method="knn", labels_key="known", write_ref=True)
    assert set(TASK.metrics) <= set(row)
    recall = recall_score(given.truth, cells.obs["knn"].astype(str), average="macro")
    assert row["balanced_accuracy"] == pytest.approx(recall)
    assert row["a_distance_to_ref"] == metrics.a_distance_to_ref(cells.obsm["X_knn"], ref.obsm["X_knn"])
    assert row["ece"] == metrics.ece(given.truth, cells.obsm["knn_proba"])
    assert 0 <= row["a_distance_to_ref"] <= 2


def test_a_method_without_a_space_for_the_reference_has_no_distance_and_all_other_scores(
    problem: Any, monkeypatch: pytest.MonkeyPatch
):
    class Point:
        load = staticmethod(lambda: Nowhere)

    monkeypatch.setattr(registry, "_plugins", lambda: {(TASK.name, "nowhere"): Point})
    row = solve_cell(job("nowhere"))
    assert np.isnan(row["a_distance_to_ref"])
    assert row["balanced_accuracy"] == 1 / 4
    assert not pd.isna([row[name] for name in TASK.metrics if name != "a_distance_to_ref"]).any()


def test_the_truth_scores_the_best_of_every_metric_but_the_distance_that_it_knows_nothing_of(problem: Any):
    shuffled, true = (solve_cell(job(control)) for control in CONTROLS)
    for name in TASK.metrics:
        record = metrics.get(name)
        best = record.range[1] if record.higher_is_better else record.range[0]
        if "truth" in record.needs:
            assert true[name] == pytest.approx(best) and abs(shuffled[name] - best) > 0.3, name
        else:
            assert np.isnan(true[name]) and np.isnan(shuffled[name])


def test_other_tasks_with_a_reference_are_not_asked_to_place_it(monkeypatch: pytest.MonkeyPatch):
    asked, annotate = [], sd.tl.annotate

    def watched(*data: Any, **given: Any) -> Any:
        asked.append(given)
        return annotate(*data, **given)

    monkeypatch.setattr(sd.tl, "annotate", watched)
    solve_cell({**job("majority"), "task": "annotate", "dataset": "lung_lines_demo"})
    assert [("ref" in given, "write_ref" in given) for given in asked] == [(True, False)]
