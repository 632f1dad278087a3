"""Pictures of a tissue: found in an AnnData or a SpatialData, with the places of the spots in them."""

from __future__ import annotations

from typing import Any

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import spatialdata
from shapely import Point
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import scdance as sd
from scdance._checks import InputError, MissingKeyError
from scdance._core.method import Method
from scdance._core.objects import opened
from scdance._core.read import read_roles
from scdance._core.task import SPATIAL_DOMAIN


class Looks(Method):
    """Needs nothing but to look."""

    needs = ("counts", "coords")
    uses = ("slice", "image")


class Blind(Method):
    """Looks at no picture."""

    needs = ("counts", "coords")


def cells(data: Any, model: Method | None = None, **how: Any) -> Any:
    return read_roles(SPATIAL_DOMAIN, model or Looks(), data, opened(data, SPATIAL_DOMAIN), **how)["cells"]


def half_red(height: int, width: int) -> np.ndarray:
    """A picture whose left half is red, the other blue."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:, : width // 2, 0] = 200
    picture[:, width // 2 :, 2] = 200
    return picture


def is_red(image: Any) -> np.ndarray:
    column, row = np.round(image.inside(image.pixels().shape)).astype(int).T
    return image.pixels()[row, column, 0] > 0


@pytest.fixture
def spots() -> ad.AnnData:
    """Thirty spots on a picture of 300 × 100 full pixels that is kept at a fifth of its size; the first is empty."""
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.poisson(3, (30, 8)).astype(np.float32))
    adata.X[0] = 0
    adata.obsm["spatial"] = rng.random((30, 2)) * [299, 99]
    adata.uns["spatial"] = {
        "one": {"images": {"hires": half_red(20, 60)}, "scalefactors": {"tissue_hires_scalef": 0.2}}
    }
    return adata


@pytest.fixture
def sdata(spots: ad.AnnData) -> spatialdata.SpatialData:
    """The same as elements, the picture at half the size of the coordinates."""
    xy = spots.obsm.pop("spatial")
    del spots.uns["spatial"]
    frame = gpd.GeoDataFrame({"radius": np.ones(30)}, geometry=[Point(*p) for p in xy], index=np.arange(30))
    shapes = ShapesModel.parse(frame, transformations={"global": Identity()})
    picture = Image2DModel.parse(
        half_red(50, 150).transpose(2, 0, 1),
        dims=("c", "y", "x"),
        transformations={"global": Scale([2, 2], ("x", "y"))},
    )
    spots.obs["region"] = pd.Categorical(["spots"] * 30)
    spots.obs["instance"] = np.arange(30)
    table = TableModel.parse(spots, region="spots", region_key="region", instance_key="instance")
    return spatialdata.SpatialData(shapes={"spots": shapes}, images={"he": picture}, tables={"table": table})


@pytest.mark.filterwarnings("ignore:1 of 30 cells have no counts")
def test_the_left_of_the_tissue_is_the_left_of_its_picture(spots: ad.AnnData):
    (image,) = cells(spots).images
    x = spots.obsm["spatial"][1:, 0]
    away = np.abs(x - 150) > 5
    np.testing.assert_array_equal(is_red(image)[away], (x < 150)[away])
    assert image.scale == pytest.approx(0.2)
    np.testing.assert_array_equal(image.rows, np.arange(29))  # the empty spot is not among the cells


@pytest.mark.filterwarnings("ignore:1 of 30 cells have no counts")
def test_an_element_is_found_through_its_transformation(sdata: Any):
    (image,) = cells(sdata).images
    x = cells(sdata).coords[:, 0]
    away = np.abs(x - 150) > 5
    np.testing.assert_array_equal(is_red(image)[away], (x < 150)[away])
    assert image.scale == pytest.approx(0.5)


@pytest.mark.filterwarnings("ignore:1 of 30 cells have no counts")
def test_each_slice_has_the_picture_of_its_library(spots: ad.AnnData):
    spots.obs["slide"] = np.where(np.arange(30) % 3, "one", "two")
    spots.uns["spatial"]["two"] = {
        "images": {"lowres": half_red(10, 30)[:, ::-1]},
        "scalefactors": {"tissue_lowres_scalef": 0.1},
    }
    found = cells(spots, library_key="slide")
    one, two = found.images
    assert (found.slice[one.rows] == 0).all()
    assert (found.slice[two.rows] == 1).all()
    assert len(one.rows) + len(two.rows) == 29
    left = found.coords[two.rows, 0] < 130
    assert not is_red(two)[left].any()  # mirrored
    with pytest.raises(MissingKeyError, match="library_key="):
        cells(spots)


@pytest.mark.filterwarnings("ignore:1 of 30 cells have no counts")
def test_what_is_not_there_is_said(spots: ad.AnnData, sdata: Any):
    with pytest.raises(MissingKeyError, match="hires"):
        sd_spots = sd.datasets.toy_domains(n_obs=30)
        sd_spots.uns["spatial"] = {"a": {"images": {"hires": half_red(5, 5)}}}
        cells(sd_spots, image_key="lowres")
    with pytest.raises(MissingKeyError, match="he"):
        cells(sdata, image_key="eh")
    sdata.images["other"] = sdata.images["he"]
    with pytest.raises(InputError, match="image_key="):
        cells(sdata)
    assert cells(sdata, image_key="he").images is not None
    assert cells(sd.datasets.toy_domains(n_obs=30)).images is None
    with pytest.raises(MissingKeyError, match="no image"):
        cells(sd.datasets.toy_domains(n_obs=30), image_key="hires")


def test_an_argument_that_the_method_does_not_read_is_refused():
    adata = sd.datasets.toy_domains(n_obs=30, slices=2)
    with pytest.raises(InputError, match="library_key="):
        cells(adata, Blind(), library_key="slice")
    with pytest.raises(InputError, match="image_key="):
        cells(adata, Blind(), image_key="hires")


def test_a_slice_that_is_missing_is_refused():
    adata = sd.datasets.toy_domains(n_obs=30, slices=2)
    adata.obs.loc[adata.obs_names[3], "slice"] = np.nan
    with pytest.raises(InputError, match="1 missing"):
        cells(adata, library_key="slice")


def test_spots_far_outside_are_refused_and_a_few_are_moved(spots: ad.AnnData):
    spots = spots[1:].copy()
    spots.uns["spatial"]["one"]["scalefactors"]["tissue_hires_scalef"] = 1.0
    (image,) = cells(spots).images
    with pytest.raises(InputError, match="scale factor"):
        image.inside(image.pixels().shape)
    many = ad.concat([spots] * 5, index_unique="-")
    many.uns["spatial"] = {"one": {"images": {"hires": half_red(100, 300)}, "scalefactors": {}}}
    many.obsm["spatial"][0] = [-4, 50]
    (image,) = cells(many).images
    with pytest.warns(UserWarning, match="1 of 145 spots"):
        assert (image.inside((100, 300)) >= 0).all()


def test_a_picture_may_have_one_or_four_channels(spots: ad.AnnData):
    spots = spots[1:].copy()
    images = spots.uns["spatial"]["one"]["images"]
    for shape, fine in (((20, 60), True), ((20, 60, 4), True), ((3, 20, 60), False)):
        images["hires"] = np.ones(shape)
        (image,) = cells(spots).images
        if fine:
            assert image.pixels().shape == (20, 60, 3)
        else:
            with pytest.raises(InputError, match="height, width, 3"):
                image.pixels()
