"""Objects that are more than one table: SpatialData with its places, MuData with its modalities."""

from __future__ import annotations

from typing import Any

import anndata as ad
import geopandas as gpd
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import spatialdata
from shapely import Point
from spatialdata.models import Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

import scdance as sd
from scdance._checks import InputError, MissingKeyError, WrongTypeError
from scdance._core.cells import Pair
from scdance._core.method import Method
from scdance._core.objects import places, two_modalities
from scdance._core.task import DECONVOLVE
from scdance.pp import Recipe

SEED = 0


class Placed(Method):
    """Says of each spot that it is of the first type, and keeps where it lies."""

    needs = ("counts", "coords", "ref.labels")
    inductive = False
    recipe = Recipe()
    seen = []

    def fit(self, *, ref: Any, cells: Any) -> Any:
        self.n_types_ = len(ref.categories)
        return self

    def predict(self, *, cells: Any) -> dict[str, Any]:
        type(self).seen.append(cells.coords)
        shares = np.zeros((cells.n_obs, self.n_types_))
        shares[:, 0] = 1
        return {"proportions": shares, "top": np.zeros(cells.n_obs, dtype=int)}


def circles(xy: np.ndarray, ids: Any, **transformations: Any) -> Any:
    frame = gpd.GeoDataFrame({"radius": np.ones(len(xy))}, geometry=[Point(*p) for p in xy], index=ids)
    return ShapesModel.parse(frame, transformations=transformations or {"global": Identity()})


def table(spots: ad.AnnData, region: Any, instances: Any) -> ad.AnnData:
    spots = spots.copy()
    spots.obs["region"] = pd.Categorical(np.broadcast_to(region, spots.n_obs))
    spots.obs["instance_id"] = instances
    return TableModel.parse(spots, region=list(np.unique(region)), region_key="region", instance_key="instance_id")


@pytest.fixture
def toys() -> tuple[ad.AnnData, ad.AnnData]:
    spots, ref = sd.datasets.toy_mixtures(n_obs=20, random_state=SEED)
    spots.uns.clear()
    return spots, ref


@pytest.fixture
def xy(toys: Any) -> np.ndarray:
    """Places of the spots; the object itself gives none."""
    places = toys[0].obsm.pop("spatial")
    return places


@pytest.fixture
def sdata(toys: Any, xy: np.ndarray) -> spatialdata.SpatialData:
    """Spots whose shapes lie in another order than the rows of the table."""
    order = np.random.default_rng(SEED).permutation(20)
    shapes = circles(xy[order], ids=order + 100)
    return spatialdata.SpatialData(
        shapes={"spots": shapes}, tables={"table": table(toys[0], "spots", np.arange(20) + 100)}
    )


def where(sdata: Any, name: str = "table", system: str = "global") -> Any:
    return places(sdata, sdata.tables[name], spatial_key="spatial", coordinate_system=system)


# ------------------------------------------------------------------ places


def test_centroids_are_matched_on_the_instance_and_not_on_the_order(sdata: Any, xy: np.ndarray):
    np.testing.assert_allclose(where(sdata), xy)


def test_a_method_gets_the_coordinates_of_the_spots_with_counts_only(sdata: Any, toys: Any, xy: np.ndarray):
    x = sdata.tables["table"].X.tolil()
    x[3] = 0
    sdata.tables["table"].X = x.tocsr()
    with pytest.warns(UserWarning, match="1 of 20 cells have no counts"):
        sd.tl.deconvolve(sdata, toys[1], Placed, labels_key="cell_type")
    np.testing.assert_allclose(Placed.seen[-1], np.delete(xy, 3, axis=0))
    assert np.isnan(sdata.tables["table"].obsm["placed"].iloc[3]).all()
    assert pd.isna(sdata.tables["table"].obs["placed_top"].iloc[3])


def test_the_background_of_a_label_image_is_no_spot(toys: Any):
    image = np.zeros((40, 50), dtype=np.int32)
    for i in range(20):
        image[8 * (i // 5) + 2 : 8 * (i // 5) + 5, 10 * (i % 5) + 1 : 10 * (i % 5) + 4] = 20 - i
    labels = Labels2DModel.parse(image, dims=("y", "x"))
    instances = np.arange(20) + 1
    found = where(
        spatialdata.SpatialData(labels={"cells": labels}, tables={"table": table(toys[0], "cells", instances)})
    )
    for i, instance in enumerate(instances):
        rows, columns = np.nonzero(image == instance)
        np.testing.assert_allclose(found[i], [columns.mean() + 0.5, rows.mean() + 0.5])  # of pixel areas


def test_each_region_gives_the_places_of_its_own_rows(toys: Any, xy: np.ndarray):
    region = np.where(np.arange(20) % 2, "left", "right")
    ids = np.arange(20) // 2  # the same in both
    shapes = {side: circles(xy[region == side][::-1], ids[region == side][::-1]) for side in ("left", "right")}
    found = where(spatialdata.SpatialData(shapes=shapes, tables={"table": table(toys[0], region, ids)}))
    np.testing.assert_allclose(found, xy)


def test_a_scale_leads_into_the_named_coordinate_system(toys: Any, xy: np.ndarray):
    shapes = circles(xy, np.arange(20), pixels=Identity(), microns=Scale([0.5, 0.25], axes=("x", "y")))
    sdata = spatialdata.SpatialData(shapes={"spots": shapes}, tables={"table": table(toys[0], "spots", np.arange(20))})
    np.testing.assert_allclose(where(sdata, system="pixels"), xy)
    np.testing.assert_allclose(where(sdata, system="microns"), xy * [0.5, 0.25])
    with pytest.raises(MissingKeyError, match=r"no coordinate system 'global'; it has pixels, microns"):
        where(sdata)


def test_a_table_that_annotates_nothing_gives_its_own_coordinates_or_none(toys: Any, xy: np.ndarray):
    sdata = spatialdata.SpatialData(tables={"table": toys[0]})
    assert where(sdata) is None
    toys[0].obsm["spatial"] = xy
    np.testing.assert_array_equal(where(spatialdata.SpatialData(tables={"table": toys[0]})), xy)


def test_without_coordinates_a_method_that_needs_none_runs_and_another_says_what_to_pass(toys: Any, xy: np.ndarray):
    sdata = spatialdata.SpatialData(tables={"table": toys[0]})
    sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type")
    assert "nnls" in sdata.tables["table"].obsm
    with pytest.raises(MissingKeyError, match=r"Placed needs the coordinates.*no `obsm\['spatial'\]`.*`spatial_key=`"):
        sd.tl.deconvolve(sdata, toys[1], Placed, labels_key="cell_type")


def test_a_row_of_an_instance_that_is_not_there_is_refused(sdata: Any):
    sdata.tables["table"].obs["instance_id"] = np.arange(20) + 105
    with pytest.raises(InputError, match=r"5 rows of the table annotate instances that 'spots' does not have \(120, "):
        where(sdata)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (np.zeros((20, 2)), "hold 1 different places for 20 spots"),
        (np.full((20, 2), np.nan), "missing or infinite for 20 of 20 spots"),
        (np.zeros((20, 4)), r"has shape \(20, 4\)"),
    ],
    ids=["all the same", "missing", "four dimensions"],
)
def test_coordinates_that_lay_nothing_out_are_refused(toys: Any, xy: np.ndarray, bad: np.ndarray, says: str):
    toys[0].obsm["spatial"] = bad
    with pytest.raises(InputError, match=says):
        sd.tl.deconvolve(toys[0], toys[1], Placed, labels_key="cell_type")


# ------------------------------------------------------------------ SpatialData as an object


def test_results_go_into_the_table_and_are_those_of_the_same_anndata(sdata: Any, toys: Any):
    sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type")
    sd.tl.deconvolve(toys[0], toys[1], "nnls", labels_key="cell_type")
    pd.testing.assert_frame_equal(sdata.tables["table"].obsm["nnls"], toys[0].obsm["nnls"])
    assert "deconvolve" in sdata.tables["table"].uns["scdance"]


def test_of_several_tables_one_has_to_be_named(sdata: Any, toys: Any):
    sdata.tables["other"] = toys[0].copy()
    with pytest.raises(InputError, match=r"has 2 tables \(table, other\); pass one of them as `table_key=`"):
        sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type")
    with pytest.raises(MissingKeyError, match=r"no table 'othr'.*Did you mean 'other'"):
        sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type", table_key="othr")
    sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type", table_key="other")
    assert "nnls" in sdata.tables["other"].obsm
    assert "nnls" not in sdata.tables["table"].obsm


def test_a_copy_has_a_table_of_its_own_and_shares_the_rest(sdata: Any, toys: Any):
    new = sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type", copy=True)
    assert isinstance(new, spatialdata.SpatialData)
    assert "nnls" in new.tables["table"].obsm
    assert "nnls" not in sdata.tables["table"].obsm
    assert new.shapes["spots"] is sdata.shapes["spots"]


@pytest.mark.filterwarnings("ignore")  # of zarr and ome-zarr, about themselves
def test_a_spatialdata_with_results_is_read_back_as_it_was_written(sdata: Any, toys: Any, tmp_path: Any):
    sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type")
    sdata.write(tmp_path / "s.zarr")
    back = spatialdata.read_zarr(tmp_path / "s.zarr").tables["table"]
    pd.testing.assert_frame_equal(back.obsm["nnls"], sdata.tables["table"].obsm["nnls"])
    sd.tl.deconvolve(
        spatialdata.read_zarr(tmp_path / "s.zarr"), toys[1], "nnls", labels_key="cell_type"
    )  # claims its slots


@pytest.mark.filterwarnings("ignore")  # of both packages, about matplotlib
def test_spatialdata_plots_and_squidpy_draw_what_was_written(sdata: Any, toys: Any, xy: np.ndarray):
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401, adds `pl`
    import squidpy as sq

    sd.tl.deconvolve(sdata, toys[1], "nnls", labels_key="cell_type")
    sdata.pl.render_shapes("spots", color="nnls_top").pl.show()
    adata = sdata.tables["table"].copy()
    adata.obsm["spatial"] = xy
    sq.pl.spatial_scatter(adata, color="nnls_top", shape=None)
    plt.close("all")


def test_other_objects_are_refused_with_what_to_pass(toys: Any):
    spots, ref = toys
    with pytest.raises(WrongTypeError, match=r"Expected AnnData or SpatialData, found str.*spatialdata.read_zarr"):
        sd.tl.deconvolve("spots.h5ad", ref, labels_key="cell_type")
    with pytest.raises(WrongTypeError, match=r"Expected MuData, found AnnData.*Join the layers"):
        sd.tl.joint_embed(spots)
    with pytest.raises(WrongTypeError, match=r"Expected AnnData, found SpatialData.*sdata.tables\['table'\]"):
        sd.tl.cluster(spatialdata.SpatialData(tables={"table": spots}))
    with pytest.raises(InputError, match="`table_key` names a table of a SpatialData, but this is AnnData"):
        sd.tl.deconvolve(spots, ref, labels_key="cell_type", table_key="table")


# ------------------------------------------------------------------ modalities


def multi(*names: str, n: int = 6) -> mudata.MuData:
    mods = {}
    for name in names:
        x = sp.csr_matrix(np.random.default_rng(SEED).poisson(2, (n, 5)).astype(np.float32))
        mods[name] = ad.AnnData(x, var=pd.DataFrame(index=[f"{name}_{i}" for i in range(5)]))
    with mudata.set_options(pull_on_update=False):
        return mudata.MuData(mods)


@pytest.mark.parametrize(
    ("there", "asked", "found"),
    [
        (("rna", "prot"), (None, None), ("rna", "prot")),
        (("adt", "gex"), (None, None), ("gex", "adt")),
        (("rna", "prot"), ("prot", None), ("prot", "rna")),
        (("rna", "prot"), (None, "rna"), ("prot", "rna")),
        (("gex", "peaks", "adt"), ("rna", "atac"), ("gex", "peaks")),
        (("rna", "adt"), ("rna", "protein"), ("rna", "adt")),
        (("a", "b"), ("b", "a"), ("b", "a")),
    ],
)
def test_modalities_are_found_by_name_or_alias(there: Any, asked: Any, found: Any):
    assert two_modalities(multi(*there), *asked) == found


@pytest.mark.parametrize(
    ("there", "asked", "error", "says"),
    [
        (("rna",), (None, None), InputError, "has 1 modality"),
        (("rna", "prot", "atac"), (None, None), InputError, "has 3 modalities.*`source=` and `target=`"),
        (("rna", "prot"), ("rna", "rna"), InputError, "are both 'rna'"),
        (("rna", "prot"), ("rna", "atac"), MissingKeyError, "no modality 'atac'; it has rna, prot.*`target=`"),
        (("rna", "adt", "prot"), ("rna", "protein"), MissingKeyError, "'adt', 'prot' could be meant"),
    ],
)
def test_modalities_that_cannot_be_meant_are_refused(there: Any, asked: Any, error: Any, says: str):
    with pytest.raises(error, match=says):
        two_modalities(multi(*there), *asked)


def test_a_pair_knows_where_each_cell_stands_in_either_modality():
    class Side:
        def __init__(self, names: str) -> None:
            self.obs_names = np.array(list(names))

    pair = Pair.of(Side("dbc"), Side("cax"), np.array(list("abcdez")))  # type: ignore[arg-type]
    assert pair.obs_names.tolist() == list("abcd")
    assert pair.at.tolist() == [[-1, 1], [1, -1], [2, 0], [0, -1]]
    assert pair.both.tolist() == [[2, 0]]
    assert (pair.rows.tolist(), pair.n_obs_in) == ([0, 1, 2, 3], 6)


def test_modalities_without_a_common_cell_are_refused():
    mdata = multi("rna", "prot")
    mdata.mod["prot"].obs_names = [f"other_{i}" for i in range(6)]
    with mudata.set_options(pull_on_update=False):
        mdata = mudata.MuData(dict(mdata.mod))
    with pytest.raises(InputError, match=r"No cell is in both modalities: 0, 1, 2.* in 'rna', other_0"):
        sd.tl.joint_embed(mdata)


def test_a_task_names_the_objects_it_takes():
    assert DECONVOLVE.data == ("AnnData", "SpatialData")
