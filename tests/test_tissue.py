"""Spatial domains on a SpatialData: places from shapes, regions as slices, results that other packages draw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anndata as ad
import geopandas as gpd
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import spatialdata
from shapely import Point
from spatialdata.models import ShapesModel, TableModel

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError


@pytest.fixture
def adata() -> Any:
    return sd.datasets.toy_domains(n_obs=300, slices=2)


@pytest.fixture
def sdata(adata: Any) -> spatialdata.SpatialData:
    """Each slice of `adata` is a region with shapes of its own, in another order than the table."""
    rng = np.random.default_rng(0)
    table = adata.copy()
    xy = table.obsm.pop("spatial")
    table.obs["region"] = table.obs["slice"].cat.rename_categories({"slice_0": "one", "slice_1": "two"})
    table.obs["instance"] = np.arange(300)
    shapes = {}
    for region in ("one", "two"):
        rows = rng.permutation(np.flatnonzero(table.obs["region"] == region))
        points = [Point(*xy[i]) for i in rows]
        shapes[region] = ShapesModel.parse(
            gpd.GeoDataFrame({"radius": [45.0] * len(rows)}, geometry=points, index=rows)
        )
    table = TableModel.parse(table, region=["one", "two"], region_key="region", instance_key="instance")
    return spatialdata.SpatialData(shapes=shapes, tables={"table": table})


def test_regions_are_slices_and_the_result_is_that_of_the_anndata(adata: Any, sdata: Any):
    sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4, library_key="slice")
    sd.tl.spatial_domain(sdata, method="smoothed_pca", n_clusters=4)
    found = sdata.tables["table"]
    np.testing.assert_array_equal(found.obs["smoothed_pca"].astype(str), adata.obs["smoothed_pca"].astype(str))
    np.testing.assert_allclose(found.obsm["X_smoothed_pca"], adata.obsm["X_smoothed_pca"], atol=1e-5)
    score = sd.metrics.score(adata, "spatial_domain", key="smoothed_pca", truth="domain", library_key="slice")
    assert score["ari"].item() > 0.6


def test_without_slices_the_same_places_are_neighbours(adata: Any):
    one, two = adata.copy(), adata.copy()
    sd.tl.spatial_domain(one, method="smoothed_pca", n_clusters=4, library_key="slice")
    sd.tl.spatial_domain(two, method="smoothed_pca", n_clusters=4)
    assert not np.allclose(one.obsm["X_smoothed_pca"], two.obsm["X_smoothed_pca"])


@pytest.mark.filterwarnings("ignore")  # of spatialdata, spatialdata-plot and matplotlib
def test_a_result_survives_the_file_and_is_drawn_by_others(sdata: Any, tmp_path: Any):
    import spatialdata_plot  # noqa: F401, which gives SpatialData its `pl`

    sd.tl.spatial_domain(sdata, method="banksy", n_clusters=4)
    sdata.write(tmp_path / "tissue.zarr")
    again = spatialdata.read_zarr(tmp_path / "tissue.zarr")
    pd.testing.assert_series_equal(
        again.tables["table"].obs["banksy"], sdata.tables["table"].obs["banksy"], check_categorical=False
    )
    _, ax = plt.subplots()
    again.pl.render_shapes("one", color="banksy", table_name="table").pl.show(ax=ax)
    assert ax.collections
    plt.close("all")


def test_wrong_calls_say_what_to_pass(adata: Any, sdata: Any):
    nowhere = adata.copy()
    del nowhere.obsm["spatial"]
    with pytest.raises(MissingKeyError, match="spatial_key="):
        sd.tl.spatial_domain(nowhere, method="smoothed_pca", n_clusters=4)
    with pytest.raises(MissingKeyError, match="library_key="):
        sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4, library_key="slide")
    with pytest.raises(InputError, match="image_key="):
        sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=4, image_key="hires")
    with pytest.raises(InputError, match="n_clusters=200"):
        sd.tl.spatial_domain(adata, method="smoothed_pca", n_clusters=200)
    sdata.tables["other"] = sdata.tables["table"].copy()
    with pytest.raises(InputError, match="table_key="):
        sd.tl.spatial_domain(sdata, method="smoothed_pca", n_clusters=4)
    line = adata.copy()
    line.obsm["spatial"][:] = 0
    with pytest.raises(InputError, match="lay nothing out"):
        sd.tl.spatial_domain(line, method="smoothed_pca", n_clusters=4)
    assert "smoothed_pca" not in adata.obs


@pytest.mark.parametrize(
    ("method", "knobs", "says"),
    [
        ("smoothed_pca", {"refine": -1}, "refine must be a whole number of at least 0"),
        ("banksy", {"n_init": 0}, "n_init must be a whole number of at least 1"),
        ("stagate", {"n_components": 0}, "n_components must be a whole number of at least 1"),
        ("spagcn", {"n_clusters": None, "resolution": 0.0}, "resolution=0.0, but it must be above 0"),
        ("leiden", {"n_neighbors": 1}, "n_neighbors must be a whole number of at least 2"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_is_computed(adata: Any, method: str, knobs: Any, says: str):
    with pytest.raises(InputError, match=says):
        sd.tl.spatial_domain(adata, **{"method": method, "n_clusters": 4, **knobs})
    assert list(adata.obs) == ["domain", "slice"]
    assert "scdance" not in adata.uns


def test_cells_without_a_column_of_types_are_no_profiles():
    spots, ref = sd.datasets.toy_mixtures()
    before = list(spots.obs), list(spots.obsm)
    with pytest.raises(InputError, match=r"each of the \d+ rows of `ref`.*group them: cell_type.*`labels_key=`"):
        sd.tl.deconvolve(spots, ref, method="nnls")
    assert (list(spots.obs), list(spots.obsm)) == before
    profiles = ref.to_df().groupby(ref.obs["cell_type"].astype(str)).mean()
    with_groups = ad.AnnData(profiles, obs=pd.DataFrame({"tissue": "blood"}, index=profiles.index))
    sd.tl.deconvolve(spots, with_groups, method="nnls")  # a column that says the same of all groups nothing
    assert list(spots.obsm["nnls"]) == list(profiles.index)


# ------------------------------------------------------------------ what is missing


def held(data: Any) -> dict[str, Any]:
    """Everything that the tables of an object hold."""
    tables = dict(data.tables) if isinstance(data, spatialdata.SpatialData) else {"": data}
    return {
        f"{name} {part}": {key: np.asarray(value) for key, value in dict(getattr(table, part)).items()}
        for name, table in tables.items()
        for part in ("obs", "var", "obsm", "layers", "uns")
    } | {f"{name} X": {"": table.X.toarray()} for name, table in tables.items()}


@contextmanager
def refused(data: Any, error: type[Exception], *says: str) -> Iterator[None]:
    """The call raises an error that says all of this, and the object is as it was."""
    before = held(data)
    with pytest.raises(error) as raised:
        yield
    for each in says:
        assert each in str(raised.value)
    np.testing.assert_equal(held(data), before)


@pytest.fixture
def mixed() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_mixtures()


def in_tables(spots: ad.AnnData, **more: ad.AnnData) -> spatialdata.SpatialData:
    """Tables that annotate nothing."""
    return spatialdata.SpatialData(tables={name: TableModel.parse(each) for name, each in {"a": spots, **more}.items()})


DOMAINS = sorted(set(sd.methods("spatial_domain").index))
DECONVOLVERS = sorted(set(sd.methods("deconvolve").index))


@pytest.mark.parametrize("kind", ["AnnData", "SpatialData"])
@pytest.mark.parametrize("method", DOMAINS)
def test_without_coordinates_it_is_said_which_line_makes_them(adata: Any, method: str, kind: str):
    xy = adata.obsm.pop("spatial")
    adata.obs["X_centroid"], adata.obs["Y_centroid"] = xy.T
    data = adata if kind == "AnnData" else in_tables(adata)
    line = "adata.obsm['spatial'] = adata.obs[['X_centroid', 'Y_centroid']].to_numpy()"
    with refused(data, MissingKeyError, "needs the coordinates", "no `obsm['spatial']`", "`spatial_key=`", line):
        sd.tl.spatial_domain(data, method, n_clusters=4)


def test_without_any_columns_of_coordinates_the_line_is_an_example(adata: Any):
    del adata.obsm["spatial"]
    with refused(adata, MissingKeyError, "obsm has nothing", "adata.obs[['x', 'y']].to_numpy()` with your columns"):
        sd.tl.spatial_domain(adata, "banksy", n_clusters=4)
    adata.obsm["places"] = np.zeros((300, 2))
    with refused(adata, MissingKeyError, "obsm has places. Pass the key that holds them as `spatial_key=`."):
        sd.tl.spatial_domain(adata, "banksy", n_clusters=4)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda xy: xy * np.nan, ["missing or infinite for 300 of 300", "np.isfinite(adata.obsm"]),
        (lambda xy: xy.astype(str).astype(object) + "px", ["must hold numbers", "px", ".astype(float)"]),
        (lambda xy: xy[:, :1], ["shape (300, 1)", "(300, 2)"]),
        (lambda xy: xy * 0 + 3, ["1 different places for 300 spots", "`spatial_key=`"]),
    ],
    ids=["missing", "text", "one axis", "one place"],
)
def test_coordinates_that_cannot_be_used_are_refused(adata: Any, spoil: Any, says: list[str]):
    adata.obsm["spatial"] = spoil(adata.obsm["spatial"])
    with refused(adata, InputError, *says):
        sd.tl.spatial_domain(adata, "banksy", n_clusters=4)


@pytest.mark.parametrize("kind", ["AnnData", "library without images", "SpatialData"])
@pytest.mark.parametrize(
    ("method", "knobs", "way_out"),
    [("spagcn", {"histology": True}, "histology=False"), ("stlearn", {}, "use=('expr', 'space')")],
)
def test_without_an_image_it_is_said_how_to_do_without(
    adata: Any, sdata: Any, method: str, knobs: Any, way_out: str, kind: str
):
    if kind == "library without images":
        adata.uns["spatial"] = {"slide": {"images": {}, "scalefactors": {}}}
    data = sdata if kind == "SpatialData" else adata
    with refused(data, InputError, "`uns['spatial']`", "SpatialData", way_out):
        sd.tl.spatial_domain(data, method, n_clusters=4, **knobs)


def test_of_two_pictures_without_slices_the_column_of_slices_is_asked_for(adata: Any):
    picture = {"images": {"hires": np.zeros((9, 9, 3))}, "scalefactors": {"tissue_hires_scalef": 1.0}}
    adata.uns["spatial"] = {"slice_0": picture, "slice_1": picture}
    with refused(adata, MissingKeyError, "pictures of slice_0, slice_1", "not told apart", "`library_key=`"):
        sd.tl.spatial_domain(adata, "stlearn", n_clusters=4)


def test_of_several_tables_one_has_to_be_named(sdata: Any, mixed: Any):
    spots, ref = mixed
    for data, call in (
        (sdata, lambda data: sd.tl.spatial_domain(data, "banksy", n_clusters=4)),
        (in_tables(spots), lambda data: sd.tl.deconvolve(data, ref, "nnls", labels_key="cell_type")),
    ):
        first = next(iter(data.tables))
        data.tables["other"] = data.tables[first].copy()
        with refused(data, InputError, f"2 tables ({first}, other)", "`table_key=`"):
            call(data)
        for name in (first, "other"):
            del data.tables[name]
        with refused(data, InputError, "has no table", "sdata.tables['table'] = adata"):
            call(data)


def test_shapes_that_the_table_annotates_must_be_there(sdata: Any):
    del sdata.shapes["two"]
    with refused(sdata, MissingKeyError, "annotates 'two', but the SpatialData has one", "Add that element"):
        sd.tl.spatial_domain(sdata, "banksy", n_clusters=4)


@pytest.mark.parametrize("kind", ["AnnData", "SpatialData"])
@pytest.mark.parametrize("method", DECONVOLVERS)
@pytest.mark.parametrize("n_shared", [0, 5])
def test_without_shared_genes_both_kinds_of_names_are_shown(mixed: Any, method: str, kind: str, n_shared: int):
    spots, ref = mixed
    ref.var_names = [*ref.var_names[:n_shared], *(f"ENSG{i:011d}" for i in range(ref.n_vars - n_shared))]
    data = spots if kind == "AnnData" else in_tables(spots)
    says = [
        f"and {n_shared} are the same",
        "Ensembl ids (human)",
        "gene symbols",
        "gene_0",
        "adata.var_names = adata.var",
    ]
    before = held(ref)
    with refused(data, InputError, *says):
        sd.tl.deconvolve(data, ref, method, labels_key="cell_type")
    np.testing.assert_equal(held(ref), before)


@pytest.mark.parametrize("kind", ["AnnData", "SpatialData"])
@pytest.mark.parametrize("method", DOMAINS)
def test_a_tissue_without_spots_has_no_domains(adata: Any, method: str, kind: str):
    none = adata[:0].copy()
    data = none if kind == "AnnData" else in_tables(none)
    with refused(data, InputError, "has 0 cells × 200 genes", "filter or selection"):
        sd.tl.spatial_domain(data, method, n_clusters=4)
    adata.X = adata.X * 0
    with refused(adata, InputError, "All 300 cells of `X` are empty", "`layer=`"):
        sd.tl.spatial_domain(adata, method, n_clusters=4)


@pytest.mark.parametrize("kind", ["AnnData", "SpatialData"])
@pytest.mark.parametrize("method", DECONVOLVERS)
def test_without_spots_or_reference_there_is_nothing_to_deconvolve(mixed: Any, method: str, kind: str):
    spots, ref = mixed
    none = spots[:0].copy()
    data = none if kind == "AnnData" else in_tables(none)
    with refused(data, InputError, "has 0 cells × 60 genes", "filter or selection"):
        sd.tl.deconvolve(data, ref, method, labels_key="cell_type")
    with refused(spots, InputError, "The reference has 0 cells × 60 genes"):
        sd.tl.deconvolve(spots, ref[:0].copy(), method, labels_key="cell_type")
    spots.X = spots.X * 0
    with refused(spots, InputError, "All 97 cells of `X` are empty", "`layer=`"):
        sd.tl.deconvolve(spots, ref, method, labels_key="cell_type")


def test_what_is_wrong_with_a_reference_is_mended_there(mixed: Any):
    spots, ref = mixed
    logged = ref.copy()
    logged.X = (logged.X / logged.X.sum(axis=1)).tocsr().log1p()
    with refused(spots, InputError, "`ref.X` looks log-normalised", "as `ref_layer=`."):
        sd.tl.deconvolve(spots, logged, "nnls", labels_key="cell_type")
    ref.var_names = ["gene_0", *ref.var_names[:-1]]
    with refused(spots, InputError, "`ref.var_names_make_unique()`"):
        sd.tl.deconvolve(spots, ref, "nnls", labels_key="cell_type")


@pytest.mark.parametrize("n", [2, 5, 7])
def test_a_tissue_that_one_average_covers_is_refused(adata: Any, n: int):
    few = adata[:n].copy()
    with refused(few, InputError, "n_neighbors=6", f"no slice has more than {n}", "Pass fewer"):
        sd.tl.spatial_domain(few, "smoothed_pca", n_clusters=2)


@pytest.mark.parametrize("draw", [sd.pl.domains, sd.pl.proportions, sd.pl.uncertainty])
def test_figures_say_what_draws_a_spatialdata(sdata: Any, draw: Any):
    with refused(sdata, WrongTypeError, "found SpatialData", "render_shapes(color='some", "sdata.tables['table']"):
        draw(sdata, "some")


# ------------------------------------------------------------------ where the tissue lies


@pytest.mark.parametrize(
    ("method", "knobs"),
    [
        ("smoothed_pca", {}),
        ("spagcn", {"epochs": 10}),
        ("stagate", {"epochs": 20, "hidden": 32}),
        ("stagate", {"epochs": 20, "hidden": 32, "n_neighbors": 5}),
        ("stlearn", {"use": ("expr", "space")}),
        ("banksy", {}),
        ("leiden", {}),
        ("louvain", {}),
    ],
)
def test_moving_turning_and_scaling_the_tissue_changes_no_domain(method: str, knobs: dict[str, Any]):
    one = sd.datasets.toy_domains(n_obs=250, n_vars=60)
    one.obsm["spatial"] += np.random.default_rng(0).normal(scale=3, size=(250, 2))  # no neighbours equally far
    other, angle = one.copy(), 0.7
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    other.obsm["spatial"] = 0.02 * one.obsm["spatial"] @ turn.T + [-40, 9]
    for each in (one, other):
        sd.tl.spatial_domain(each, method, n_clusters=4, n_init=2, progress=False, **knobs)
    for slot in (method, f"{method}_refined"):
        np.testing.assert_array_equal(other.obs[slot].astype(str), one.obs[slot].astype(str))
    np.testing.assert_allclose(other.obsm[f"X_{method}"], one.obsm[f"X_{method}"], atol=1e-2)
