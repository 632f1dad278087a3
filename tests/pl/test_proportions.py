import anndata
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection, PolyCollection
from matplotlib.colors import to_hex

from scdance import pl
from scdance._checks import InputError, MissingKeyError
from scdance.datasets import toy_mixtures

KINDS = ("pies", "top", "types")
RED, GREEN, BLUE = "#ff0000", "#00ff00", "#0000ff"


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.fixture
def spots():
    """Four spots on a line 10 apart: pure a, half a half b, three types, nothing known."""
    adata = anndata.AnnData(np.ones((4, 2), dtype=np.float32))
    adata.obsm["spatial"] = np.array([[0.0, 0], [10, 0], [20, 0], [30, 0]])
    values = [[1, 0, 0], [0.5, 0.5, 0], [0.245, 0.25, 0.505], [np.nan] * 3]
    adata.obsm["mine"] = pd.DataFrame(values, index=adata.obs_names, columns=["a", "b", "c"])
    adata.uns["mine_top_colors"] = [RED, GREEN, BLUE]
    return adata


def shades(ax):
    """Colour → what is drawn in it: paths of wedges or centres of discs; the dots of the legend are neither."""
    out = {}
    for drawn in ax.collections:
        if drawn.get_array() is None and isinstance(drawn, PolyCollection | EllipseCollection):
            what = drawn.get_paths() if isinstance(drawn, PolyCollection) else map(tuple, drawn.get_offsets().tolist())
            out[to_hex(drawn.get_facecolor()[0])] = list(what)
    return {shade: what for shade, what in out.items() if what}


def area(path):
    """Of a polygon, by the shoelace formula."""
    x, y = path.vertices.T
    return abs(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:])) / 2


def many_types(spots, n):
    values = np.random.default_rng(0).dirichlet(np.ones(n), 4)
    spots.obsm["many"] = pd.DataFrame(values, index=spots.obs_names, columns=[f"t{i}" for i in range(n)])
    return spots


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_is_drawn_on_the_given_axes_or_on_its_own(spots, kind):
    _, given = plt.subplots(1, 3 if kind == "types" else 1)
    found = pl.proportions(spots, "mine", kind=kind, ax=given)
    assert (np.ravel(found) == np.ravel(given)).all()
    assert np.ravel(pl.proportions(spots, "mine", kind=kind))[0].figure is not np.ravel(given)[0].figure


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_changes_neither_the_object_nor_matplotlib(spots, kind):
    before, settings = spots.copy(), dict(matplotlib.rcParams)
    np.ravel(pl.proportions(spots, "mine", kind=kind))[0].figure.canvas.draw()
    pd.testing.assert_frame_equal(spots.obsm["mine"], before.obsm["mine"])
    assert list(spots.uns) == list(before.uns) and spots.obs.equals(before.obs)
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("kind", KINDS)
def test_the_tissue_is_drawn_as_in_the_image(spots, kind):
    for ax in np.ravel(pl.proportions(spots, "mine", kind=kind)):
        bottom, top = ax.get_ylim()
        assert bottom > top and ax.get_aspect() == 1
        assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_the_area_of_a_wedge_is_its_share_of_the_pie(spots):
    drawn = shades(pl.proportions(spots, "mine", size=10))
    whole = np.pi * 25
    found = {
        shade: [area(path) / whole for path in paths] for shade, paths in drawn.items() if shade in (RED, GREEN, BLUE)
    }
    for shade, expected in {RED: [1, 0.5, 0.245], GREEN: [0.5, 0.25], BLUE: [0.505]}.items():
        np.testing.assert_allclose(found[shade], expected, rtol=0.01)


def test_wedges_lie_around_their_spot_and_start_at_the_top(spots):
    whole, half, part = shades(pl.proportions(spots, "mine", size=10))[RED]
    for path, x in ((whole, 0), (half, 10), (part, 20)):
        np.testing.assert_allclose(path.vertices[0], [x, 0])
        np.testing.assert_allclose(path.vertices[1], [x, -5], atol=1e-9)  # y points down
    assert half.vertices[:, 0].min() >= 10 - 1e-9  # clockwise: the right half


def test_contributions_below_one_percent_are_left_out(spots):
    spots.obsm["mine"].iloc[0] = [0.991, 0.009, 0.0]
    drawn = shades(pl.proportions(spots, "mine"))
    assert (len(drawn[RED]), len(drawn[GREEN])) == (3, 2)


def test_there_is_one_collection_per_type_not_per_spot():
    spots, _ = toy_mixtures()
    collections = pl.proportions(spots, "true_prop").collections
    assert sum(isinstance(each, PolyCollection) for each in collections) == 3


def test_spots_have_the_colour_of_their_main_type(spots):
    drawn = shades(pl.proportions(spots, "mine", kind="top"))
    assert drawn[RED] == [(0, 0), (10, 0)] and drawn[BLUE] == [(20, 0)]


def test_main_types_are_read_from_the_result_if_it_has_them(spots):
    spots.obs["mine_top"] = pd.Categorical(["b", "b", "a", None])
    drawn = shades(pl.proportions(spots, "mine", kind="top"))
    assert drawn[GREEN] == [(0, 0), (10, 0)] and drawn[RED] == [(20, 0)]


@pytest.mark.parametrize("kind", KINDS)
def test_spots_without_proportions_are_grey(spots, kind):
    for ax in np.ravel(pl.proportions(spots, "mine", kind=kind)):
        assert shades(ax)[to_hex("0.8")] == [(30, 0)]


def test_the_legend_lists_the_types_and_the_missing(spots):
    def names(adata):
        return [text.get_text() for text in pl.proportions(adata, "mine").get_legend().get_texts()]

    assert names(spots) == ["a", "b", "c", "missing"]
    assert names(spots[:3]) == ["a", "b", "c"]


@pytest.mark.parametrize(("n", "columns"), [(20, 1), (21, 2)])
def test_a_long_legend_has_two_columns(spots, n, columns):
    assert pl.proportions(many_types(spots, n), "many").get_legend()._ncols == columns


def test_each_type_has_a_panel_on_one_scale_with_one_bar(spots):
    spots.obsm["mine"] = spots.obsm["mine"] * 0.8
    panels = pl.proportions(spots, "mine", kind="types")
    assert [ax.get_title() for ax in panels] == ["a", "b", "c"]
    maps = [next(c for c in ax.collections if c.get_array() is not None) for ax in panels]
    for points, name in zip(maps, "abc", strict=True):
        np.testing.assert_allclose(points.get_array(), spots.obsm["mine"][name][:3])
        assert points.get_clim() == (0, 0.8)
    assert len(panels[0].figure.axes) == 4


def test_only_wanted_types_are_drawn_in_their_order_and_colour(spots):
    assert [ax.get_title() for ax in pl.proportions(spots, "mine", kind="types", types=["c", "a"])] == ["c", "a"]
    pies = pl.proportions(spots, "mine", types=["c", "a"])
    assert [text.get_text() for text in pies.get_legend().get_texts()] == ["c", "a", "missing"]
    assert set(shades(pies)) >= {RED, BLUE} and GREEN not in shades(pies)


def test_spots_nearly_touch_their_neighbours_unless_told_otherwise(spots):
    def diameter(**more):
        return pl.proportions(spots, "mine", kind="top", **more).collections[0].get_widths()[0]

    assert diameter() == pytest.approx(9)
    assert diameter(size=4) == pytest.approx(4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_without_any_proportions_can_be_drawn(spots, kind):
    spots.obsm["mine"] = spots.obsm["mine"] * np.nan
    np.ravel(pl.proportions(spots, "mine", kind=kind))[0].figure.canvas.draw()
    assert len(shades(np.ravel(pl.proportions(spots, "mine", kind=kind))[0])[to_hex("0.8")]) == 4


def test_a_missing_result_names_the_tables_that_are_there(spots):
    with pytest.raises(MissingKeyError, match=r"No 'miner'.*its tables are mine\. Did you mean 'mine'"):
        pl.proportions(spots, "miner")


def test_what_is_no_table_is_refused(spots):
    with pytest.raises(InputError, match="must be a DataFrame with a column per type, but is a ndarray"):
        pl.proportions(spots, "spatial")


def test_missing_coordinates_name_what_is_there(spots):
    with pytest.raises(MissingKeyError, match=r"No 'xy' in `adata.obsm`; it has .*spatial_key="):
        pl.proportions(spots, "mine", spatial_key="xy")


@pytest.mark.parametrize("wrong", [np.ones((4, 1)), np.full((4, 2), np.nan)], ids=["one dimension", "NaN"])
def test_coordinates_that_cannot_be_drawn_are_refused(spots, wrong):
    spots.obsm["spatial"] = wrong
    with pytest.raises(InputError, match="two finite coordinates"):
        pl.proportions(spots, "mine")


def test_an_unknown_type_is_refused_with_those_there(spots):
    with pytest.raises(MissingKeyError, match=r"No type 'd'.*it has a, b, c"):
        pl.proportions(spots, "mine", types=["a", "d"])
    with pytest.raises(InputError, match="types names no type"):
        pl.proportions(spots, "mine", types=[])


def test_unknown_choices_are_refused(spots):
    with pytest.raises(InputError, match=r"kind is 'pie'.*Did you mean 'pies'"):
        pl.proportions(spots, "mine", kind="pie")
    with pytest.raises(InputError, match="size is 0"):
        pl.proportions(spots, "mine", size=0)


def test_too_few_axes_are_refused(spots):
    _, ax = plt.subplots()
    with pytest.raises(InputError, match="3 panels"):
        pl.proportions(spots, "mine", kind="types", ax=ax)


def test_a_main_type_is_found_though_files_do_not_take_its_name(spots):
    """Columns have "|" for "/", the categories the true names."""
    spots.obsm["mine"].columns = ["a|b", "b", "c"]
    spots.obs["mine_top"] = pd.Categorical(["a/b", "b", "c", np.nan], categories=["a/b", "b", "c"])
    assert shades(pl.proportions(spots, "mine", kind="top"))[RED] == [(0.0, 0.0)]
