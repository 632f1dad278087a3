import copy

import anndata
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scdance import pl
from scdance._checks import InputError, MissingKeyError

LOSS = np.linspace(2.0, 1.0, 20)


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Three types of 40, 30 and 20 cells in three clusters; type "b" is split, "c" is hidden in cluster 0."""
    truth = np.repeat(["a", "b", "c"], [40, 30, 20])
    found = np.repeat(["0", "1", "2", "0"], [40, 20, 10, 20])
    obs = pd.DataFrame({"mine": pd.Categorical(found), "truth": truth}, index=[f"cell_{i}" for i in range(90)])
    adata = anndata.AnnData(np.ones((90, 3), dtype=np.float32), obs=obs)
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(90, 5)).astype(np.float32)
    adata.obsm["X_umap"] = adata.obsm["X_mine"][:, 1:3]
    history = {"pretraining_loss": LOSS, "training_loss": LOSS[:10], "training_changed": LOSS[:10] - 0.9}
    adata.uns["scdance"] = {"cluster": {"mine": {"method": "dec", "history": history}}}
    return adata


@pytest.fixture
def runs():
    rows = [
        {"dataset": dataset, "method": method, "seed": seed, "ari": score + seed / 100, "nmi": score, "seconds": 3}
        for dataset in ("one", "two")
        for method, score in (("poor", 0.2), ("good", 0.8), ("floor", 0.5))
        for seed in range(3)
    ]
    return pd.DataFrame(rows).assign(control=lambda t: t["method"] == "floor")


FIGURES = {
    "embedding": lambda adata, ax=None: pl.embedding(adata, "mine", ax=ax),
    "confusion": lambda adata, ax=None: pl.confusion(adata, "mine", "truth", ax=ax),
    "history": lambda adata, ax=None: pl.history(adata, "cluster", "mine", ax=ax),
}


def labels_of(ticks):
    return [tick.get_text() for tick in ticks]


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_a_figure_is_drawn_on_the_given_axes_or_on_its_own(draw, adata):
    _, ax = plt.subplots()
    assert draw(adata, ax) is ax
    assert draw(adata).figure is not ax.figure


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_drawing_changes_neither_the_object_nor_matplotlib(draw, adata):
    before, uns, settings = adata.copy(), copy.deepcopy(adata.uns), dict(matplotlib.rcParams)
    draw(adata).figure.canvas.draw()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == list(uns) and adata.obsm.keys() == before.obsm.keys()
    assert dict(matplotlib.rcParams) == settings


def test_an_embedding_shows_each_cell_at_its_place_in_the_colour_of_its_group(adata):
    adata.uns["mine_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    points = pl.embedding(adata, "mine").collections[0]
    place = {tuple(x): to_hex(c) for x, c in zip(points.get_offsets(), points.get_facecolors(), strict=True)}
    for x, group in zip(adata.obsm["X_mine"][:, :2].astype(float), adata.obs["mine"], strict=True):
        assert place[tuple(x)] == adata.uns["mine_colors"][int(group)]


def test_a_truth_is_drawn_beside_with_the_other_basis(adata):
    panels = pl.embedding(adata, "mine", truth="truth", basis="umap")
    assert [panel.get_title() for panel in panels] == ["mine", "truth"]
    assert panels[0].get_xlabel() == "umap 1"
    assert labels_of(panels[1].get_legend().get_texts()) == ["a", "b", "c"]


def test_the_legend_counts_numbers_and_ends_with_the_missing(adata):
    adata.obs["many"] = [str(i % 11) for i in range(90)]
    adata.obs.loc["cell_5", "many"] = np.nan
    shown = labels_of(pl.embedding(adata, "many", basis="umap").get_legend().get_texts())
    assert shown == [*map(str, range(11)), "missing"]


@pytest.mark.parametrize("n", [3, 17, 40])
def test_every_category_has_a_colour_of_its_own(adata, n):
    from scdance.pl._shared import colors

    assert len(set(colors(adata, "none given", pd.Index(range(n))))) == n


def test_a_missing_embedding_names_those_that_are_there(adata):
    with pytest.raises(MissingKeyError, match=r"No 'X_tsne'.*it has X_mine, X_umap"):
        pl.embedding(adata, "mine", basis="tsne")


def test_a_missing_column_names_the_nearest(adata):
    with pytest.raises(MissingKeyError, match=r"No column 'miner'.*Did you mean 'mine'"):
        pl.embedding(adata, "miner", basis="umap")


def test_an_embedding_of_one_dimension_is_refused(adata):
    adata.obsm["X_flat"] = np.ones((90, 1))
    with pytest.raises(InputError, match="two dimensions"):
        pl.embedding(adata, "mine", basis="flat")


def test_a_column_of_numbers_is_refused(adata):
    adata.obs["depth"] = np.linspace(0, 1, 90)
    adata = anndata.concat([adata, adata], index_unique="-")
    adata.obs["depth"] = np.linspace(0, 1, 180)
    with pytest.raises(InputError, match="180 different values"):
        pl.embedding(adata, "depth", basis="umap")


def test_too_few_axes_are_refused(adata):
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="2 panels"):
        pl.embedding(adata, "mine", truth="truth", ax=ax)


def test_confusion_counts_the_cells_of_each_type(adata):
    ax = pl.confusion(adata, "mine", "truth", normalize=None)
    expected = pd.crosstab(adata.obs["mine"], adata.obs["truth"])
    found = pd.DataFrame(ax.images[0].get_array(), labels_of(ax.get_yticklabels()), labels_of(ax.get_xticklabels()))
    assert (found.loc[expected.index, expected.columns].to_numpy() == expected.to_numpy()).all()


@pytest.mark.parametrize(("normalize", "axis"), [("cluster", 1), ("truth", 0)])
def test_confusion_sums_to_one_over_what_it_is_normalized_by(adata, normalize, axis):
    ax = pl.confusion(adata, "mine", "truth", normalize=normalize)
    np.testing.assert_allclose(ax.images[0].get_array().sum(axis=axis), 1)


def test_confusion_orders_clusters_by_their_main_type(adata):
    adata.obs["mine"] = adata.obs["mine"].cat.rename_categories({"0": "2", "2": "0"})
    ax = pl.confusion(adata, "mine", "truth", normalize=None)
    assert labels_of(ax.get_yticklabels()) == ["2", "1", "0"]


def test_confusion_leaves_out_cells_without_truth_and_lists_those_without_cluster_last(adata):
    adata.obs["mine"] = adata.obs["mine"].cat.remove_categories("0")
    adata.obs.loc[adata.obs_names[40:], "truth"] = ""
    ax = pl.confusion(adata, "mine", "truth", normalize=None)
    assert labels_of(ax.get_yticklabels()) == ["none"]
    assert ax.images[0].get_array().sum() == 40


def test_confusion_without_any_truth_is_refused(adata):
    adata.obs["empty"] = np.nan
    with pytest.raises(InputError, match="missing for all 90 cells"):
        pl.confusion(adata, "mine", "empty")


def test_an_unknown_normalization_is_refused(adata):
    with pytest.raises(InputError, match=r"normalize .* is 'rows'"):
        pl.confusion(adata, "mine", "truth", normalize="rows")


def test_history_draws_the_stages_one_after_the_other(adata):
    ax = pl.history(adata, "cluster", "mine")
    first, second = (line.get_xydata() for line in ax.lines[:2])
    np.testing.assert_allclose(first, np.column_stack([np.arange(1, 21), LOSS]))
    np.testing.assert_allclose(second, np.column_stack([np.arange(21, 31), LOSS[:10]]))
    assert {text.get_text() for text in ax.texts} == {"pretraining", "training"}


def test_history_reads_what_is_no_loss_on_the_right(adata):
    left = pl.history(adata, "cluster", "mine")
    (right,) = [ax for ax in left.figure.axes if ax is not left]
    assert (left.get_ylabel(), right.get_ylabel()) == ("loss", "changed")


@pytest.mark.parametrize(("values", "scale"), [(np.geomspace(100, 1, 9), "log"), (LOSS - 1.5, "linear")])
def test_history_is_logarithmic_only_for_large_positive_ranges(adata, values, scale):
    adata.uns["scdance"]["cluster"]["mine"]["history"] = {"training_loss": values}
    assert pl.history(adata, "cluster", "mine").get_yscale() == scale


def test_history_of_a_run_that_is_not_there_names_the_runs(adata):
    with pytest.raises(MissingKeyError, match=r"No run 'yours'.*it has mine"):
        pl.history(adata, "cluster", "yours")


def test_history_of_a_run_without_training_is_refused(adata):
    adata.uns["scdance"]["cluster"]["mine"]["history"] = {}
    with pytest.raises(InputError, match="'dec' trains no epochs"):
        pl.history(adata, "cluster", "mine")


def test_benchmark_has_a_panel_for_each_data_set_and_metric(runs):
    panels = pl.benchmark(runs)
    assert panels.shape == (2, 2)
    assert [panel.get_xlabel() for panel in panels[0]] == ["ari ↑", "nmi ↑"]


def test_benchmark_orders_methods_and_draws_means_and_seeds(runs):
    panel = pl.benchmark(runs)[0, 0]
    assert labels_of(panel.get_yticklabels()) == ["good", "floor", "poor"]
    np.testing.assert_allclose([bar.get_width() for bar in panel.patches], [0.81, 0.51, 0.21])
    np.testing.assert_allclose(panel.collections[0].get_offsets()[:, 0], [0.80, 0.81, 0.82])


def test_benchmark_draws_controls_in_grey(runs):
    shades = [bar.get_facecolor()[:3] for bar in pl.benchmark(runs)[0, 0].patches]
    assert [len(set(shade)) == 1 for shade in shades] == [False, True, False]


def test_benchmark_draws_other_columns_when_asked_and_does_not_rank_by_them(runs):
    runs.loc[runs["method"] == "poor", "seconds"] = 100
    panels = pl.benchmark(runs[runs["dataset"] == "one"], ["ari", "seconds"])
    assert panels.shape == (1, 2)
    assert labels_of(panels[0, 0].get_yticklabels())[0] == "good"


def test_benchmark_says_where_a_method_has_no_result(runs):
    runs.loc[runs["method"] == "poor", "ari"] = np.nan
    panel = pl.benchmark(runs, ["ari"])[0, 0]
    assert "no result" in " ".join(labels_of(panel.texts))


def test_benchmark_without_scores_is_refused(runs):
    with pytest.raises(InputError, match="at least one row and one metric"):
        pl.benchmark(runs[["method", "seconds"]])
    with pytest.raises(InputError, match="has 0 rows"):
        pl.benchmark(runs.iloc[:0])


def test_benchmark_names_the_columns_that_are_there(runs):
    with pytest.raises(MissingKeyError, match=r"No column f1 in the table; it has dataset, method"):
        pl.benchmark(runs, ["f1"])


def test_importing_pl_loads_no_matplotlib():
    import subprocess
    import sys

    code = "import sys, scdance.pl as p; p.embedding, p.benchmark; print('matplotlib' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
