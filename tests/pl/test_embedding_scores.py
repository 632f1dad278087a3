"""The table of scores of spaces: what stands where, and how it is drawn."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from scdance import pl
from scdance._checks import InputError, MissingKeyError

NAN = float("nan")


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def rows():
    """Two seeds of three methods on two data sets; `mean_of_six` puts "good" before "fair" before "floor"."""
    values = {"fair": 0.5, "good": 0.8, "floor": 0.3}
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "variant": name,
                "seed": seed,
                "kind": "floor" if name == "floor" else "method",
                "asw": 1 - value,
                "batch_asw": NAN if dataset == "two" else value / 2 + seed / 10,
                "mean_of_six": value + seed / 10,
                "cell_cycle_conservation": NAN,
                "picked_asw": 1.0,
                "seconds": 3,
            }
            for dataset in ("one", "two")
            for name, value in values.items()
            for seed in (0, 1)
        ]
    )


def texts(axis):
    return [label.get_text() for label in axis]


def printed(ax):
    """The values as they stand in the table, by row."""
    found = [["" for _ in ax.get_xticklabels()] for _ in ax.get_yticklabels()]
    for text in sorted(ax.texts, key=lambda each: each.get_position()[0]):
        row = found[int(text.get_position()[1])]
        row[row.index("")] = text.get_text()
    return found


def test_methods_stand_by_their_overall_score_and_columns_by_what_they_are_made_of(rows):
    ax = pl.embedding_scores(rows)
    assert texts(ax.get_yticklabels()) == ["good", "fair", "floor"]
    assert texts(ax.get_xticklabels()) == ["asw ↑", "batch asw ↑", "mean of six ↑"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_a_cell_says_the_mean_over_seeds_and_the_data_sets_that_can_be_judged(rows):
    assert printed(pl.embedding_scores(rows)) == [
        ["0.20", "0.45", "0.85"],
        ["0.50", "0.30", "0.55"],
        ["0.70", "0.20", "0.35"],
    ]


def test_a_method_without_a_value_where_others_have_one_has_none(rows):
    rows.loc[(rows["variant"] == "good") & (rows["dataset"] == "one"), "mean_of_six"] = NAN
    ax = pl.embedding_scores(rows)
    assert texts(ax.get_yticklabels()) == ["fair", "floor", "good"]
    assert printed(ax)[2] == ["0.20", "0.45", "–"]


def test_areas_and_bars_say_where_a_value_lies_in_the_range_of_its_metric(rows):
    ax = pl.embedding_scores(rows[rows["dataset"] == "one"])
    areas = ax.collections[0].get_sizes()  # asw, of "good", "fair", "floor"
    np.testing.assert_allclose(areas / areas[0], [1, 0.5 / 0.2, 0.7 / 0.2])
    whole, parts = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in parts], np.array([0.85, 0.55, 0.35]) * whole[0].get_width())


def test_the_shade_says_where_among_the_methods(rows):
    shades = pl.embedding_scores(rows).collections[0].get_facecolors()
    assert shades[2][:3].sum() < shades[1][:3].sum() < shades[0][:3].sum()  # the best is the darkest


def test_where_lower_is_better_small_values_are_large_circles():
    table = pd.DataFrame({"rmse": [0.1, 0.4]}, index=["a", "b"])
    ax = pl.embedding_scores(table)
    assert texts(ax.get_yticklabels()) == ["a", "b"] and texts(ax.get_xticklabels()) == ["rmse ↓"]
    np.testing.assert_allclose(np.divide(*ax.collections[0].get_sizes()), 0.9 / 0.6)


def test_names_of_floors_and_controls_are_grey(rows):
    colors = [label.get_color() for label in pl.embedding_scores(rows).get_yticklabels()]
    assert [to_rgba(color)[0] for color in colors] == [0, 0, 0.5]
    marked = rows.drop(columns="kind").assign(control=rows["variant"] == "fair")
    colors = [label.get_color() for label in pl.embedding_scores(marked).get_yticklabels()]
    assert [to_rgba(color)[0] for color in colors] == [0, 0.5, 0]


def test_rows_of_score_are_drawn_by_their_keys():
    table = pd.concat([pd.DataFrame({"asw": [value]}, index=pd.Index([key], name="key")) for key, value in
                       (("one", 0.4), ("two", 0.6))])  # fmt: skip
    assert texts(pl.embedding_scores(table).get_yticklabels()) == ["two", "one"]


def test_it_draws_on_the_given_axes_and_changes_neither_the_table_nor_matplotlib(rows):
    before, settings = rows.copy(), dict(matplotlib.rcParams)
    _, ax = plt.subplots()
    assert pl.embedding_scores(rows, ["asw"], ax=ax) is ax
    ax.figure.canvas.draw()
    pd.testing.assert_frame_equal(rows, before)
    assert dict(matplotlib.rcParams) == settings


def test_a_table_that_says_nothing_is_refused(rows):
    with pytest.raises(MissingKeyError, match=r"No column nmi in the table; it has dataset, variant"):
        pl.embedding_scores(rows, ["nmi"])
    with pytest.raises(InputError, match="No row has a value of cell_cycle_conservation"):
        pl.embedding_scores(rows, ["cell_cycle_conservation"])
    with pytest.raises(InputError, match="has 0 rows"):
        pl.embedding_scores(rows[:0])
