"""The demo on two floors of each task."""

from __future__ import annotations

import html
import re
from collections import Counter
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import adjusted_rand_score

import scdance as sd
from scdance import bench, tl
from scdance._checks import MissingPackageError
from scdance._core import registry
from scdance._core.task import TASKS
from scdance.bench import _demo

QUICK = {
    "cluster": ["leiden", "kmeans"],
    "annotate": ["majority", "knn"],
    "spatial_domain": ["leiden", "smoothed_pca"],
    "deconvolve": ["nnls"],
    "joint_embed": ["pca", "svd_concat"],
    "predict_modality": ["mean", "linear"],
    "match_modality": ["cca", "linear"],
    "predict_perturbation": ["no_change", "additive"],
    "predict_genes": ["ref_mean", "knn"],
    "impute": ["gene_mean", "magic"],
}
UNDEFINED = {
    "impute": {  # scores that compare whole hidden entries, where molecules are hidden
        *("rmse_nonzero", "mae_nonzero", "pearson_nonzero", "cosine_nonzero"),
        *("rmse_zero", "rmse_both", "rmse_known_nonzero"),
        *("rmse_masked", "pearson_masked", "cosine_masked"),
    },
    # scores of what nobody names, or of genes that are not there
    "joint_embed": {"batch_asw", "cell_cycle_conservation", "trajectory_conservation"},
}


def scores_of(task: str) -> list[str]:
    return [name for name in TASKS[task].metrics if name not in UNDEFINED.get(task, ())]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path, list[Figure]]:
    """The table, the folder, and the figures that were saved."""
    out, kept, save = tmp_path_factory.mktemp("demo") / "new" / "demo", [], Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "names", QUICK.get)
        patch.setattr(_demo, "_tsne", lambda z: z[:, :2])
        patch.setattr(Figure, "savefig", lambda figure, *a, **k: (kept.append(figure), save(figure, *a, **k))[1])
        return bench.demo(out), out, kept


def test_it_writes_a_table_and_a_figure_of_each_task_and_one_page(made: Any):
    _, out, _ = made
    assert {path.name for path in out.iterdir()} == {"index.html"} | {
        f"{task}.{kind}" for task in QUICK for kind in ("csv", "png")
    }


def test_every_task_with_embedded_data_is_in_it_and_nothing_that_must_be_fetched():
    entries = {name: sd.datasets.info(name) for name in sd.datasets.names()}
    embedded = {task for entry in entries.values() if entry.get("embedded") for task in entry["tasks"]}
    assert embedded & set(TASKS) <= set(_demo._parts())
    assert all({"embedded", "toy"} & set(entries[part.dataset]) for part in _demo._parts().values())


def test_the_table_has_the_scores_of_each_task_the_best_first(made: Any):
    table, out, _ = made
    assert table.index.names == ["task", "method"]
    assert table.index.get_level_values("task").unique().tolist() == list(QUICK)
    for task, own in table.groupby(level="task"):
        written = pd.read_csv(out / f"{task}.csv", index_col="method")
        assert set(written) == {*scores_of(task), "seconds"} | (
            {"n_clusters"} if task in ("cluster", "spatial_domain") else set()
        )
        found = own.droplevel("task")
        pd.testing.assert_frame_equal(written, found[list(written)], check_dtype=False)
        assert found.drop(columns=list(written)).isna().all(axis=None)
    assert list(table.loc["cluster"].index) == ["kmeans", "leiden"]
    assert list(table.loc["joint_embed"].index) == ["svd_concat", "pca"]
    assert list(table.loc["impute"].index) == ["magic", "gene_mean"]
    assert table.loc[("cluster", "kmeans"), "n_clusters"] == 8


def test_scores_that_are_errors_are_sorted_upwards(monkeypatch: pytest.MonkeyPatch):
    rows = {"a": 0.3, "b": 0.1}
    monkeypatch.setattr(_demo, "_shown", lambda task: list(rows))
    monkeypatch.setattr(_demo, "_row", lambda task, part, data, name, arguments: {"rmse": rows[name]})
    assert list(_demo._table(TASKS["deconvolve"], None, None, {}).index) == ["b", "a"]


def test_the_figures_show_what_is_known_and_what_was_found(made: Any):
    titles = [[ax.get_title() for ax in figure.axes if ax.get_title()] for figure in made[2]]
    assert [[title.split("  ")[0] for title in each] for each in titles] == [
        ["published cell types", "kmeans", "leiden"], ["knn", "majority"],
        ["simulated layers", "smoothed_pca", "leiden"], ["true shares", "nnls"],
        ["svd_concat", "pca"], ["linear", "mean"], ["cca", "linear"], ["additive", "no_change"],
        ["knn", "ref_mean"], ["magic", "gene_mean"],
    ]  # fmt: skip
    labels = [{ax.get_xlabel()[:-2] for ax in figure.axes} for figure in made[2]]
    assert all(set(scores_of(task)) <= shown for task, shown in zip(QUICK, labels, strict=True))
    assert [sum(ax.get_legend() is not None for ax in figure.axes) for figure in made[2]] == [
        0,
        0,
        0,
        1,
        1,
        0,
        2,
        0,
        0,
        0,
    ]


def test_methods_are_compared_on_what_was_hidden_on_one_scale(made: Any):
    panels = made[2][list(QUICK).index("impute")].axes[:2]
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[1].get_ylim()
    points = [len(ax.containers[0].lines[0].get_xdata()) for ax in panels]
    assert points[1] == 1  # what the floor expects of every cell is the mean
    assert points[0] > 5


def test_the_page_shows_all_of_it_asks_for_nothing_and_is_no_benchmark(made: Any):
    table, out, _ = made
    text = (out / "index.html").read_text(encoding="utf-8")
    assert html.escape("A demo's scores are no benchmark") in text or "A demo's scores are no benchmark" in text
    assert all(f"<tr><th scope=row>{method}</th>" in text for _, method in table.index)
    assert text.count('src="data:image/png;base64,') == len(QUICK)
    assert not re.search(r"https?:|url\(|@import|<script", text)
    for task in QUICK:
        entry = sd.datasets.info(_demo._parts()[task].dataset)
        assert html.escape(entry["data_source"]) in text
        assert entry["data_licence"] in text


def test_the_code_of_the_page_gives_the_scores_of_the_table(made: Any):
    table, out, _ = made
    blocks = re.findall(r"<pre><code>(.*?)</code></pre>", (out / "index.html").read_text(encoding="utf-8"), flags=re.S)
    for task, block in zip(QUICK, blocks, strict=False):
        scores: list[pd.DataFrame] = []
        lines = re.sub(r"^(sd\.metrics\.score.*)$", r"scores.append(\1)", html.unescape(block), flags=re.M)
        exec(lines, {"scores": scores})
        own = table.loc[task, scores_of(task)]
        found = pd.concat(scores)
        assert found[[name for name in found if name not in own]].isna().all(axis=None)
        pd.testing.assert_frame_equal(found[list(own)].round(3), own, check_names=False)


def test_the_score_is_that_of_the_labels_that_were_written(made: Any):
    adata = sd.datasets.load("pbmc_demo")
    tl.cluster(adata, method="kmeans", n_clusters=8)
    expected = adjusted_rand_score(adata.obs["cell_type"], adata.obs["kmeans"])
    assert made[0].loc[("cluster", "kmeans"), "ari"] == round(expected, 3)


def test_a_method_whose_package_is_missing_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    cluster, only = tl.cluster, _demo._parts()["cluster"]

    def without(adata: Any, method: str, **given: Any) -> None:
        if method == "leiden":
            raise MissingPackageError("leiden needs the package 'igraph'")
        cluster(adata, method=method, **given)

    monkeypatch.setattr(registry, "names", QUICK.get)
    monkeypatch.setattr(tl, "cluster", without)
    monkeypatch.setattr(_demo, "_tsne", lambda z: z[:, :2])
    monkeypatch.setattr(_demo, "_parts", lambda: {"cluster": only})
    assert list(bench.demo(tmp_path).index) == [("cluster", "kmeans")]
    assert "without leiden: leiden needs the package 'igraph'" in caplog.text


def test_a_cluster_has_the_colour_of_the_type_it_shares_most_cells_with():
    obs = pd.DataFrame({"type": [*"aaabbc"], "found": [*"110022"]}, dtype="category")
    obs["split"] = pd.Categorical([*"012344"])
    obs.index = [*"uvwxyz"]
    adata = ad.AnnData(np.ones((6, 1)), obs=obs)
    palette = ["red", "green", "blue", "grey", "black"]
    assert _demo._like(adata, "found", "type", palette) == ["green", "red", "blue"]
    colours = _demo._like(adata, "split", "type", palette)
    assert Counter(colours) == Counter(palette)  # one to one, and spare colours for the rest


def test_of_many_methods_the_best_that_were_measured_stand_beside_the_floors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "measured_methods", lambda task: ["graphsc", "scdeepcluster", "kmeans"])
    monkeypatch.setattr(_demo, "MOST_METHODS", 1)
    shown = _demo._shown(TASKS["cluster"])
    assert {"kmeans", "leiden", "gmm", "graphsc"} == set(shown)  # neither the second best nor what wants labels


def test_adapters_of_other_packages_are_no_part_of_the_demo():
    routes = {name for name in registry.names("joint_embed") if registry.get("joint_embed", name).route}
    assert routes
    assert not routes & set(_demo._shown(TASKS["joint_embed"]))
