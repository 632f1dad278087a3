"""Imputed expression, drawn: beside the counts, against held-out ones, and by gene."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def made(counts, values, *, output="counts", kept=None, **told):
    """An object with a run whose values are given."""
    adata = ad.AnnData(sp.csr_matrix(np.asarray(counts, dtype=np.float32)))
    adata.layers["mine"] = np.asarray(values, dtype=np.float32)
    adata.var["mine_imputed"] = True
    where = "X" if kept is None else "layers['kept']"
    record = {"method": "mine", "params": {"output": output}, "input": {"layer": where, "kind": "counts"} | told}
    adata.uns["scdance"] = {"impute": {"mine": record}}
    if kept is not None:
        adata.layers["kept"] = sp.csr_matrix(np.asarray(kept, dtype=np.float32))
        adata.uns["scdance"]["hold_out"] = {"kept": {"input": {"layer": "X"}}}
    return adata


def medians(ax):
    """Height of the middle line of each box."""
    return [line.get_ydata()[0] for line in ax.lines if line.get_linewidth() == 1.5]


def said(ax):
    return " ".join(text.get_text() for text in ax.texts)


@pytest.fixture
def thinned():
    """Two kinds of cells that differ in every gene, a tenth of the molecules held out, and the true rates as result."""
    rng = np.random.default_rng(0)
    fold = np.where(np.arange(1000)[:, None] < 500, 4.0, 0.25) ** np.where(np.arange(40) < 20, 1, -1)
    counts = rng.poisson(3 * fold)
    kept = rng.binomial(counts, 0.9)
    return made(counts, 0.9 * 3 * fold, kept=kept)


# Counts of a gene


def test_boxes_hold_the_imputed_values_of_cells_with_each_count():
    counts = np.repeat([0, 1, 2, 3, 4, 7], 10)[:, None] * [1, 0]
    values = np.arange(60.0)[:, None] * [1, 0] / 10
    ax = sd.pl.imputation(made(counts, values), "mine", "0", panels=["counts"])[0]
    expected = [
        np.median(np.arange(start, stop)) / 10 for start, stop in [(0, 10), (10, 20), (20, 30), (30, 50), (50, 60)]
    ]
    np.testing.assert_allclose(medians(ax), expected, atol=1e-6)
    labels = [tick.get_text() for tick in ax.get_xticklabels()]
    assert labels == ["0\n10", "1\n10", "2\n10", "3–4\n20", "5–8\n10"]


def test_large_counts_are_in_coarser_groups():
    ax = sd.pl.imputation(made(np.arange(200)[:, None], np.ones((200, 1))), "mine", panels=["counts"])[0]
    names = [tick.get_text().split("\n")[0] for tick in ax.get_xticklabels()]
    assert names == ["0", "1", "2", "3–8", "9–32", "33–128", "129–512"]


@pytest.mark.parametrize(
    ("output", "expected"),
    [("counts", 2.0), ("log1p", np.log(3)), ("log1p_nonzero", np.log(3)), ("lognorm", np.log(1 + 2e4 / 10))],
)
def test_counts_are_marked_in_the_unit_of_the_layer(output, expected):
    counts = np.tile([2, 8], (10, 1))
    ax = sd.pl.imputation(made(counts, counts, output=output), "mine", "0", panels=["counts"])[0]
    assert ax.collections[0].get_offsets()[0, 1] == pytest.approx(expected, rel=1e-6)


def test_log_normalised_input_is_drawn_as_counts_per_10000():
    logs = np.log1p(np.repeat([0, 2], 10))[:, None]
    ax = sd.pl.imputation(made(logs, logs, output="lognorm", kind="log-normalised"), "mine", panels=["counts"])[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0\n10", "2\n10"]
    assert "per 10,000" in ax.get_xlabel()


@pytest.mark.parametrize("as_layer", [np.asarray, sp.csr_matrix])
def test_the_gene_is_the_most_imputable_or_the_most_variable_imputed_one(as_layer):
    values = np.random.default_rng(0).normal(size=(30, 4)) * [1, 5, 9, 2] + 50
    adata = made(np.ones((30, 4)), values)
    adata.layers["mine"] = as_layer(adata.layers["mine"])
    adata.var["mine_imputed"] = [True, True, False, True]
    assert sd.pl.imputation(adata, "mine")[0].get_title() == "1"
    adata.var["mine_imputability"] = [0.2, np.nan, np.nan, 0.4]
    assert sd.pl.imputation(adata, "mine")[0].get_title() == "3"


# What was held out


def test_true_rates_lie_on_the_diagonal_and_show_the_planted_folds(thinned):
    ax = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0]
    expected, found = ax.containers[0].lines[0].get_data()
    depth = 3 * (4 + 0.25) * 20  # of either kind of cell
    mean_share = (4 + 0.25) / 2 * 3 / depth
    folds = np.array([0.25, 4]) * 3 / (mean_share * depth)
    np.testing.assert_allclose([expected.min(), expected.max()], folds, rtol=0.1)
    np.testing.assert_allclose(found, expected, rtol=0.15)


def test_only_molecules_that_were_held_out_are_counted(thinned):
    held_out = thinned.X.sum() - thinned.layers["kept"].sum()
    ax = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0]
    assert f"{held_out:,.0f} molecules held out" in ax.get_xlabel()


def test_rates_that_exaggerate_leave_the_diagonal(thinned):
    thinned.layers["mine"] **= 2
    expected, found = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0].containers[0].lines[0].get_data()
    assert expected.max() > 1.3 * found[expected.argmax()]
    assert expected.min() < 0.7 * found[expected.argmin()]


def test_the_mean_of_the_genes_is_one_point_at_one(thinned):
    kept = thinned.layers["kept"].toarray()
    thinned.layers["mine"] = np.outer(kept.sum(axis=1), kept.sum(axis=0)) / kept.sum()
    points = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0].containers[0].lines[0].get_data()
    np.testing.assert_allclose(points, [[1], [1]], rtol=1e-5)


def test_genes_that_were_not_imputed_are_left_out(thinned):
    thinned.layers["mine"][:, 0] = 1e6
    thinned.var["mine_imputed"] = np.arange(40) > 0
    expected, _ = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0].containers[0].lines[0].get_data()
    assert expected.max() < 3


def test_another_unit_gives_the_same_points(thinned):
    depth = np.asarray(thinned.layers["kept"].sum(axis=1))
    other = thinned.copy()
    other.layers["mine"] = np.log1p(1e4 * thinned.layers["mine"] / depth)
    other.uns["scdance"]["impute"]["mine"]["params"]["output"] = "lognorm"
    points = [
        sd.pl.imputation(each, "mine", panels=["held_out"])[0].containers[0].lines[0].get_data()
        for each in (thinned, other)
    ]
    np.testing.assert_allclose(points[1], points[0], rtol=1e-3)


def test_hidden_entries_are_boxes_of_predicted_logarithms_at_their_count():
    counts = np.tile([1, 1, 4, 6], (20, 1))
    kept = counts * [0, 1, 0, 1]
    values = np.tile([0.3, 9.0, 1.2, 9.0], (20, 1))
    ax = sd.pl.imputation(made(counts, values, output="log1p", kept=kept), "mine", panels=["held_out"])[0]
    np.testing.assert_allclose(medians(ax), [0.3, 1.2], atol=1e-6)
    np.testing.assert_allclose(ax.get_xticks(), np.log([2, 5]), atol=1e-6)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "3–4"]


def test_a_truth_in_a_layer_needs_no_record(thinned):
    thinned.layers["all"] = thinned.X.copy()
    first = sd.pl.imputation(thinned, "mine", panels=["held_out"])[0].containers[0].lines[0].get_data()
    del thinned.uns["scdance"]["hold_out"]
    assert "hold_out(adata)" in said(sd.pl.imputation(thinned, "mine", panels=["held_out"])[0])
    second = sd.pl.imputation(thinned, "mine", truth="all", panels=["held_out"])[0].containers[0].lines[0].get_data()
    np.testing.assert_array_equal(first, second)


# Genes


def test_genes_lie_at_their_mean_and_imputability():
    counts = np.tile([1, 2, 4, 0], (10, 1))
    adata = made(counts, counts)
    adata.var["mine_imputability"] = [0.05, np.nan, 0.6, 0.5]
    ax = sd.pl.imputation(adata, "mine", panels=["genes"])[0]
    np.testing.assert_allclose(ax.collections[0].get_offsets(), [[1, 0.05], [4, 0.6]], rtol=1e-6)
    assert "50% of 2 genes are at 0.1" in ax.get_xlabel()
    assert said(ax) == "2"  # the one with the highest


# What is missing


def test_panels_for_which_something_is_missing_say_what_to_call():
    panels = sd.pl.imputation(made(np.ones((9, 3)), np.ones((9, 3))), "mine")
    assert len(panels) == 3
    assert "sd.tl.hold_out(adata)" in said(panels[1])
    assert "evaluate=True" in said(panels[2])


def test_a_layer_that_was_removed_is_said_to_be_gone(thinned):
    thinned.var["mine_imputability"] = 0.5
    del thinned.layers["kept"]
    panels = sd.pl.imputation(thinned, "mine")
    assert "no longer in the object" in said(panels[0])
    assert "No counts were held out" in said(panels[1])
    assert "no longer in the object" in said(panels[2])


def test_hidden_molecules_need_expected_counts(thinned):
    thinned.uns["scdance"]["impute"]["mine"]["params"]["output"] = "log1p_nonzero"
    assert 'output="counts"' in said(sd.pl.imputation(thinned, "mine", panels=["held_out"])[0])


def test_a_truth_with_fewer_counts_is_no_truth(thinned):
    thinned.layers["all"] = thinned.layers["kept"] * 0
    assert "not the truth" in said(sd.pl.imputation(thinned, "mine", truth="all", panels=["held_out"])[0])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"key": "mien"}, MissingKeyError, r"No 'mien'.*runs of `impute` are mine.*Did you mean 'mine'"),
        ({"gene": "CD3D"}, MissingKeyError, r"No gene 'CD3D'.*0, 1, 2, 3, 4 and 35 more"),
        ({"truth": "all"}, MissingKeyError, r"No 'all' in `adata.layers`; it has mine, kept"),
        ({"panels": ["box"]}, InputError, "panels is 'box', but must be one of: counts, held_out, genes"),
        ({"panels": []}, InputError, "names none"),
    ],
)
def test_wrong_calls_are_refused(thinned, given, error, message):
    with pytest.raises(error, match=message):
        sd.pl.imputation(thinned, **({"key": "mine"} | given))


def test_it_draws_on_the_given_axes_in_the_order_of_the_panels(thinned):
    from matplotlib.figure import Figure

    panels = Figure().subplots(1, 2)
    assert list(sd.pl.imputation(thinned, "mine", panels=["genes", "counts"], ax=panels)) == list(panels)
    assert panels[0].get_title() == "imputability of the genes"
    with pytest.raises(InputError, match="3 panels"):
        sd.pl.imputation(thinned, "mine", ax=panels)


def test_drawing_changes_neither_the_object_nor_matplotlib(thinned):
    before, settings = thinned.copy(), dict(mpl.rcParams)
    sd.pl.imputation(thinned, "mine")[0].figure.canvas.draw()
    assert dict(mpl.rcParams) == settings
    np.testing.assert_array_equal(thinned.layers["mine"], before.layers["mine"])
    assert list(thinned.var) == list(before.var) and list(thinned.uns) == list(before.uns)


# Its scores as bars


def test_scores_without_a_largest_value_get_room_for_their_numbers():
    import pandas as pd

    table = pd.DataFrame({"method": ["a", "b"], "poisson_gain": [-0.1234, 0.0], "poisson_loss": [0.14, 0.17]})
    gain, loss = sd.pl.benchmark(table)[0]
    assert gain.get_xlim()[0] < -0.1234 and 0 < gain.get_xlim()[1] < 0.1234
    assert loss.get_xlim()[0] == 0 and 0.17 < loss.get_xlim()[1] < 0.34
    assert [text.get_text() for text in gain.texts] == ["-0.123", "0.000"]
