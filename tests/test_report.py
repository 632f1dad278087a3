"""The page of an object: what it tells, what it draws, that its code repeats the run, and that it needs nothing."""

from __future__ import annotations

import base64
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import scdance as sd
from scdance import _report
from scdance._checks import InputError, MissingKeyError, WrongTypeError
from scdance._core import registry

VOID = {"meta", "img", "br"}  # elements without an end
PNG = b"\x89PNG\r\n"
NASTY = 'a<b> & "c"'


class Page(HTMLParser):
    """A page taken apart: its text, its headings, its pictures, and what its attributes refer to."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.text, self.headings, self.code = "", [], ""
        self.refers: list[str] = []
        self.pictures: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.refers += [given[name] for name in ("src", "href", "action", "data", "srcset") if name in given]
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.pictures.append(given)
        if tag in ("h1", "h2"):
            self.headings.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings[-1] += data
        if "code" in self.open:
            self.code += data + "\n"


@pytest.fixture(scope="module")
def clustered() -> ad.AnnData:
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=3)
    sd.tl.cluster(adata, method="kmeans", n_clusters=3, random_state=7)
    return adata


@pytest.fixture(scope="module")
def mixed() -> tuple[ad.AnnData, ad.AnnData]:
    """Spots with a result, and their reference."""
    spots, ref = sd.datasets.toy_mixtures(n_obs=20)
    sd.tl.deconvolve(spots, ref, method="nnls", labels_key="cell_type")
    return spots, ref


@pytest.fixture(scope="module")
def imputed() -> ad.AnnData:
    """Cells with hidden molecules and the run of a smoother that was judged on others, and of a floor."""
    adata = sd.datasets.toy_clusters(n_obs=90, n_vars=60, k=3)
    sd.tl.hold_out(adata)
    sd.tl.impute(adata, method="magic", layer="counts_kept", output="counts", evaluate=True, n_components=10)
    sd.tl.impute(adata, method="gene_mean", genes=list(adata.var_names[:30]), key_added="floor")
    return adata


def of(data: Any, **given: Any) -> Page:
    return Page(sd.report(data, **given))


def repeated(text: str, **names: Any) -> None:
    """Run the code of a page on objects of ours in place of its placeholders."""
    lines = [line for line in text.splitlines() if " = ..." not in line]
    exec("\n".join(lines), names)


# The page


def test_a_page_asks_for_nothing_outside_itself(clustered: ad.AnnData):
    text = sd.report(clustered)
    page = Page(text)
    assert all(where.startswith(("data:image/png;base64,", "#")) for where in page.refers)
    assert {where[1:] for where in page.refers if where.startswith("#")} == set(page.ids)
    assert "default-src 'none'" in text
    assert not re.search(r"https?:|url\(|@import|<script", text)


def test_pictures_are_png_and_have_a_text(clustered: ad.AnnData):
    (picture,) = of(clustered).pictures
    assert base64.b64decode(picture["src"].partition(",")[2]).startswith(PNG)
    assert picture["alt"] == "60 cells in two dimensions, coloured by kmeans"


def test_names_cannot_break_the_page(clustered: ad.AnnData):
    adata = clustered.copy()
    sd.tl.cluster(adata, method="kmeans", n_clusters=2, key_added=NASTY)
    page = of(adata, title=NASTY)
    assert page.headings == [NASTY, "The object", "cluster · kmeans", f"cluster · {NASTY}"]


def test_a_path_gets_the_same_page_and_is_returned(clustered: ad.AnnData, tmp_path: Path):
    path = tmp_path / "new" / "page.html"
    assert sd.report(clustered, path) == path
    assert path.read_text(encoding="utf-8") == sd.report(clustered)


def test_the_object_and_the_settings_of_figures_stay_as_they_were(clustered: ad.AnnData):
    adata, before = clustered.copy(), dict(mpl.rcParams)
    sd.report(adata)
    assert dict(mpl.rcParams) == before
    assert [list(getattr(adata, name)) for name in ("obs", "obsm", "uns")] == [
        list(getattr(clustered, name)) for name in ("obs", "obsm", "uns")
    ]


def test_no_window_system_is_asked_for(clustered: ad.AnnData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it now fails
    assert len(of(clustered).pictures) == 1


# What it tells


def test_the_record_is_told_in_words(clustered: ad.AnnData):
    text = of(clustered).text
    told = ["60", "csr_matrix, int32", "kmeans: Cluster by k-means", "Lloyd1982", "X (counts), 60 × 40 used"]
    assert all(each in text for each in told)
    assert "]_" not in text  # the mark of a citation belongs to the documentation


def test_sizes_of_the_clusters_are_those_in_the_object(clustered: ad.AnnData):
    sizes = clustered.obs["kmeans"].value_counts()
    shown = sd.report(clustered)
    for name, size in sizes.items():
        row = f"<tr><th scope=row>{name}</th><td class=number>{size}</td><td class=number>{size / 60:.3g}</td></tr>"
        assert row in shown


def test_cells_without_a_cluster_are_counted():
    adata = sd.datasets.toy_clusters(n_obs=40, n_vars=40, k=2)
    adata.X = adata.X.multiply(np.arange(40)[:, None] != 3).tocsr()
    with pytest.warns(UserWarning, match="no counts"):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2)
    assert "<tr><th scope=row>missing</th><td class=number>1</td>" in sd.report(adata)


def test_notes_that_are_tables_are_shown_as_such(clustered: ad.AnnData):
    adata = clustered.copy()
    table = pd.DataFrame({"n_clusters": [2, 3], "score": [0.25, np.nan]})
    adata.uns["scdance"]["cluster"]["kmeans"]["notes"] = {"k_selection": table, "n_filled": 3}
    shown = sd.report(adata)
    assert "<td class=number>2</td><td class=number>0.25</td>" in shown
    assert "<td class=number>3</td><td class=number>–</td>" in shown
    assert "<tr><th scope=row>n_filled</th><td>3</td></tr>" in shown


def test_a_training_is_drawn(clustered: ad.AnnData):
    adata = clustered.copy()
    adata.uns["scdance"]["cluster"]["kmeans"] |= {
        "history": {"training_loss": np.array([3.0, 2.0, 1.5])}, "epochs": 3, "stopped": "training: all 3 epochs",
    }  # fmt: skip
    page = of(adata)
    assert "training: all 3 epochs" in page.text
    assert [each["alt"].partition(":")[0] for each in page.pictures][1:] == ["Curves of the training of kmeans"]


def test_what_was_removed_is_said_to_be_gone(clustered: ad.AnnData):
    adata = clustered.copy()
    del adata.obs["kmeans"]
    page = of(adata)
    assert "The result is no longer in the object." in page.text
    assert page.pictures == []


def test_a_file_read_back_gives_the_same_page(clustered: ad.AnnData, tmp_path: Path):
    clustered.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert of(back).code == of(clustered).code
    assert sd.report(back).split("cluster · kmeans")[2] == sd.report(clustered).split("cluster · kmeans")[2]


def test_the_size_is_that_of_all_matrices(clustered: ad.AnnData):
    adata = clustered.copy()
    adata.layers["dense"] = np.zeros((60, 40))
    sparse = 60 * 40 - (adata.X.toarray() == 0).sum()  # values, each with its column
    mb = (sparse * (4 + adata.X.indices.itemsize) + 61 * adata.X.indptr.itemsize + 60 * 40 * 8) / 1e6
    assert f"<td>dense</td><td class=number>{mb:.3g}</td>" in sd.report(adata)


@pytest.mark.parametrize("kind", ["view", "backed", "no X"])
def test_objects_of_every_storage_are_told(clustered: ad.AnnData, tmp_path: Path, kind: str):
    clustered.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad", backed="r" if kind == "backed" else None)
    if kind == "view":
        adata = adata[10:40]
    elif kind == "no X":
        adata.X = None
    assert len(of(adata).pictures) == 1


# What it draws


@pytest.mark.parametrize(
    ("given", "caption"),
    [
        ({}, "Map: obsm['X_tsne'], as it was found in the object."),
        ({"basis": "mine"}, "Map: obsm['X_mine'], as it was found in the object."),
        ({"basis": "X_mine"}, "Map: obsm['X_mine'], as it was found in the object."),
    ],
)
def test_a_map_of_the_object_is_used_and_named(clustered: ad.AnnData, given: dict[str, str], caption: str):
    adata = clustered.copy()
    adata.obsm["X_tsne"] = adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(60, 2))
    assert caption in of(adata, **given).text


def test_without_a_map_principal_components_are_drawn_and_named(clustered: ad.AnnData):
    n = clustered.obsm["X_kmeans"].shape[1]
    assert f"the first two principal components of the run's embedding of {n} dimensions" in of(clustered).text


def test_principal_components_are_those_of_a_singular_value_decomposition():
    z = np.random.default_rng(0).normal(size=(30, 5)) * [5, 4, 3, 2, 1] + 7
    u, s, _ = np.linalg.svd(z - z.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(_report._components(z)), np.abs(u * s)[:, :2], atol=1e-8)


def test_spots_are_drawn_at_their_places_else_as_bars(mixed: Any):
    spots = mixed[0].copy()
    assert of(spots).pictures[0]["alt"] == "20 spots at their places: a pie of types for each spot"
    spots.obsm["places"] = spots.obsm.pop("spatial")
    assert of(spots).pictures[0]["alt"] == "Mean share of 3 types as bars"
    assert "at their places" in of(spots, spatial_key="places").pictures[0]["alt"]


def test_mean_proportions_are_those_in_the_object(mixed: Any):
    shown = sd.report(mixed[0])
    for name, mean in mixed[0].obsm["nnls"].mean().items():
        assert f"<tr><th scope=row>{name}</th><td class=number>{mean:.3g}</td>" in shown


def test_more_clusters_than_colours_are_one_colour():
    adata = sd.datasets.toy_clusters(n_obs=240, n_vars=40, k=3)
    sd.tl.cluster(adata, method="kmeans", n_clusters=110, n_init=1)
    adata.obs = adata.obs[["kmeans"]]
    assert of(adata).pictures[0]["alt"] == "240 cells in two dimensions, coloured by nothing"


def test_of_imputation_what_is_there_is_drawn(imputed: ad.AnnData):
    told = [picture["alt"] for picture in of(imputed).pictures]
    assert sorted(told) == [
        "floor: imputed values of a gene by its count",
        "magic: imputed values of a gene by its count; held-out counts by what was expected; imputability of the genes",
    ]


def test_what_became_of_zeros_and_counts_is_told(imputed: ad.AnnData):
    shown = sd.report(imputed)
    assert "30 of 60 genes, in the unit lognorm." in shown
    seen, values = imputed.layers["counts_kept"].toarray(), imputed.layers["magic"]
    for name, there in (("nothing counted", seen == 0), ("counted", seen > 0)):
        numbers = (there.mean(), values[there].mean(), (values[there] == 0).mean())
        cells = "".join(f"<td class=number>{_report._shown(float(each))}</td>" for each in numbers)
        assert f"<tr><th scope=row>{name}</th>{cells}" in shown


def test_the_candidates_of_an_evaluation_are_a_table(imputed: ad.AnnData):
    shown, run = sd.report(imputed), imputed.uns["scdance"]["impute"]["magic"]
    scores = run["notes"]["evaluation"]
    assert shown.count("Prediction of held-out molecules") == 1
    assert f"<tr><th scope=row>chosen</th><td>t {run['params']['t']}</td>" in shown
    for loss in scores["candidates"]["poisson_loss"]:
        assert f"<td class=number>{loss:.3g}</td>" in shown


def test_an_imputation_whose_counts_were_removed_is_still_told(imputed: ad.AnnData):
    adata = imputed.copy()
    del adata.layers["counts_kept"]
    page = of(adata)
    assert "60 of 60 genes" in page.text
    assert len(page.pictures) == 2


# Other objects


def test_records_of_a_mudata_and_of_its_modalities_are_told():
    mdata = sd.datasets.toy_pairs(n_obs=60, n_genes=50, n_proteins=8, k=3)
    sd.tl.joint_embed(mdata, method="svd_concat", n_source=5, n_target=3)
    sd.tl.cluster(mdata["rna"], method="kmeans", n_clusters=3)
    page = of(mdata)
    assert page.headings[1:] == ["The object", "joint_embed · svd_concat", "cluster · kmeans · rna"]
    first, second = mdata.obsm["X_svd_concat"].copy(), mdata["rna"].obs["kmeans"].copy()
    repeated(page.code, mdata=mdata)
    np.testing.assert_array_equal(mdata.obsm["X_svd_concat"], first)
    pd.testing.assert_series_equal(mdata["rna"].obs["kmeans"], second)


def test_records_of_all_tables_of_a_spatialdata_are_told_at_their_places(mixed: Any):
    import geopandas as gpd
    import spatialdata
    from shapely import Point
    from spatialdata.models import ShapesModel, TableModel

    spots = mixed[0].copy()
    ids = np.arange(spots.n_obs)
    spots.obs["region"] = pd.Categorical(["spots"] * spots.n_obs)
    spots.obs["id"] = ids
    circles = gpd.GeoDataFrame({"radius": np.ones(len(ids))}, geometry=[Point(*p) for p in spots.obsm.pop("spatial")])
    table = TableModel.parse(spots, region="spots", region_key="region", instance_key="id")
    other = sd.datasets.toy_clusters(n_obs=40, n_vars=40, k=2)
    sd.tl.cluster(other, method="kmeans", n_clusters=2)
    sdata = spatialdata.SpatialData(
        shapes={"spots": ShapesModel.parse(circles)}, tables={"spots_table": table, "cells": other}
    )
    page = of(sdata)
    assert page.headings[1:] == ["The object", "deconvolve · nnls · spots_table", "cluster · kmeans · cells"]
    assert page.pictures[0]["alt"].startswith("20 spots at their places")
    before = table.obsm["nnls"].copy()
    repeated(page.code, sdata=sdata, ref=mixed[1])
    pd.testing.assert_frame_equal(table.obsm["nnls"], before)


def test_of_a_screen_the_genes_that_change_most_are_named_and_the_code_repeats_the_call():
    adata = sd.datasets.toy_perturbed(200, 40, 3, 2, n_de=10)
    fresh, names = adata.copy(), ["gene_2", "gene_1+gene_0"]
    sd.tl.predict_perturbation(adata, "additive", perturbation_key="perturbation", targets=names)
    page, change = of(adata), adata.varm["additive_change"]
    for name in names:
        assert ", ".join(change[name].sort_values().index[:5]) in page.text
        assert ", ".join(change[name].sort_values(ascending=False).index[:5]) in page.text
    repeated(page.code, adata=fresh)
    pd.testing.assert_frame_equal(fresh.varm["additive_change"], change)


def test_genes_that_were_asked_by_name_are_asked_again_by_the_code():
    adata, ref = sd.datasets.toy_panel(100, 40, 30)
    fresh = adata.copy()
    sd.tl.predict_genes(adata, ref, "knn", genes=["gene_3", "gene_1"], n_neighbors=20)
    page = of(adata)
    assert "labels_key" not in page.code
    repeated(page.code, adata=fresh, ref=ref)
    np.testing.assert_array_equal(fresh.obsm["knn"], adata.obsm["knn"])


# The code


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"method": "leiden"}, 'sd.tl.cluster(adata, method="leiden", random_state=0)'),
        (
            {"method": "kmeans", "n_clusters": 3, "scale": True, "random_state": 4, "key_added": "again"},
            'scale=True,\n    random_state=4,\n    key_added="again",\n)',
        ),
        ({"method": "kmeans", "n_clusters": 3, "layer": "raw"}, 'layer="raw"'),
        ({"method": "kmeans", "n_clusters": 3, "layer": "counts"}, 'method="kmeans", n_clusters=3, random_state=0)'),
        ({"method": "kmeans", "n_clusters": 3, "use_rep": "X_mine"}, 'use_rep="X_mine"'),
        ({"method": "kmeans", "n_clusters": 3, "recipe": None}, "recipe=None"),
    ],
)
def test_the_code_repeats_the_call(given: dict[str, Any], line: str):
    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=3)
    adata.layers["raw"] = adata.X * 2
    adata.layers["counts"] = adata.X.copy()
    adata.obsm["X_mine"] = np.random.default_rng(0).normal(size=(60, 4))
    fresh = adata.copy()
    sd.tl.cluster(adata, **given)
    code = of(adata).code
    assert line in code
    repeated(code, adata=fresh)
    records = [dict(each.uns["scdance"]["cluster"][given.get("key_added", given["method"])]) for each in (adata, fresh)]
    key = given.get("key_added", given["method"])
    pd.testing.assert_series_equal(fresh.obs[key], adata.obs[key])
    assert records[0]["params"] == records[1]["params"]
    assert records[0]["input"] == records[1]["input"]


def test_only_what_differs_from_the_preset_is_typed(clustered: ad.AnnData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry.get("cluster", "kmeans"), "presets", {"paper": {"scale": True, "n_init": 3}})
    adata = clustered.copy()
    sd.tl.cluster(adata, method="kmeans", preset="paper", n_clusters=3, n_components=4)
    (run,) = _report.runs_of(adata)
    words = re.findall(r"(\w+)=", _report.call_of(run))
    assert words == ["method", "preset", "n_clusters", "n_components", "random_state"]


def test_a_parameter_that_was_set_to_none_is_typed_unless_another_version_ran(clustered: ad.AnnData):
    adata = clustered.copy()
    record = adata.uns["scdance"]["cluster"]["kmeans"]
    del record["params"]["n_init"]  # records leave None out
    assert "n_init=None" in of(adata).code
    record["version"] = "0.0.1"
    assert "n_init" not in of(adata).code


def test_a_method_that_is_not_in_scdance_is_told_as_such(clustered: ad.AnnData):
    adata = clustered.copy()
    adata.uns["scdance"]["cluster"]["kmeans"]["method"] = "mymethod"
    page = of(adata)
    assert "mymethod: A method of your own." in page.text
    assert "n_init=20" in page.code  # its defaults are not known


def test_a_reference_is_a_placeholder_and_a_table_of_profiles_has_no_labels(mixed: Any):
    spots, ref = mixed
    assert "ref = ...  # annotated cells: " in of(spots).code
    assert 'ref, method="nnls", labels_key="cell_type"' in of(spots).code
    profiles = ref.to_df().groupby(ref.obs["cell_type"].astype(str)).mean()
    plain = spots.copy()
    sd.tl.deconvolve(plain, profiles, method="nnls")
    code = of(plain).code
    assert "ref = ...  # a table of profiles, one row per type: 3 of them were used" in code
    assert "labels_key" not in code


# Errors


def test_an_object_without_runs_is_told_which_call_to_make():
    with pytest.raises(InputError, match=r"no run record.*First call `scdance\.tl\.\w+\(adata, …\)`"):
        sd.report(sd.datasets.toy_clusters(n_obs=40, n_vars=40, k=2))
    with pytest.raises(InputError, match=r"First call `scdance\.tl\.joint_embed\(mdata, …\)`"):
        sd.report(sd.datasets.toy_pairs(n_obs=40, n_genes=50, n_proteins=5, k=2))


def test_other_objects_and_maps_are_refused(clustered: ad.AnnData):
    with pytest.raises(WrongTypeError, match="found DataFrame"):
        sd.report(pd.DataFrame())
    with pytest.raises(MissingKeyError, match=r"No 'umap' in `obsm`; it has X_kmeans"):
        sd.report(clustered, basis="umap")
    adata = clustered.copy()
    adata.obsm["X_flat"] = np.zeros((60, 1))
    with pytest.raises(InputError, match=r"shape \(60, 1\); a map needs two"):
        sd.report(adata, basis="flat")


def test_a_result_made_from_others_names_its_own_tool():
    from scdance import _report

    adata = sd.datasets.toy_clusters(n_obs=60, n_vars=40, k=2, n_de=10)
    for seed in range(2):
        sd.tl.cluster(adata, method="kmeans", n_clusters=2, random_state=seed, key_added=f"run{seed}")
    sd.tl.consensus(adata, ["run0", "run1"])
    (run,) = [each for each in _report.runs_of(adata) if each.key == "consensus"]
    line = _report.call_of(run)
    assert line.startswith("sd.tl.consensus(")
    exec(line, {"sd": sd, "adata": adata})
    assert "Made from other results by sd.tl.consensus" in _report.told(run)["method"]


def test_the_code_repeats_an_imputation_and_leaves_what_was_chosen_to_be_chosen(imputed: ad.AnnData):
    again = imputed.copy()
    code = of(imputed).code
    assert 'layer="counts_kept"' in code
    assert "evaluate=True" in code
    assert " t=" not in code
    for name in ("magic", "floor"):
        again.layers[name][:] = 0
    repeated(code, adata=again)
    for name in ("magic", "floor"):
        np.testing.assert_array_equal(again.layers[name], imputed.layers[name])
    first, second = (each.uns["scdance"]["impute"]["magic"]["notes"]["evaluation"] for each in (imputed, again))
    np.testing.assert_array_equal(first["candidates"]["t"], second["candidates"]["t"])
