"""One cell of the grid: what the method gets, what its row says."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from scdance import datasets, metrics, tl
from scdance._core import call, registry
from scdance._core.knobs import knobs
from scdance._core.task import TASKS
from scdance.bench._cell import row_of, solve_cell
from scdance.bench._controls import CONTROLS


def job(
    method: str, *, dataset: str = "pbmc_demo", seed: int = 0, pick: bool = True, **settings: Any
) -> dict[str, Any]:
    return {"task": "cluster", "dataset": dataset, "method": method, "seed": seed, "pick": pick, "knobs": settings}


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return datasets.load("pbmc_demo").obs["cell_type"].cat.codes.to_numpy()


def worse(labels: np.ndarray, share: float) -> np.ndarray:
    """Labels of which a share is drawn anew."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(len(labels)) < share, rng.integers(8, size=len(labels)), labels)


# Controls


@pytest.mark.parametrize("seed", range(5))
def test_shuffled_truth_scores_nothing_and_the_truth_everything(seed: int):
    shuffled, true = (solve_cell(job(control, seed=seed)) for control in CONTROLS)
    assert abs(shuffled["ari"]) < 0.03
    assert shuffled["nmi"] < 0.05
    assert (true["ari"], true["nmi"]) == (1, pytest.approx(1))
    assert shuffled["n_clusters"] == true["n_clusters"] == 8


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in datasets.names("cluster") if name != "pbmc_demo"])
def test_controls_frame_every_real_data_set(name: str):
    shuffled, true = (solve_cell(job(control, dataset=name)) for control in CONTROLS)
    assert abs(shuffled["ari"]) < 0.01
    assert true["ari"] == 1


@pytest.fixture
def annotation() -> dict[str, Any]:
    return {"task": "annotate", "dataset": "lung_lines_demo", "seed": 0, "pick": False, "knobs": {}}


def test_the_truth_scores_the_best_of_every_metric_of_annotation(annotation: dict[str, Any]):
    true, floor = (solve_cell(annotation | {"method": method}) for method in ("the truth", "majority"))
    for name in TASKS["annotate"].metrics:
        metric = metrics.get(name)
        best = metric.range[1] if metric.higher_is_better else metric.range[0]
        assert true[name] == pytest.approx(best, abs=1e-9), name
        assert abs(floor[name] - best) > 0.1, name
    assert (true["n_clusters"], floor["n_clusters"]) == (3, 1)


def test_shuffled_types_score_what_their_sizes_alone_give(annotation: dict[str, Any]):
    row = solve_cell(annotation | {"method": "shuffled truth"})
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert row[name] == pytest.approx(1 / 3, abs=0.08)  # the query has three lines of one size
    assert row["ece"] == pytest.approx(1 - row["accuracy"]) and row["brier"] == pytest.approx(2 * row["ece"])


def test_truth_that_is_missing_costs_the_truth_nothing():
    truth = datasets.problem("annotate", "lung_lines_demo").truth
    truth.iloc[:50] = None
    problem = datasets.Problem(None, truth)
    slots = {name: value for _, name, value in CONTROLS["the truth"](TASKS["annotate"], problem, 0)}
    assert metrics.accuracy(truth, slots["result"]) == 1
    assert metrics.brier(truth, slots["result_proba"]) == metrics.ece(truth, slots["result_proba"]) == 0


def test_shuffled_truth_differs_between_seeds_and_repeats_within():
    first, second, again = (solve_cell(job("shuffled truth", seed=seed))["ari"] for seed in (0, 1, 0))
    assert first == again != second


# What the method gets


def test_the_object_that_the_method_gets_holds_no_label(plugin: ModuleType, monkeypatch: pytest.MonkeyPatch):
    given = []
    read = call.read_roles

    def watched(task: Any, model: Any, adata: Any, table: Any, **reading: Any) -> Any:
        given.append((list(adata.obs), list(adata.uns), list(adata.obsm), list(adata.layers), list(adata.var)))
        return read(task, model, adata, table, **reading)

    monkeypatch.setattr(call, "read_roles", watched)
    solve_cell(job("spy"))
    assert given == [([], [], [], [], [])]


def test_nothing_in_the_cells_of_a_method_is_the_truth(plugin: ModuleType, truth: np.ndarray):
    solve_cell(job("spy"))
    (cells,) = plugin.Spy.seen
    arrays = [value for value in vars(cells).values() if isinstance(value, np.ndarray) and len(value) == len(truth)]
    assert len(arrays) >= 3  # rows, obs_names, depth
    assert all(len(np.unique(array)) > 100 for array in arrays)
    assert set(cells.extra) == {"input"}


def test_other_labels_give_another_score_and_the_same_result(monkeypatch: pytest.MonkeyPatch):
    results = []
    solve, load = call.solve, datasets.load

    def watched(*args: Any, **given: Any) -> Any:
        results.append(solve(*args, **given))
        return results[-1]

    def other(name: str) -> Any:
        adata = load(name)
        adata.obs["cell_type"] = np.random.default_rng(0).permutation(adata.obs["cell_type"])
        return adata

    monkeypatch.setattr(call, "solve", watched)
    first = solve_cell(job("kmeans", n_clusters=8))
    monkeypatch.setattr("scdance.datasets._problem.load", other)
    second = solve_cell(job("kmeans", n_clusters=8))
    assert first["ari"] > 0.5 > 0.1 > second["ari"]
    (one, _), (two, _) = results
    assert all(np.array_equal(one[part], two[part]) for part in one)


def test_a_row_scores_what_the_tool_would_write():
    import scdance as sd

    adata = datasets.load("pbmc_demo")
    sd.tl.cluster(adata, method="kmeans", n_clusters=8, scale=True, random_state=3)
    row = solve_cell(job("kmeans", n_clusters=8, scale=True, seed=3))
    assert row["ari"] == pytest.approx(adjusted_rand_score(adata.obs["cell_type"], adata.obs["kmeans"]))
    assert row["n_clusters"] == 8


def test_a_semi_supervised_method_is_scored_on_the_cells_whose_labels_it_was_not_given(monkeypatch):
    seen = []
    read = call.read_roles

    def watched(task: Any, model: Any, adata: Any, table: Any, **reading: Any) -> Any:
        seen.append((reading["labels_key"], adata.obs["known"].notna()))
        return read(task, model, adata, table, **reading)

    monkeypatch.setattr(call, "read_roles", watched)
    row = solve_cell(job("scdcc", n_clusters=8, pretrain_steps=5, epochs=1, n_top_genes=100, pick=False))
    ((key, given),) = seen
    assert key == "known" and 0.05 < given.mean() < 0.15
    adata = datasets.load("pbmc_demo")
    adata.obs["known"] = adata.obs["cell_type"].where(given.to_numpy())
    monkeypatch.undo()
    knobs = {"n_clusters": 8, "pretrain_steps": 5, "epochs": 1, "n_top_genes": 100, "progress": False}
    tl.cluster(adata, method="scdcc", labels_key="known", **knobs)
    left = ~given.to_numpy()
    assert row["ari"] == pytest.approx(adjusted_rand_score(adata.obs["cell_type"][left], adata.obs["scdcc"][left]))


# The epoch that labels would pick


def test_the_best_epoch_is_noted_beside_the_result_and_never_in_its_place(plugin: ModuleType, truth: np.ndarray):
    plugin.Spy.shown = [worse(truth, 0.5), worse(truth, 0.1), worse(truth, 0.3)]
    plugin.Spy.final = plugin.Spy.shown[-1]
    row = solve_cell(job("spy"))
    assert row["ari"] == pytest.approx(adjusted_rand_score(truth, plugin.Spy.shown[2]))
    assert row["picked_ari"] == pytest.approx(adjusted_rand_score(truth, plugin.Spy.shown[1]))
    assert row["picked_epoch"] == "training 2"
    assert row["picked_nmi"] > row["nmi"]


def test_the_picked_score_is_never_below_the_result(plugin: ModuleType, truth: np.ndarray):
    plugin.Spy.shown, plugin.Spy.final = [worse(truth, 0.5), worse(truth, 0.4)], truth  # as best weights put back
    row = solve_cell(job("spy"))
    assert row["picked_ari"] == row["ari"] == 1
    assert row["picked_epoch"] == "training 2"


def test_nobody_looks_unless_asked(plugin: ModuleType, truth: np.ndarray):
    plugin.Spy.shown = [truth]
    assert not any(name.startswith("picked") for name in solve_cell(job("spy", pick=False)))


@pytest.mark.parametrize("name", registry.names("cluster"))
def test_methods_that_train_in_epochs_and_only_they_have_a_picked_epoch(name: str):
    there = knobs(registry.get("cluster", name))
    short = {knob: 2 for knob in there if knob.endswith("epochs")}
    known = {"n_clusters": 8} if "n_clusters" in there else {}
    row = solve_cell(job(name, **short, **known))
    assert ("picked_ari" in row) == bool(short)
    assert row.get("picked_ari", 1) >= row["ari"]


def test_cells_without_counts_are_left_out_of_the_look_too(
    plugin: ModuleType, truth: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    load = datasets.load

    def emptied(name: str) -> Any:
        adata = load(name)
        x = adata.X.tolil()
        x[[0, 5]] = 0
        adata.X = x.tocsr()
        return adata

    monkeypatch.setattr("scdance.datasets._problem.load", emptied)
    plugin.Spy.final = np.delete(truth, [0, 5])
    plugin.Spy.shown = [plugin.Spy.final]
    with pytest.warns(UserWarning, match="2 of 800 cells have no counts"):
        row = solve_cell(job("spy"))
    assert row["picked_ari"] == 1


# Costs and errors


def test_a_failure_is_a_row_with_its_reason():
    row = row_of(job("kmeans", n_components="many"))
    assert list(row) == ["error"]
    assert row["error"].startswith("InputError: KMeans: n_components='many', but it must be int")
    assert row["error"].endswith(")")
    assert row_of(job("kmeans", preset="of nobody"))["error"].startswith("InputError: kmeans has no preset")


def test_versions_and_costs_stand_in_the_row():
    row = solve_cell(job("kmeans", n_clusters=8))
    assert row["seconds"] > 0
    assert row["cpu_seconds"] > 0
    assert {"scdance", "python", "numpy", "torch"} <= {part.split()[0] for part in row["versions"].split("; ")}


def test_the_peak_is_that_of_the_process_and_not_of_its_parent():
    held = np.ones(40_000_000)  # 320 MB that a child of a forked process would count as its own peak
    code = """
import numpy
from scdance.bench._cell import peak_mb, resident_mb
before, now = peak_mb(), resident_mb()
numpy.ones(16_000_000)
print(before, now, peak_mb())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, now, after = map(float, told.split())
    assert held.nbytes / 2**20 > 300 > before > now - 1 > 5  # the counters of the kernel are a little behind
    assert after - now == pytest.approx(122, abs=15)
