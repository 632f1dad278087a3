"""Spatial domains on a SpatialData: places from shapes, regions as slices, results that other packages draw."""

from __future__ import annotations

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
from scdance._checks import InputError, MissingKeyError


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
