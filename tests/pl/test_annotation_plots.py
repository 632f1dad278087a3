"""Figures of annotations: what is drawn equals what is counted by hand."""

import random
from itertools import pairwise

import anndata
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from scdance import metrics, pl
from scdance._checks import InputError, MissingKeyError

BLUE, GREY = to_hex("tab:blue"), to_hex("0.8")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """100 cells of types a, b and c by two runs; three are unknown, ten of no known type."""
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(np.ones((100, 2), dtype=np.float32))
    for key, spread in (("mine", 0.4), ("other", 2.0)):
        proba = rng.dirichlet(np.full(3, spread), 100).astype(np.float32)
        labels = np.array([*"abc"])[proba.argmax(axis=1)].astype(object)
        adata.obsm[f"{key}_proba"] = pd.DataFrame(proba, index=adata.obs_names, columns=[*"abc"])
        adata.obs[f"{key}_score"], adata.obs[f"{key}_novelty"] = proba.max(axis=1), 1 - proba.max(axis=1)
        adata.obs[key] = pd.Categorical(np.where(np.arange(100) < 3, "unknown", labels))
    right = rng.random(100) < adata.obs["mine_score"]
    truth = np.where(right, adata.obsm["mine_proba"].idxmax(axis=1), "b").astype(object)
    truth[90:] = None
    adata.obs["truth"] = pd.Categorical(truth)
    table = {"type": [*"aaabbb"], "gene": [*"xyzyxw"], "weight": [3.0, 2, 1, 5, 4, 0.5], "rank": [1, 2, 3, 1, 2, 3]}
    adata.uns["scdance"] = {"annotate": {"mine": {"notes": {"markers": {k: np.array(v) for k, v in table.items()}}}}}
    return adata


DRAW = {
    "calibration": lambda adata, **more: pl.calibration(adata, "mine", truth="truth", **more),
    "annotation_scores": lambda adata, **more: pl.annotation_scores(adata, "mine", scores=["score"], **more),
    "markers": lambda adata, **more: pl.markers(adata, "mine", **more),
}
figures = pytest.mark.parametrize("name", list(DRAW))


# All of them


@figures
def test_a_figure_is_drawn_on_the_given_axes_or_on_its_own(adata, name):
    _, given = plt.subplots()
    assert np.ravel(DRAW[name](adata, ax=given))[0] is given
    assert np.ravel(DRAW[name](adata))[0].figure is not given.figure


@figures
def test_drawing_changes_neither_the_object_nor_matplotlib_nor_chance(adata, name):
    before, settings, state = adata.copy(), dict(matplotlib.rcParams), random.getstate()
    drawn = np.random.get_state()  # noqa: NPY002
    np.ravel(DRAW[name](adata))[0].figure.canvas.draw()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.obsm) == list(before.obsm) and list(adata.uns) == list(before.uns)
    assert dict(matplotlib.rcParams) == settings
    assert random.getstate() == state and (np.random.get_state()[1] == drawn[1]).all()  # noqa: NPY002


@figures
def test_the_wrong_number_of_axes_is_refused(adata, name):
    _, given = plt.subplots(1, 2)
    with pytest.raises(InputError, match=r"1 panels; pass as many Axes as `ax=` \(found 2\)"):
        DRAW[name](adata, ax=given)


@figures
def test_no_label_is_cut_off_and_none_covers_another(adata, name):
    names = {"a": "a type with a rather long name", "b": "b", "c": "c"}
    for key in ("mine", "other", "truth"):
        adata.obs[key] = adata.obs[key].cat.rename_categories(lambda old: names.get(old, old))
    notes = adata.uns["scdance"]["annotate"]["mine"]["notes"]
    notes["markers"]["type"] = np.array([names[old] for old in notes["markers"]["type"]])
    more = {"scores": ["score", "novelty"]} if name == "annotation_scores" else {}
    panels = np.ravel(pl.annotation_scores(adata, "mine", **more) if more else DRAW[name](adata))
    figure = panels[0].figure
    figure.canvas.draw()
    boxes = [ax.xaxis.label.get_window_extent() for ax in panels]
    boxes += [text.get_window_extent() for text in panels[0].get_yticklabels() if text.get_text()]
    for box in boxes:
        assert box.width == 0 or (box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.x1 + 1)
    labels = [ax.xaxis.label.get_window_extent() for ax in panels]
    assert all(one.x1 < other.x0 for one, other in pairwise(labels))


# calibration


def points(ax):
    """Place of the points of each run, and the ends of their intervals."""
    return [
        (np.array(drawn[0].get_xydata()), np.array([segment[:, 1] for segment in drawn[2][0].get_segments()]))
        for drawn in ax.containers
    ]


def test_points_are_means_and_shares_of_bins_of_equally_many_cells(adata):
    ((xy, _),) = points(pl.calibration(adata, "mine", truth="truth", n_bins=3))
    known = slice(None, 90)
    best = adata.obs["mine_score"].to_numpy()[known]
    right = (
        adata.obsm["mine_proba"].idxmax(axis=1).to_numpy()[known] == adata.obs["truth"].astype(str).to_numpy()[known]
    )
    order = np.argsort(best)
    expected = [(best[part].mean(), right[part].mean()) for part in np.split(order, 3)]
    np.testing.assert_allclose(xy, expected, rtol=1e-6)


def test_intervals_are_those_of_wilson(adata):
    from scipy.stats import binomtest

    ((xy, ends),) = points(pl.calibration(adata, "mine", truth="truth", n_bins=3))
    for share, (low, high) in zip(xy[:, 1], ends, strict=True):
        expected = binomtest(round(share * 30), 30).proportion_ci(method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-3)


def test_a_share_of_1_has_an_interval_below_it_only():
    adata = anndata.AnnData(np.ones((40, 1), dtype=np.float32))
    proba = np.column_stack([np.full(40, 0.9), np.full(40, 0.1)])
    adata.obsm["k_proba"] = pd.DataFrame(proba, index=adata.obs_names, columns=["a", "b"])
    adata.obs["truth"] = "a"
    ((xy, ends),) = points(pl.calibration(adata, "k", truth="truth", n_bins=1))
    assert xy.tolist() == [[pytest.approx(0.9), 1]]
    assert ends[0][0] < 0.95 and ends[0][1] == pytest.approx(1)


@pytest.mark.parametrize(("n_bins", "expected"), [(1, 1), (2, 2), (10, 4)])
def test_bins_have_at_least_twenty_cells(adata, n_bins, expected):
    ((xy, _),) = points(pl.calibration(adata, "mine", truth="truth", n_bins=n_bins))
    assert len(xy) == expected


def test_the_legend_holds_the_calibration_error_of_each_run(adata):
    ax = pl.calibration(adata, ["mine", "other"], truth="truth")
    errors = [metrics.ece(adata.obs["truth"], adata.obsm[f"{key}_proba"]) for key in ("mine", "other")]
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == [f"{key} (ECE {error:.3f})" for key, error in zip(("mine", "other"), errors, strict=True)]
    assert len(points(ax)) == 2 and errors[0] != errors[1]


def test_the_diagonal_is_that_of_perfect_calibration(adata):
    ax = pl.calibration(adata, "mine", truth="truth")
    assert any(np.array_equal(line.get_xydata(), [[0, 0], [1, 1]]) for line in ax.lines)
    assert ax.get_aspect() == 1


@pytest.mark.parametrize("task", ["annotate", "transfer_labels"])
def test_types_with_a_slash_are_right_where_they_are(adata, task):
    adata.uns["scdance"] = {task: adata.uns["scdance"].pop("annotate")}
    ((expected, _),) = points(pl.calibration(adata, "mine", truth="truth"))
    adata.obs["truth"] = adata.obs["truth"].cat.rename_categories({"b": "b/d"})
    adata.obsm["mine_proba"].columns = ["a", "b|d", "c"]
    adata.uns["scdance"][task]["mine"]["categories"] = np.array(["a", "b/d", "c"])
    ((found, _),) = points(pl.calibration(adata, "mine", truth="truth"))
    np.testing.assert_array_equal(found, expected)


def test_wrong_calls_of_calibration_say_what_to_pass(adata):
    with pytest.raises(InputError, match="n_bins is 0"):
        pl.calibration(adata, "mine", truth="truth", n_bins=0)
    with pytest.raises(MissingKeyError, match=r"No 'truths' in|No column 'truths'.*Did you mean 'truth'"):
        pl.calibration(adata, "mine", truth="truths")
    with pytest.raises(MissingKeyError, match=r"No 'miner_proba' in `adata.obsm`.*Did you mean 'mine_proba'"):
        pl.calibration(adata, ["mine", "miner"], truth="truth")
    adata.obs["none"] = pd.Categorical([None] * 100)
    with pytest.raises(InputError, match="has no value for any cell"):
        pl.calibration(adata, "mine", truth="none")
    with pytest.raises(InputError, match="names no run"):
        pl.calibration(adata, [], truth="truth")
    assert not plt.get_fignums()


# annotation_scores


def dots(ax):
    """Of each type in order: the values of its dots, how far they are from its line, and their colours."""
    return [
        (each.get_offsets()[:, 0], each.get_offsets()[:, 1], {to_hex(color) for color in each.get_facecolor()})
        for each in ax.collections
    ]


def test_every_cell_is_a_dot_beside_its_type(adata):
    score, new = pl.annotation_scores(adata, "mine")
    for part, ax in (("score", score), ("novelty", new)):
        for place, name in enumerate(adata.obs["mine"].cat.categories):
            values, heights, _ = dots(ax)[place]
            np.testing.assert_allclose(np.sort(values), np.sort(adata.obs[f"mine_{part}"][adata.obs["mine"] == name]))
            assert np.abs(heights - place).max() <= 0.3
    assert [text.get_text() for text in new.get_yticklabels()] == [""] * 4


def test_the_line_of_a_type_is_the_median_of_its_cells(adata):
    (ax,) = pl.annotation_scores(adata, "mine", scores=["score"])
    expected = adata.obs.groupby("mine", observed=True)["mine_score"].median()
    assert [line.get_xdata()[0] for line in ax.lines] == pytest.approx(expected.tolist())
    assert all(np.ptp(line.get_xdata()) == 0 for line in ax.lines)


def test_types_are_listed_from_the_top_with_the_number_of_their_cells(adata):
    (ax,) = pl.annotation_scores(adata, "mine", scores=["score"])
    sizes = adata.obs["mine"].value_counts(sort=False)
    assert [text.get_text() for text in ax.get_yticklabels()] == [f"{name} ({n})" for name, n in sizes.items()]
    assert ax.yaxis_inverted()


def test_unknown_cells_are_grey_also_among_the_known_types(adata):
    (ax,) = pl.annotation_scores(adata, "mine", scores=["score"])
    assert [colors for *_, colors in dots(ax)] == [{BLUE}, {BLUE}, {BLUE}, {GREY}]
    (ax,) = pl.annotation_scores(adata, "mine", by="truth", scores=["score"])
    assert sum(GREY in colors for *_, colors in dots(ax)) == adata.obs["truth"][:3].nunique()
    assert sum(len(values) for values, *_ in dots(ax)) == 90


def test_of_many_cells_some_are_drawn_and_the_median_is_of_all():
    rng = np.random.default_rng(0)
    adata = anndata.AnnData(np.ones((1000, 1), dtype=np.float32))
    adata.obs["k"], adata.obs["k_score"] = pd.Categorical(["a"] * 1000), rng.random(1000)
    (ax,) = pl.annotation_scores(adata, "k", scores=["score"])
    assert len(dots(ax)[0][0]) == 400 and ax.lines[0].get_xdata()[0] == adata.obs["k_score"].median()
    (again,) = pl.annotation_scores(adata, "k", scores=["score"])
    np.testing.assert_array_equal(dots(ax)[0][0], dots(again)[0][0])


def test_scores_that_a_run_lacks_are_left_out(adata):
    del adata.obs["mine_novelty"], adata.obsm["mine_proba"]  # as tl.back_off leaves it
    assert len(pl.annotation_scores(adata, "mine")) == 1


def test_wrong_calls_of_scores_say_what_to_pass(adata):
    with pytest.raises(MissingKeyError, match=r"No column 'miner'.*Did you mean 'mine'"):
        pl.annotation_scores(adata, "miner")
    with pytest.raises(MissingKeyError, match="No column 'cluster'"):
        pl.annotation_scores(adata, "mine", by="cluster")
    with pytest.raises(InputError, match="is 'set', but must be one of: score, novelty, disagreement"):
        pl.annotation_scores(adata, "mine", scores=["score", "set"])
    with pytest.raises(InputError, match="none of the scores disagreement"):
        pl.annotation_scores(adata, "mine", scores=["disagreement"])
    with pytest.raises(InputError, match="none of the scores score, novelty"):
        pl.annotation_scores(adata, "truth")


# markers


def test_genes_of_each_type_are_drawn_with_their_weights(adata):
    ax = pl.markers(adata, "mine", n_genes=2)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["x", "y"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[3, 2], [4, 5]])


def test_a_gene_that_is_not_among_those_of_a_type_is_empty(adata):
    ax = pl.markers(adata, "mine", n_genes=3)
    assert [text.get_text() for text in ax.get_xticklabels()] == [*"xyzw"]
    found = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)
    np.testing.assert_array_equal(found, [[3, 2, 1, np.nan], [4, 5, np.nan, 0.5]])


def test_colours_begin_at_0_and_end_near_the_largest_weight(adata):
    low, high = pl.markers(adata, "mine").images[0].get_clim()
    assert low == 0 and 4.5 < high <= 5


def test_a_run_that_was_read_from_a_file_is_drawn_alike(adata, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    found, expected = (pl.markers(each, "mine").images[0].get_array() for each in (again, adata))
    np.testing.assert_array_equal(np.ma.filled(found, -1), np.ma.filled(expected, -1))


def test_markers_that_say_nothing_can_be_drawn(adata):
    adata.uns["scdance"]["annotate"]["mine"]["notes"]["markers"]["weight"] = np.zeros(6)
    pl.markers(adata, "mine").figure.canvas.draw()


def test_wrong_calls_of_markers_say_what_to_pass(adata):
    with pytest.raises(InputError, match="no markers of a run 'other'; runs of annotate: mine"):
        pl.markers(adata, "other")
    for wrong in (0, 1.5):
        with pytest.raises(InputError, match="n_genes must be a whole number of at least 1"):
            pl.markers(adata, "mine", n_genes=wrong)
    assert not plt.get_fignums()
