"""Spatial domains on a SpatialData: places from shapes, regions as slices, results that other packages draw."""

from __future__ import annotations

from typing import Any

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
