"""Cells of the grid of joint embedding: what the method gets of batches, labels and known times, what scores it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scdance import bench, datasets, metrics
from scdance._core import call, registry
from scdance._core.method import Method
from scdance._core.task import TASKS
from scdance.bench._cell import solve_cell
from scdance.bench._controls import CONTROLS

TASK = TASKS["joint_embed"]
TIMES = ["time_rna", "time_adt"]
LOOKED_AT = {"kmeans_ari", "kmeans_nmi", "asw"}


class Plain(Method):
    """Keeps what it is given; the place of a cell is what its epochs have shown last."""

    needs = ("lognorm",)
    seen = []
    shown = []

    def fit(self, *, pair: Any) -> Any:
        self.seen.append(pair)
        if self.runtime.on_epoch is not None:
            for epoch, z in enumerate(self.shown, 1):
                self.runtime.on_epoch("training", epoch, lambda z=z: {"embedding": z})
        return self

    def predict(self, *, pair: Any) -> dict[str, Any]:
        z = self.shown[-1] if self.shown else np.random.default_rng(0).normal(size=(pair.n_obs, 2))
        return {"embedding": z}


class ByBatch(Plain):
    """The same, which takes batches."""

    uses = ("batch",)


class Taught(Plain):
    """The same, which takes batches and labels."""

    uses = ("batch", "labels")


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The three as methods of another package."""

    class Point:
        def __init__(self, cls: type[Method]) -> None:
            self.load = lambda: cls

    points = {("joint_embed", cls.__name__.lower()): Point(cls) for cls in (Plain, ByBatch, Taught)}
    monkeypatch.setattr(registry, "_plugins", lambda: points)
    monkeypatch.setattr(Plain, "seen", [])
    monkeypatch.setattr(Plain, "shown", [])


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """The demo with known times of some cells, which run along its types."""
    load, info = datasets.load, datasets.info
    obs = load("cite_demo").obs
    codes, rng = obs["cell_type"].cat.codes.to_numpy(), np.random.default_rng(0)
    times = pd.DataFrame({name: codes + rng.random(len(obs)) for name in TIMES}, index=obs.index)
    times.loc[rng.random(len(obs)) < 0.5] = np.nan

    def with_times(name: str) -> Any:
        mdata = load(name)
        for each in (mdata, *mdata.mod.values()):
            each.obs[TIMES] = times
        return mdata

    monkeypatch.setattr("scdance.datasets._problem.load", with_times)
    monkeypatch.setattr("scdance.datasets._problem.info", lambda name: {**info(name), "pseudotime": TIMES})
    return times


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Object and arguments of each call of the tool."""
    found, read = [], call.read_roles

    def watched(task: Any, model: Any, data: Any, table: Any, **reading: Any) -> Any:
        found.append((data, reading))
        return read(task, model, data, table, **reading)

    monkeypatch.setattr(call, "read_roles", watched)
    return found


def job(method: str, **settings: Any) -> dict[str, Any]:
    return {"task": "joint_embed", "dataset": "cite_demo", "method": method, "seed": 0, "pick": False, "knobs": {}} | (
        settings
    )


def columns(mdata: Any) -> dict[str, list[str]]:
    return {"": list(mdata.obs), **{name: list(each.obs) for name, each in mdata.mod.items()}}


def test_the_problem_holds_batches_in_the_modalities_and_neither_labels_nor_times(timed: pd.DataFrame):
    problem = datasets.problem("joint_embed", "cite_demo")
    assert columns(problem.data) == {"": [], "rna": ["batch"], "adt": ["batch"]}
    assert not problem.data.uns and not any(each.uns for each in problem.data.mod.values())
    assert problem.arguments == {"batch_key": "batch"}
    pd.testing.assert_frame_equal(problem.beside, timed)
    assert problem.truth.nunique() == datasets.info("cite_demo")["n_classes"]


def test_known_times_are_never_in_the_object_that_a_method_gets_and_score_its_result(
    timed: pd.DataFrame, given: list[Any], monkeypatch: pytest.MonkeyPatch
):
    at_the_call = []
    read = call.read_roles
    monkeypatch.setattr(call, "read_roles", lambda *a, **k: (at_the_call.append(columns(a[2])), read(*a, **k))[1])
    row = solve_cell(job("plain"))
    assert at_the_call == [{"": [], "rna": ["batch"], "adt": ["batch"]}]
    ((data, _),) = given
    demo = datasets.load("cite_demo")
    expected = metrics.trajectory_conservation(demo.obs["cell_type"], data.obsm["X_result"], timed, demo.obs["batch"])
    assert row["trajectory_conservation"] == pytest.approx(expected) and 0 < expected < 1


@pytest.mark.parametrize(("method", "batch_key"), [("plain", None), ("bybatch", "batch"), ("taught", "batch")])
def test_batches_are_given_to_methods_that_read_them_and_score_all(
    method: str, batch_key: str | None, given: list[Any]
):
    row = solve_cell(job(method))
    ((_, reading),) = given
    assert reading["batch_key"] == batch_key
    assert (Plain.seen[0].source.batch is None) == (batch_key is None)
    assert 0 < row["batch_asw"] <= 1


def test_a_semi_supervised_method_is_given_some_labels_and_scored_on_the_other_cells(given: list[Any]):
    row = solve_cell(job("taught"))
    ((data, reading),) = given
    assert reading["labels_key"] == "known"
    known = data.obs["known"].notna().to_numpy()
    assert 0.05 < known.mean() < 0.15
    (pair,) = Plain.seen
    np.testing.assert_array_equal(pair.source.labels >= 0, known)
    truth = datasets.load("cite_demo").obs["cell_type"]
    assert data.obs["truth"].isna().to_numpy().tolist() == known.tolist()
    z = data.obsm["X_result"]
    for name in ("asw", "graph_connectivity", "nmi_cluster_label"):
        assert row[name] == pytest.approx(metrics.get(name).function(truth[~known], z[~known])), name


def test_a_semi_supervised_method_may_be_given_no_label_and_is_scored_on_all_cells(given: list[Any]):
    row = solve_cell(job("taught", knobs={"labelled": 0}))
    ((data, reading),) = given
    assert reading["labels_key"] is None and Plain.seen[0].source.labels is None
    assert data.obs["truth"].notna().all()
    truth = datasets.load("cite_demo").obs["cell_type"]
    assert row["asw"] == pytest.approx(metrics.asw(truth, data.obsm["X_result"]))


def test_labels_that_are_given_are_not_scored():
    problem = datasets.problem("joint_embed", "cite_demo").partly_labelled(0.3, 1)
    truth = datasets.load("cite_demo").obs["cell_type"]
    known = problem.data.obs["known"].dropna()
    pd.testing.assert_series_equal(known.astype(str), truth[known.index].astype(str), check_names=False)
    assert problem.truth[known.index].isna().all()
    assert problem.arguments == {"batch_key": "batch", "labels_key": "known"}


def test_labels_pick_an_epoch_by_the_scores_that_are_quick():
    hot = pd.get_dummies(datasets.load("cite_demo").obs["cell_type"], dtype=float).to_numpy()
    noise = np.random.default_rng(0).normal(size=hot.shape)
    Plain.shown = [hot + noise, hot, noise]
    row = solve_cell(job("plain", pick=True))
    assert row["picked_epoch"] == "training 2"
    assert row["picked_kmeans_ari"] == 1 > row["kmeans_ari"]
    assert {name.removeprefix("picked_") for name in row if name.startswith("picked_")} == {*LOOKED_AT, "epoch"}


def test_the_controls_frame_what_labels_tell(timed: pd.DataFrame):
    shuffled, true = (solve_cell(job(control)) for control in CONTROLS)
    for name in ("kmeans_ari", "kmeans_nmi", "graph_connectivity", "batch_asw"):
        assert true[name] == pytest.approx(1)
    for name in {*TASK.metrics} - {"cell_cycle_conservation", "trajectory_conservation"}:
        assert true[name] > shuffled[name], name
    for row in (true, shuffled):
        assert np.isnan(row["cell_cycle_conservation"])  # the demo has one gene of each phase
        assert 0 <= row["trajectory_conservation"] <= 1


def test_the_rows_of_a_grid_become_a_table(tmp_path: Any, in_process: list[Any]):
    rows = bench.run("joint_embed", ["one_modality", "plain"], ["cite_demo"], [0], out=tmp_path / "rows.csv")
    assert (rows["error"] == "").all()
    assert set(TASK.metrics) < set(rows)
    page = bench.leaderboard(rows)
    assert "mean of six" in page and "batch asw" in page
    assert "cell cycle conservation" not in page  # no row has a value
