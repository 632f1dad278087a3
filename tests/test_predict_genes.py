"""Genes that a panel lacks: which are asked, what is read and what is not, kinds of input, files, errors."""

from __future__ import annotations

from typing import Any, Self

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scdance as sd
from scdance._checks import InputError, MissingKeyError, ScdanceError, UnknownParameterError, WrongTypeError
from scdance._core.cells import Cells
from scdance._core.method import Method
from scdance._core.registry import get, names

TASK = "predict_genes"
METHODS = [name for name in names(TASK) if not get(TASK, name).extras]  # without those that need a package
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def both() -> tuple[ad.AnnData, ad.AnnData]:
    return sd.datasets.toy_panel(120, 100, 80)


@pytest.fixture
def adata(both: Any) -> ad.AnnData:
    return both[0]


@pytest.fixture
def ref(both: Any) -> ad.AnnData:
    return both[1]


QUICK = {"hidden": 32, "n_layers": 1, "n_latent": 8, "steps": 10, "progress": False}


def predicted(adata: Any, ref: Any, method: Any = "knn", *, key: str = "mine", **typed: Any) -> pd.DataFrame:
    """The prediction with the names of its genes; of the net a small one."""
    small = QUICK if method == "cellplm" else {}
    sd.tl.predict_genes(adata, ref, method, key_added=key, **small, **typed)
    return sd.get.genes(adata, key).to_df()


def logs(ref: ad.AnnData) -> pd.DataFrame:
    x = ref.X.toarray().astype(float)
    return pd.DataFrame(np.log1p(1e4 * x / x.sum(axis=1, keepdims=True)), ref.obs_names, ref.var_names)


# ------------------------------------------------------------------ the floors


def test_the_mean_of_the_reference_is_that_of_its_logs(adata: ad.AnnData, ref: ad.AnnData):
    found = predicted(adata, ref, "ref_mean", genes=["gene_7", "gene_2"])
    assert list(found) == ["gene_7", "gene_2"]
    expected = logs(ref)[["gene_7", "gene_2"]].mean()
    np.testing.assert_allclose(found, np.tile(expected, (120, 1)), rtol=1e-5)
    np.testing.assert_allclose(sd.get.genes(adata, "mine").var["mean"], expected, rtol=1e-5)


def test_the_nearest_cells_are_those_of_like_direction_in_components_of_both_sides(adata: ad.AnnData, ref: ad.AnnData):
    found = predicted(adata, ref, genes=list(adata.var_names[:10]), n_neighbors=7, n_components=4)
    common = adata.var_names[10:]
    sides = []
    for each in (adata, ref):
        x = each[:, common].X.toarray().astype(float)
        depth = x.sum(axis=1, keepdims=True)
        x = np.log1p(x * np.median(depth) / depth)
        sides.append(np.clip((x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0, ddof=1), 1), -3, 3))
    joint = np.vstack(sides)
    joint = joint - joint.mean(axis=0)
    scores = joint @ np.linalg.svd(joint, full_matrices=False)[2][:4].T
    scores /= np.linalg.norm(scores, axis=1, keepdims=True)
    near = np.argsort(-scores[:120] @ scores[120:].T, axis=1)[:, :7]
    expected = logs(ref)[adata.var_names[:10]].to_numpy()[near].mean(axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_neighbours_tell_more_than_the_mean(adata: ad.AnnData, ref: ad.AnnData):
    genes = list(adata.var_names[:20])
    scores = {}
    for method in ("ref_mean", "knn"):
        predicted(adata, ref, method, key=method, genes=genes)
        scores[method] = sd.metrics.score(adata, TASK, key=method).loc[method]
    assert scores["ref_mean"]["gene_pearson"] == 0
    assert scores["knn"]["gene_pearson"] > 0.2
    assert scores["knn"]["gene_rmse"] < scores["ref_mean"]["gene_rmse"]


# ------------------------------------------------------------------ which genes are asked


def test_without_names_the_genes_that_vary_most_and_are_lacking_are_asked(
    adata: ad.AnnData, ref: ad.AnnData, monkeypatch: Any
):
    from scdance._core import read
    from scdance.pp import Recipe, gene_deviance

    silent = ref.var_names[~ref.var_names.isin(adata.var_names)][0]
    x = ref.X.toarray()
    x[:, ref.var_names == silent] = 0
    ref.X = sp.csr_matrix(x)
    found = predicted(adata, ref)
    lacking = [name for name in ref.var_names if name not in adata.var_names and name != silent]
    assert list(found) == lacking and found.shape == (120, 19)
    monkeypatch.setattr(read, "VARYING", Recipe(filter_genes={"min_counts": 1}, select_genes={"n_top": 5}))
    deviance = pd.Series(gene_deviance(ref.X, x.sum(axis=1)), ref.var_names)[lacking]
    assert set(predicted(adata, ref)) == set(deviance.nlargest(5).index)


@every_method
def test_what_is_asked_is_not_read_of_the_panel(adata: ad.AnnData, ref: ad.AnnData, method: str):
    genes = [*adata.var_names[:6], *ref.var_names[~ref.var_names.isin(adata.var_names)][:3]]
    one, record = predicted(adata, ref, method, genes=genes), adata.uns["scdance"][TASK]["mine"]
    other = adata.copy()
    x = adata.X.toarray().astype(np.float32)
    x[:, :6] = np.random.default_rng(0).poisson(50, (120, 6))
    x[0, 0] = np.nan  # which would be refused
    other.X = x
    np.testing.assert_array_equal(one, predicted(other, ref, method, genes=genes))
    without = adata[:, 6:].copy()
    np.testing.assert_array_equal(one, predicted(without, ref, method, genes=genes))
    assert record["features"]["common"].tolist() == [name for name in ref.var_names if name in adata.var_names[6:]]


@every_method
def test_labels_and_genes_that_nobody_shares_say_nothing(adata: ad.AnnData, ref: ad.AnnData, method: str):
    one = predicted(adata, ref, method)
    del ref.obs["cell_type"], adata.obs["cell_type"]
    more = ad.AnnData(np.full((120, 2), 9), adata.obs, pd.DataFrame(index=["only_here", "also"]))
    wider = ad.concat([adata, more], axis=1, merge="same")
    np.testing.assert_array_equal(one, predicted(wider, ref, method))


def test_a_method_sees_common_genes_and_beside_them_the_target_in_its_unit(adata: ad.AnnData, ref: ad.AnnData):
    seen: dict[str, Cells] = {}

    class Spy(Method):
        needs = ("counts",)

        def fit(self, **roles: Any) -> Self:
            seen.update(roles)
            return self

        def predict(self, *, cells: Cells) -> dict[str, Any]:
            return {"prediction": np.ones((cells.n_obs, 2))}

    genes = [adata.var_names[3], "gene_1"]
    assert "gene_1" not in adata.var_names or genes[0] != "gene_1"
    predicted(adata, ref, Spy, genes=genes)
    common = [name for name in ref.var_names if name in adata.var_names and name not in genes]
    cells, known = seen["cells"], seen["ref"]
    target: Any = known.target
    assert cells.var_names.tolist() == known.var_names.tolist() == common
    np.testing.assert_array_equal(cells.counts.toarray(), adata[:, common].X.toarray())
    np.testing.assert_array_equal(cells.depth, adata[:, common].X.sum(axis=1).A1)
    assert target.var_names.tolist() == genes and known.labels is None and cells.target is None
    np.testing.assert_allclose(target.x.toarray(), logs(ref)[genes], rtol=1e-5)
    np.testing.assert_array_equal(target.counts.toarray(), ref[:, genes].X.toarray())
    part = known.part(np.array([5, 2]))
    np.testing.assert_array_equal(part.target.counts.toarray(), ref[[5, 2]][:, genes].X.toarray())


# ------------------------------------------------------------------ fitted methods, kinds of input, files


@every_method
def test_a_fitted_method_answers_for_other_cells_and_reads_as_little_of_them(
    adata: ad.AnnData, ref: ad.AnnData, method: str, tmp_path: Any, monkeypatch: Any
):
    from scdance._core import call as tool

    made: list[Method] = []
    solve = tool.solve
    monkeypatch.setattr(tool, "solve", lambda model, **roles: (made.append(model), solve(model, **roles))[1])
    genes = list(adata.var_names[:5])
    one = predicted(adata, ref, method, genes=genes)
    made[0].save(tmp_path / "model")
    np.testing.assert_array_equal(one, predicted(adata.copy(), None, tmp_path / "model"))
    # of a method for which a cell is what it is among others, all cells
    alone = "predicts_a_cell_on_its_own" not in made[0].exempt
    noisy = adata[: 50 if alone else None].copy()
    x = noisy.X.toarray()
    x[:, :5] = 77
    noisy.X = x
    np.testing.assert_allclose(one[: noisy.n_obs], predicted(noisy, None, made[0]), atol=1e-5)
    for typed in ({"ref": ref}, {"genes": genes}):
        with pytest.raises(UnknownParameterError, match=f"{next(iter(typed))} cannot be set"):
            sd.tl.predict_genes(adata, method=made[0], **typed)
    with pytest.raises(InputError, match="learns from the reference and the cells together"):
        sd.fit(TASK, ref, method)


@every_method
def test_dense_backed_and_views_give_the_same(adata: ad.AnnData, ref: ad.AnnData, method: str, tmp_path: Any):
    genes = list(adata.var_names[:5])
    one = predicted(adata.copy(), ref, method, genes=genes)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    ref.write_h5ad(tmp_path / "ref.h5ad")
    backed = [ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("cells", "ref")]
    np.testing.assert_allclose(predicted(*backed, method, genes=genes), one, atol=1e-5)
    dense = adata.copy()
    dense.X = adata.X.toarray().astype(np.float64)
    np.testing.assert_allclose(predicted(dense, ref, method, genes=genes), one, atol=1e-5)
    np.testing.assert_allclose(predicted(adata[:], ref[:], method, genes=genes), one, atol=1e-5)
    adata.layers["raw"], adata.X = adata.X, adata.X * 0
    np.testing.assert_allclose(predicted(adata, ref, method, genes=genes, layer="raw"), one, atol=1e-5)


def test_log_normalised_values_are_taken_as_they_are(adata: ad.AnnData, ref: ad.AnnData):
    import scanpy as sc

    for each in (adata, ref):
        sc.pp.normalize_total(each, target_sum=1e4)
        sc.pp.log1p(each)
    found = predicted(adata, ref, "ref_mean", genes=list(adata.var_names[:5]))
    np.testing.assert_allclose(found, np.tile(ref[:, adata.var_names[:5]].X.mean(axis=0), (120, 1)), rtol=1e-5)
    table = sd.metrics.score_genes(adata, key="mine")
    truth = adata[:, "gene_0" if "gene_0" in table.index else table.index[0]]
    off = truth.X.toarray().ravel() - found[truth.var_names[0]]
    assert table.loc[truth.var_names[0], "rmse"] == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-5)


def test_a_spatialdata_gets_the_result_in_its_table(adata: ad.AnnData, ref: ad.AnnData):
    import spatialdata as spd

    one = predicted(adata.copy(), ref)
    sdata = spd.SpatialData(tables={"cells": adata})
    copied = sd.tl.predict_genes(sdata, ref, key_added="mine", copy=True)
    np.testing.assert_array_equal(copied.tables["cells"].obsm["mine"], one)
    assert "mine" not in adata.obsm
    sd.tl.predict_genes(sdata, ref, key_added="mine")
    np.testing.assert_array_equal(sd.get.genes(sdata.tables["cells"], "mine").X, one)


def test_the_result_is_read_back_as_it_was_written(adata: ad.AnnData, ref: ad.AnnData, tmp_path: Any):
    genes = list(adata.var_names[:5])
    found = predicted(adata, ref, genes=genes)
    score = sd.metrics.score(adata, TASK, key="mine")
    adata.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(sd.get.genes(back, "mine").to_df(), found)
    pd.testing.assert_frame_equal(sd.metrics.score(back, TASK, key="mine"), score)
    as_object = sd.get.genes(back, "mine")
    np.testing.assert_array_equal(as_object.obsm["spatial"], adata.obsm["spatial"])
    assert as_object.X.dtype == np.float32 and as_object.obs.equals(back.obs)
    with pytest.raises(MissingKeyError, match=r"no run 'mien' .*there are: mine\. Did you mean 'mine'"):
        sd.get.genes(back, "mien")


# ------------------------------------------------------------------ cells without evidence, errors


def test_cells_of_the_reference_without_common_genes_are_left_out(adata: ad.AnnData, ref: ad.AnnData):
    x = ref.X.toarray()
    x[:4, ref.var_names.isin(adata.var_names)] = 0
    bare = ad.AnnData(sp.csr_matrix(x), ref.obs, ref.var)
    with pytest.warns(
        UserWarning, match=r"4 of 120 cells have no counts in `ref\.X` of the genes that both sides have"
    ):
        found = predicted(adata, bare, "ref_mean")
    np.testing.assert_allclose(found.iloc[0], logs(bare).iloc[4:][list(found)].mean(), rtol=1e-5)


WRONG: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
    "no reference": ({"ref": None}, InputError, ["ref=", "more genes"]),
    "a table": ({"ref": pd.DataFrame()}, WrongTypeError, ["Expected AnnData, found DataFrame"]),
    "an unknown gene": ({"genes": ["gene_1", "gen_2"]}, InputError, ["1 of the 2", "gen_2", "Did you mean 'gene_2'"]),
    "no gene": ({"genes": []}, InputError, ["genes must be names", "[]"]),
    "numbers": ({"genes": [1, 2]}, WrongTypeError, ["genes must be names", "[1, 2]"]),
    "a number": ({"genes": 3}, WrongTypeError, ["genes must be names"]),
    "a gene twice": ({"genes": ["gene_1", "gene_2", "gene_1"]}, InputError, ["gene_1 more than once"]),
    "no such layer": ({"layer": "row"}, MissingKeyError, ["layer="]),
    "no such layer of the reference": ({"ref_layer": "row"}, MissingKeyError, ["ref_layer="]),
    "a slot that is taken": ({"key": "spatial"}, InputError, ["obsm['spatial']", "key_added="]),
    "slices that are not read": ({"library_key": "cell_type"}, InputError, ["library_key="]),
}


@pytest.mark.parametrize(("typed", "error", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_and_nothing_is_changed(
    adata: ad.AnnData, ref: ad.AnnData, typed: dict[str, Any], error: Any, says: list[str]
):
    before, theirs = adata.copy(), ref.copy()
    with pytest.raises(error) as found:
        predicted(adata, **{"ref": ref, **typed})
    assert isinstance(found.value, ScdanceError)
    for words in says:
        assert words in str(found.value)
    assert list(adata.obsm) == list(before.obsm) and adata.uns == before.uns
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert (adata.X != before.X).nnz == 0 and (ref.X != theirs.X).nnz == 0


def test_sides_without_common_genes_are_refused(adata: ad.AnnData, ref: ad.AnnData):
    ref.var_names = ref.var_names.str.upper()
    with pytest.raises(InputError, match="agree but for upper and lower case"):
        predicted(adata, ref)
    ref.var_names = [f"other_{i}" for i in range(ref.n_vars)]
    with pytest.raises(InputError, match="0 are the same"):
        predicted(adata, ref)


def test_hiding_all_common_genes_is_refused(adata: ad.AnnData, ref: ad.AnnData):
    with pytest.raises(InputError, match="0 are the same"):
        predicted(adata, ref, genes=list(adata.var_names))


def test_a_panel_with_all_genes_is_told_to_name_some(adata: ad.AnnData, ref: ad.AnnData):
    same = ref[:, adata.var_names].copy()
    with pytest.raises(InputError, match=r"all 80 genes of the reference.*genes=\[…\]"):
        predicted(adata, same)
    assert list(predicted(adata, same, genes="gene_3" if "gene_3" in adata.var_names else adata.var_names[0]))


def test_a_result_too_large_for_memory_is_refused_before_the_fit(adata: ad.AnnData, ref: ad.AnnData, monkeypatch: Any):
    monkeypatch.setattr(sd.settings, "max_result_gb", 1e-6)
    with pytest.raises(InputError, match=r"120 cells × 20 genes.*some 2 at most, as `genes="):
        predicted(adata, ref)
