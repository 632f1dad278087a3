"""The tools as a user calls them."""

from __future__ import annotations

import doctest
import importlib
import inspect
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance._core import registry
from scdance._core.method import Method
from scdance._core.task import TASKS
from scdance.metrics import ari
from scdance.pp import Recipe

# What every tool takes beside its own, in one meaning (docs/dev: the contract, calls).
SHARED = ["layer", "key_added", "preset", "recipe", "random_state", "device", "progress", "checkpoint", "copy"]
TOOLS = {f"tl.{task}": getattr(sd.tl, task) for task in TASKS}
PUBLIC = {**TOOLS, "fit": sd.fit, "load": sd.load, "methods": registry.methods, "save": Method.save}


class Depth(Method):
    """Cut the cells into parts by their depth.

    Parameters
    ----------
    n_parts
        Number of parts.
    """

    n_parts: int = 2

    recipe = Recipe()
    presets = {"paper": {"n_parts": 5}}

    def fit(self, *, cells):
        self.cuts_ = np.quantile(cells.depth, np.arange(1, self.n_parts) / self.n_parts)
        return self

    def predict(self, *, cells):
        return {"labels": np.searchsorted(self.cuts_, cells.depth)}


@pytest.fixture
def adata() -> ad.AnnData:
    return sd.datasets.toy_clusters(n_obs=90, n_vars=60, k=3, n_de=15)


# ------------------------------------------------------------------ what `method` may be


def test_a_name_a_class_an_instance_a_fitted_one_and_a_saved_one_do_the_same(adata, tmp_path):
    kmeans = registry.get("cluster", "kmeans")
    fitted = sd.fit("cluster", adata, method="kmeans", n_clusters=3)
    fitted.save(tmp_path / "model")
    for key, method, knobs in (
        ("name", "kmeans", {"n_clusters": 3}),
        ("class", kmeans, {"n_clusters": 3}),
        ("instance", kmeans(n_clusters=3), {}),
        ("fitted", fitted, {}),
        ("path", tmp_path / "model", {}),
        ("folder", str(tmp_path / "model"), {}),
        ("loaded", sd.load(tmp_path / "model"), {}),
    ):
        sd.tl.cluster(adata, method, key_added=key, **knobs)
        assert adata.obs[key].tolist() == adata.obs["name"].tolist()
        np.testing.assert_array_equal(adata.obsm[f"X_{key}"], adata.obsm["X_name"])
        record = adata.uns["scdance"]["cluster"][key]
        assert (record["method"], record["params"]["n_clusters"]) == ("kmeans", 3)


def test_results_of_an_own_method_are_called_after_its_class(adata):
    sd.tl.cluster(adata, Depth, n_parts=3)
    assert adata.obs["depth"].cat.categories.tolist() == ["0", "1", "2"]
    sd.tl.cluster(adata, Depth(n_parts=4))
    assert adata.obs["depth"].cat.categories.size == 4


def test_a_fitted_method_labels_other_cells(adata):
    model = sd.fit("cluster", adata[:60].copy(), method="kmeans", n_clusters=3)
    rest = adata[60:].copy()
    sd.tl.cluster(rest, method=model)
    assert ari(rest.obs["cell_type"], rest.obs["kmeans"]) > 0.9


def test_fit_writes_nothing(adata):
    before = adata.copy()
    model = sd.fit("cluster", adata, method="kmeans", n_clusters=3)
    assert model.is_fitted
    assert (dict(adata.uns), list(adata.obsm), list(adata.obs)) == ({}, [], list(before.obs))


def test_a_folder_does_not_hide_a_method_of_its_name(adata, tmp_path, monkeypatch):
    (tmp_path / "kmeans").mkdir()
    monkeypatch.chdir(tmp_path)
    sd.tl.cluster(adata, "kmeans", n_clusters=3)
    assert "kmeans" in adata.obs


# ------------------------------------------------------------------ parameters


def test_typed_precedes_preset_precedes_default(adata):
    def n_parts(**typed: Any) -> int:
        return sd.fit("cluster", adata, Depth, **typed).n_parts

    assert (n_parts(), n_parts(preset="paper"), n_parts(preset="paper", n_parts=3)) == (2, 5, 3)


def test_none_is_a_value_where_a_parameter_has_it(adata):
    assert sd.fit("cluster", adata, "kmeans", n_clusters=3, n_top_genes=20).preps_["cells"].var_names.size == 20
    wide = sd.datasets.toy_clusters(n_obs=40, n_vars=2500, k=2)
    assert sd.fit("cluster", wide, "kmeans", n_clusters=2).preps_["cells"].var_names.size == 2000
    assert sd.fit("cluster", wide, "kmeans", n_clusters=2, n_top_genes=None).preps_["cells"].var_names.size == 2500


def test_numbers_of_numpy_are_numbers(adata):
    model = sd.fit("cluster", adata, "kmeans", n_clusters=np.int64(3), random_state=np.int64(4))
    assert (type(model.n_clusters), type(model.random_state)) == (int, int)


def test_an_estimated_number_of_clusters_is_logged_and_noted(adata, caplog):
    with caplog.at_level(logging.INFO, logger="scdance"):
        sd.tl.cluster(adata, "kmeans")
    k = adata.obs["kmeans"].cat.categories.size
    assert f"kmeans: {k} clusters, estimated" in caplog.messages
    assert k in adata.uns["scdance"]["cluster"]["kmeans"]["notes"]["k_selection"]["n_clusters"]
    assert "n_clusters" not in adata.uns["scdance"]["cluster"]["kmeans"]["params"]


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_cells_too_few_to_part_are_one_cluster(adata, method):
    few = adata[:10].copy()
    sd.tl.cluster(few, method)
    assert few.obs[method].tolist() == ["0"] * 10
    assert few.obs[f"{method}_score"].tolist() == [1] * 10


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_the_same_call_gives_the_same_bits(adata, method):
    knobs = {} if method == "leiden" else {"n_clusters": 3}
    for key in ("one", "two"):
        sd.tl.cluster(adata, method, key_added=key, **knobs)
    assert adata.obs["one"].tolist() == adata.obs["two"].tolist()
    np.testing.assert_array_equal(adata.obsm["X_one"], adata.obsm["X_two"])


@pytest.mark.parametrize("method", ["kmeans", "gmm", "leiden"])
def test_the_truth_is_not_looked_at(adata, method):
    knobs = {} if method == "leiden" else {"n_clusters": 3}
    blind = adata.copy()
    del blind.obs["cell_type"]
    for each in (adata, blind):
        sd.tl.cluster(each, method, **knobs)
    np.testing.assert_array_equal(blind.obsm[f"X_{method}"], adata.obsm[f"X_{method}"])
    assert blind.obs[method].tolist() == adata.obs[method].tolist()


def test_a_representation_is_clustered_as_it_is(adata):
    adata.obsm["X_truth"] = np.eye(3)[adata.obs["cell_type"].cat.codes]
    sd.tl.cluster(adata, "kmeans", n_clusters=3, use_rep="X_truth")
    assert ari(adata.obs["cell_type"], adata.obs["kmeans"]) == 1
    record = adata.uns["scdance"]["cluster"]["kmeans"]["input"]
    assert (record["layer"], record["kind"], record["recipe"]) == ("obsm['X_truth']", "given", "none")


# ------------------------------------------------------------------ what comes after


def test_the_space_of_a_method_goes_on_to_neighbours_and_leiden_of_scanpy(adata):
    import scanpy as sc

    sd.tl.cluster(adata, "kmeans", n_clusters=3)
    sc.pp.neighbors(adata, use_rep="X_kmeans", transformer="sklearn", method="gauss")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    assert ari(adata.obs["leiden"], adata.obs["kmeans"]) > 0.5
    sd.tl.cluster(adata, "leiden", neighbors_key="neighbors", key_added="ours")
    assert ari(adata.obs["leiden"], adata.obs["ours"]) > 0.95


def test_a_result_is_scored_by_its_key(adata):
    sd.tl.cluster(adata, "kmeans", n_clusters=3, key_added="k")
    scores = sd.metrics.score(adata, "cluster", key="k", truth="cell_type")
    assert scores.loc["k", "ari"] == ari(adata.obs["cell_type"], adata.obs["k"])


def test_the_table_of_methods_has_a_row_for_each(adata):
    table = sd.methods("cluster")
    assert isinstance(table, pd.DataFrame)
    assert table.index.tolist() == registry.names("cluster")
    assert {"needs", "uses", "inductive", "kind"} <= set(table)
    assert set(sd.methods()["task"]) == set(TASKS)


# ------------------------------------------------------------------ signatures and docstrings


@pytest.mark.parametrize("task", TASKS)
def test_a_tool_has_the_signature_of_the_contract(task):
    parameters = inspect.signature(getattr(sd.tl, task)).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    first = [name for name, kind in kinds.items() if kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert first[-1] == "method"
    assert set(first[:-1]) <= {"adata", "mdata", "ref"}
    assert [name for name in parameters if name in SHARED] == SHARED
    assert kinds["params"] is inspect.Parameter.VAR_KEYWORD
    assert parameters["method"].default == TASKS[task].default


@pytest.mark.parametrize("task", TASKS)
def test_the_docstring_of_a_tool_names_each_argument_and_each_slot(task):
    tool = getattr(sd.tl, task)
    said = inspect.getdoc(tool)
    assert "{" not in said.split("Examples")[0].replace("{key}", "")
    for name in inspect.signature(tool).parameters:
        assert f"\n{'**' if name == 'params' else ''}{name}\n" in said
    key = f"<key>{TASKS[task].suffix.format(target='<target>')}"
    for slot in TASKS[task].gives.values():
        assert f"{slot.on}.{slot.where}[{slot.name.format(key=key)!r}]" in said


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_run_as_printed(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(PUBLIC[name].__module__)
    tests = [each for each in doctest.DocTestFinder(recurse=False).find(PUBLIC[name], name, module) if each.examples]
    assert tests, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for test in tests:
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
    assert list(Path(tmp_path).iterdir()) == []


# --- neighbours of the embedding ------------------------------------------------------------------


def test_neighbors_are_those_of_the_embedding_and_scanpy_follows():
    import scanpy as sc

    adata = sd.datasets.toy_clusters(n_obs=120, n_vars=60, k=3, n_de=15)
    sd.tl.cluster(adata, method="kmeans", n_clusters=3, neighbors=10)
    expected = sd.graph.knn(adata.obsm["X_kmeans"], 9)
    assert abs(adata.obsp["kmeans_distances"] - expected).max() == 0
    assert abs(adata.obsp["kmeans_connectivities"] - sd.graph.fuzzy(expected)).max() == 0
    sc.tl.leiden(adata, neighbors_key="kmeans", flavor="igraph", n_iterations=2)
    assert len(adata.obs["leiden"].cat.categories) > 1


def test_neighbors_go_when_a_later_run_writes_none_and_cells_without_counts_have_none():
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=2, n_de=10)
    x = adata.X.tolil()
    x[5] = 0
    adata.X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 60 cells have no counts"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2, neighbors=5)
    assert np.diff(adata.obsp["kmeans_distances"].indptr)[[4, 5, 6]].tolist() == [4, 0, 4]
    with pytest.warns(UserWarning, match="1 of 60 cells have no counts"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2)
    assert list(adata.obsp) == []
    assert "kmeans" not in adata.uns


def test_a_graph_of_somebody_else_is_left_alone():
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=2, n_de=10)
    adata.uns["kmeans"] = "mine"
    with pytest.raises(ValueError, match=r"`adata.uns\['kmeans'\]` exists"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2, neighbors=5)
    with pytest.raises(ValueError, match="neighbors"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2, neighbors=1)
    assert list(adata.obs) == ["cell_type"]
